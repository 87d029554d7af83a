"""What the page shows of the test images themselves: confusions that change, and attention maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from convnext_ablation.console import track
from convnext_ablation.data.pictures import picture_uri
from convnext_ablation.errors import UserError
from convnext_ablation.page import uri_of
from convnext_ablation.study.designs.contrasts import Contrast
from convnext_ablation.study.report.answer import percent_points
from convnext_ablation.study.report.classes import Confusion, examples, surest
from convnext_ablation.study.report.contents import Contents
from convnext_ablation.study.report.evidence import Evidence, FinishedRun
from convnext_ablation.study.report.findings import Effect

_SIDE = 160  # pixels of a picture
_CONTRASTS, _CONFUSIONS, _EXAMPLES = 4, 3, 2  # of the pictures shown
_MAPPED_IMAGES, _MAPPED_NETWORKS = 4, 8


class Picture(NamedTuple):
    """A picture of the page; its source, a data URI, is empty if the image isn't there."""

    source: str
    alt: str
    caption: str


class Change(NamedTuple):
    """The confusions that change most with one effect, each with pictures of it."""

    heading: str
    pairs: list[tuple[Confusion, list[Picture]]]


class AttentionMaps(NamedTuple):
    """Attention maps of networks side by side, by image, and remarks on what is missing."""

    remarks: list[str]
    images: dict[str, list[Picture]]


def confusion_pictures(contents: Contents) -> list[Change]:
    """The confusions that change most with the most significant effects, with images of them."""
    chosen = surest(contents.findings.effects, contents.evidence, _CONTRASTS)
    return [_change(effect, contents.confusions, contents.evidence) for effect in chosen]


def _change(effect: Effect, confusions: Sequence[Confusion], evidence: Evidence) -> Change:
    mine = [each for each in confusions if each.contrast == effect.contrast.name]
    mine.sort(key=lambda confusion: -abs(confusion.images_change))
    doubt = "" if effect.verdict in ("raised", "lowered") else f", {effect.finding}"
    heading = f"{effect.label}: {percent_points(effect.difference.estimate)} points{doubt}"
    shown = mine[:_CONFUSIONS]
    return Change(heading, [(each, _examples(effect.contrast, each, evidence)) for each in shown])


def _examples(contrast: Contrast, confusion: Confusion, evidence: Evidence) -> list[Picture]:
    worse, better = ("with it", "without it") if confusion.images_change > 0 else ("without it", "with it")
    alt = f"{confusion.class_name}, taken for {confusion.taken_for}: "
    pictures = []
    for image, confused, right in examples(contrast, evidence, confusion, _EXAMPLES):
        caption = f"confused in {confused:.0%} of runs {worse}, right in {right:.0%} {better}"
        pictures.append(_picture(evidence, image, alt, f"{evidence.ids[image]}: {caption}"))
    return pictures


def _picture(evidence: Evidence, index: int, alt: str, caption: str) -> Picture:
    path = evidence.image(index)
    source = picture_uri(path, _SIDE) if path is not None else ""
    return Picture(source, f"{alt}{evidence.ids[index]}", caption)


def attention_maps(contents: Contents) -> AttentionMaps:
    """Attention maps of networks side by side on the same images, or a line that says why there are none."""
    evidence, rows = contents.evidence, contents.findings.rows
    indices = [index for index in disagreed(evidence, _MAPPED_IMAGES) if evidence.image(index) is not None]
    if not indices:
        remark = "Not drawn: the test images are not at hand; the data folder has moved or is gone."
        return AttentionMaps([remark], {})
    chosen = rows[:: -(-len(rows) // _MAPPED_NETWORKS)]
    layers, maps, reasons = set(), [], []
    for row in track(chosen, "attention maps", len(chosen), "networks"):
        run = row.network.runs[0]
        try:
            layer, pictures = _maps_of(f"{row.label}, seed {run.seed}", run, indices, evidence)
        except UserError as error:
            reasons.append(f"{row.label}: {error}".replace(f"{run.folder.parent}/", ""))
        else:
            layers.add(layer)
            maps.append(pictures)
    remarks = [f"Not drawn: {'; '.join(reasons)}."] if reasons else []
    if len(chosen) < len(rows):
        remarks.append(f"{len(chosen)} of {len(rows)} networks are shown.")
    if not maps:
        return AttentionMaps(remarks, {})
    remarks.append(f"Maps are of: {'; '.join(sorted(layers))}.")
    shown = {}
    for index, *mapped in zip(indices, *maps, strict=True):
        original = _picture(evidence, index, "Test image ", "the image")
        name = evidence.class_name(int(evidence.targets[index]))
        shown[f"{name}: {evidence.ids[index]}"] = [original, *mapped]
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
    from convnext_ablation.study.report.attention import attention  # with torch, which nothing else needs

    images = [path for index in indices if (path := evidence.image(index)) is not None]
    found = attention(run.folder, images, [int(evidence.targets[index]) for index in indices])
    pictures = []
    for each in found.maps:
        nothing = "" if each.heat.any() else "; nothing speaks for the true class"
        caption = f"{title}: says {evidence.class_name(each.predicted)} ({each.probability:.0%}){nothing}"
        pictures.append(Picture(uri_of(each.picture), f"Attention map: {caption}", caption))
    return f"{found.layer}, {found.grid[0]}x{found.grid[1]} positions", pictures
