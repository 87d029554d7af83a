"""What the page shows of the test images themselves: confusions that go, and where the networks look."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from convnext_ablation.errors import UserError
from convnext_ablation.study.report.answer import verdict
from convnext_ablation.study.report.classes import Confusion, Example, examples, telling
from convnext_ablation.study.report.figures import percent_points
from convnext_ablation.study.report.findings import Effect, Row
from convnext_ablation.study.report.inputs import PageExtras, PageRun
from convnext_ablation.webpage import picture_uri, region, uri_of

__all__ = ["attention_part", "confusion_part", "disagreed"]

_SIDE = 160  # pixels of a picture
_CONTRASTS, _CONFUSIONS, _EXAMPLES = 4, 3, 2  # of the pictures shown
_MAPPED_IMAGES, _MAPPED_NETWORKS = 4, 8
_DOUBTS = {"unclear": ", can't be told from none", "untested": ", not tested"}


def confusion_part(effects: Sequence[Effect], confusions: Sequence[Confusion], extras: PageExtras) -> str:
    """The confusions that change with the surest effects, with images of those that go."""
    parts = []
    for effect in telling(effects, extras, _CONTRASTS):
        raises = effect.difference.estimate > 0
        gone = [
            confusion
            for confusion in confusions
            if confusion.contrast == effect.contrast.name and (confusion.change < 0) == raises
        ]
        gone.sort(key=lambda confusion: -abs(confusion.change))
        parts.append(_effect_part(effect, gone[:_CONFUSIONS], extras, raises))
    return "".join(parts) or "<p>No effect of this study has confusions to show.</p>"


def _effect_part(effect: Effect, confusions: Sequence[Confusion], extras: PageExtras, raises: bool) -> str:
    worse, better = ("without it", "with it") if raises else ("with it", "without it")
    items = []
    for confusion in confusions:
        pair = (confusion.class_number, confusion.taken_for_number)
        found = examples(effect.contrast, extras, *pair, raises, _EXAMPLES)
        before, after = confusion.images_without, confusion.images_with
        if not raises:
            before, after = after, before
        shown = "".join(_picture(each, confusion, extras, worse, better) for each in found)
        items.append(
            f"<li><p><strong>{escape(confusion.class_name)}</strong> taken for "
            f"<strong>{escape(confusion.taken_for)}</strong>: {before:.1f} test images a run {worse}, "
            f"{after:.1f} {better}</p>" + (f'<ul class="pictures">{shown}</ul>' if shown else "") + "</li>"
        )
    doubt = _DOUBTS.get(verdict(effect.difference), "")
    heading = f"{effect.contrast.label}: {percent_points(effect.difference.estimate)} points{doubt}"
    body = f'<ul class="confusions">{"".join(items)}</ul>' if items else f"<p>None is rarer {better}.</p>"
    return f"<h3>{escape(heading)}</h3>{body}"


def _picture(example: Example, confusion: Confusion, extras: PageExtras, worse: str, better: str) -> str:
    name = str(extras.ids[example.index])
    path = extras.image(example.index)
    source = picture_uri(path, _SIDE) if path is not None else ""
    alt = f"{confusion.class_name}, taken for {confusion.taken_for}: {name}"
    picture = f'<img src="{source}" alt="{escape(alt)}">' if source else '<p class="none">image not found</p>'
    shares = f"confused in {example.confused:.0%} of runs {worse}, right in {example.right:.0%} {better}"
    caption = f"<figcaption><code>{escape(name)}</code><br>{shares}</figcaption>"
    return f"<li><figure>{picture}{caption}</figure></li>"


def attention_part(
    rows: Sequence[Row], extras: PageExtras, told: Callable[[str], None] = lambda line: None
) -> str:
    """Attention maps of networks side by side on the same images, or a line that says why there are none.

    Args:
        rows: The networks.
        extras: Has their runs and the images.
        told: Hears of what is being done.
    """
    indices = [index for index in disagreed(extras, _MAPPED_IMAGES) if extras.image(index) is not None]
    if not indices:
        return "<p>Not drawn: the test images are not at hand; the data folder has moved or is gone.</p>"
    from convnext_ablation.training.checkpoints import BEST  # with torch, which nothing else here needs

    kept = [run for run in extras.runs if (run.folder / BEST).is_file()]
    there = {run.network: run for run in reversed(kept)}  # the first run of each network
    networks = [(row.label, there[row.name]) for row in rows if row.name in there]
    chosen = _spread(networks)
    gone = [row.label for row in rows if row.name not in there]
    of = "any network" if not networks else ", ".join(gone)
    reasons = [f"there is no {BEST} in the runs of {of}"] if gone else []
    drawn = []
    for label, run in chosen:
        told(f"attention of {label}")
        try:
            drawn.append(_maps_of(label, run, indices, extras))
        except UserError as error:
            reasons.append(f"{label}: {error}")
    parts = [f"<p>Not drawn: {escape('; '.join(reasons))}.</p>"] if reasons else []
    if len(chosen) < len(networks):
        parts.append(f"<p>{len(chosen)} of {len(networks)} networks are shown.</p>")
    if drawn:
        layers = sorted({layer for layer, _ in drawn})
        parts.append(f"<p>Maps are of: {escape('; '.join(layers))}.</p>")
    for place, index in enumerate(indices if drawn else []):
        label = f"{extras.class_name(extras.targets[index])}: {extras.ids[index]}"
        items = _original(extras, index) + "".join(maps[place] for _, maps in drawn)
        row = region(f"Maps of {label}", f'<ul class="maps">{items}</ul>')
        parts.append(f"<h3>{escape(label)}</h3>{row}")
    return "".join(parts)


def _spread(networks: list[tuple[str, PageRun]]) -> list[tuple[str, PageRun]]:
    """Those that are shown: of many networks, the first, the last and some between."""
    if len(networks) <= _MAPPED_NETWORKS:
        return networks
    places = np.linspace(0, len(networks) - 1, _MAPPED_NETWORKS).round().astype(int)
    return [networks[place] for place in places]


def disagreed(extras: PageExtras, most: int) -> list[int]:
    """Test images that the networks disagree on most, of different classes: half of the runs are right."""
    right = sum(
        ((run.predicted == extras.targets).astype(np.float64) for run in extras.runs),
        np.zeros(len(extras.targets)),
    ) / max(1, len(extras.runs))
    order = np.lexsort((np.arange(len(right)), np.abs(right - 0.5)))
    chosen: dict[int, int] = {}
    for index in order:
        chosen.setdefault(int(extras.targets[index]), int(index))
        if len(chosen) == most:
            break
    return list(chosen.values())


def _maps_of(label: str, run: PageRun, indices: Sequence[int], extras: PageExtras) -> tuple[str, list[str]]:
    """What the maps of a run are of, and each with its picture."""
    from convnext_ablation.study.report.attention import attention

    images = [path for index in indices if (path := extras.image(index)) is not None]
    targets = [int(extras.targets[index]) for index in indices]
    found = attention(run.folder, images, targets)
    height, width = found.grid
    items = []
    for map_, target in zip(found.maps, targets, strict=True):
        says = f"{extras.class_name(map_.predicted)} ({map_.probability:.0%})"
        true = extras.class_name(target)
        where = f"most speaks for {true} at the {map_.place}" if map_.place else f"nothing speaks for {true}"
        caption = f"{label}, seed {run.seed}: says {says}; {where}"
        items.append(
            f'<li><figure><img src="{uri_of(map_.picture)}" alt="Attention map: {escape(caption)}">'
            f"<figcaption>{escape(caption)}</figcaption></figure></li>"
        )
    return f"{found.layer}, {height}x{width} positions", items


def _original(extras: PageExtras, index: int) -> str:
    path = extras.image(index)
    source = picture_uri(path, _SIDE) if path is not None else ""
    name = escape(str(extras.ids[index]))
    picture = f'<img src="{source}" alt="Test image {name}">' if source else '<p class="none">no picture</p>'
    return f"<li><figure>{picture}<figcaption>the image</figcaption></figure></li>"
