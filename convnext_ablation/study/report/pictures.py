"""What the page shows of the test images themselves: confusions that become rarer, and attention maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from convnext_ablation.console import track
from convnext_ablation.errors import UserError
from convnext_ablation.page import picture_uri, uri_of
from convnext_ablation.study.report.answer import percent_points, verdict
from convnext_ablation.study.report.classes import Confusion, examples, surest
from convnext_ablation.study.report.contents import Contents
from convnext_ablation.study.report.evidence import Evidence, FinishedRun
from convnext_ablation.study.report.findings import Effect

_SIDE = 160  # pixels of a picture
_CONTRASTS, _CONFUSIONS, _EXAMPLES = 4, 3, 2  # of the pictures shown
_MAPPED_IMAGES, _MAPPED_NETWORKS = 4, 8
_DOUBTS = {"unclear": ", not significant", "untested": ", not tested"}


class Picture(NamedTuple):
    """A picture of the page; its source, a data URI, is empty if the image isn't there."""

    source: str
    alt: str
    caption: str
    name: str = ""


class Change(NamedTuple):
    """The confusions that become rarer with one effect, whose two sides are `worse` and `better`.

    Each pair is a confusion, its test images a run on the worse and on the better side, and pictures of it.
    """

    heading: str
    worse: str
    better: str
    pairs: list[tuple[Confusion, float, float, list[Picture]]]


class AttentionMaps(NamedTuple):
    """Attention maps of networks side by side, by image, and remarks on what is missing."""

    remarks: list[str]
    images: dict[str, list[Picture]]


def confusion_pictures(contents: Contents) -> list[Change]:
    """The confusions that become rarer with the most significant effects, with images of them."""
    chosen = surest(contents.findings.effects, contents.evidence, _CONTRASTS)
    return [_change(effect, contents.confusions, contents.evidence) for effect in chosen]


def _change(effect: Effect, confusions: Sequence[Confusion], evidence: Evidence) -> Change:
    raises = effect.difference.estimate > 0
    name = effect.contrast.name
    gone = [each for each in confusions if each.contrast == name and (each.change < 0) == raises]
    gone.sort(key=lambda confusion: -abs(confusion.change))
    worse, better = ("without it", "with it") if raises else ("with it", "without it")
    pairs = []
    for confusion in gone[:_CONFUSIONS]:
        sides = (confusion.images_without, confusion.images_with)
        numbers = (confusion.class_number, confusion.taken_for_number)
        pictures = [
            _picture(
                evidence,
                example.image,
                alt=f"{confusion.class_name}, taken for {confusion.taken_for}: ",
                caption=f"confused in {example.confused:.0%} of runs {worse}, right in {example.right:.0%} "
                f"{better}",
            )
            for example in examples(effect.contrast, evidence, *numbers, raises, _EXAMPLES)
        ]
        pairs.append((confusion, max(sides), min(sides), pictures))
    doubt = _DOUBTS.get(verdict(effect.difference), "")
    heading = f"{effect.label}: {percent_points(effect.difference.estimate)} points{doubt}"
    return Change(heading, worse, better, pairs)


def _picture(evidence: Evidence, index: int, alt: str, caption: str) -> Picture:
    path, name = evidence.image(index), str(evidence.ids[index])
    source = picture_uri(path, _SIDE) if path is not None else ""
    return Picture(source, alt + name, caption, name)


def attention_maps(contents: Contents) -> AttentionMaps:
    """Attention maps of networks side by side on the same images, or a line that says why there are none."""
    evidence, rows = contents.evidence, contents.findings.rows
    indices = [index for index in disagreed(evidence, _MAPPED_IMAGES) if evidence.image(index) is not None]
    if not indices:
        remark = "Not drawn: the test images are not at hand; the data folder has moved or is gone."
        return AttentionMaps([remark], {})
    from convnext_ablation.training.checkpoints import BEST  # with torch, which nothing else here needs

    first = {run.network: run for run in reversed(evidence.runs) if (run.folder / BEST).is_file()}
    networks = [(row.label, first[row.network.name]) for row in rows if row.network.name in first]
    chosen = networks[:: -(-len(networks) // _MAPPED_NETWORKS) or 1]
    gone = [row.label for row in rows if row.network.name not in first] if networks else ["any network"]
    reasons = [f"there is no {BEST} in the runs of {', '.join(gone)}"] if gone else []
    layers, maps = set(), []
    for label, run in track(chosen, "attention maps", len(chosen), "networks"):
        title = f"{label}, seed {run.seed}"
        try:
            layer, pictures = _maps_of(title, run, indices, evidence)
        except UserError as error:
            reasons.append(f"{label}: {error}")
        else:
            layers.add(layer)
            maps.append(pictures)
    remarks = [f"Not drawn: {'; '.join(reasons)}."] if reasons else []
    if len(chosen) < len(networks):
        remarks.append(f"{len(chosen)} of {len(networks)} networks are shown.")
    if not maps:
        return AttentionMaps(remarks, {})
    remarks.append(f"Maps are of: {'; '.join(sorted(layers))}.")
    shown = {}
    for index, *mapped in zip(indices, *maps, strict=True):
        original = _picture(evidence, index, "Test image ", "the image")
        shown[f"{evidence.class_name(int(evidence.targets[index]))}: {original.name}"] = [original, *mapped]
    return AttentionMaps(remarks, shown)


def disagreed(evidence: Evidence, most: int) -> list[int]:
    """Test images that the networks disagree on most, of different classes: half of the runs are right."""
    right = np.mean([run.correct for run in evidence.runs], axis=0)
    chosen: dict[int, int] = {}
    for index in np.argsort(np.abs(right - 0.5), kind="stable"):
        chosen.setdefault(int(evidence.targets[index]), int(index))
    return list(chosen.values())[:most]


def _maps_of(
    title: str, run: FinishedRun, indices: Sequence[int], evidence: Evidence
) -> tuple[str, list[Picture]]:
    """What the maps of a run are of, and each with its picture."""
    from convnext_ablation.study.report.attention import attention

    images = [path for index in indices if (path := evidence.image(index)) is not None]
    found = attention(run.folder, images, [int(evidence.targets[index]) for index in indices])
    pictures = []
    for each in found.maps:
        nothing = "" if each.heat.any() else "; nothing speaks for the true class"
        caption = f"{title}: says {evidence.class_name(each.predicted)} ({each.probability:.0%}){nothing}"
        pictures.append(Picture(uri_of(each.picture), f"Attention map: {caption}", caption))
    return f"{found.layer}, {found.grid[0]}x{found.grid[1]} positions", pictures
