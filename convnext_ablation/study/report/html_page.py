"""The page of a report: one self-contained ``index.html`` that begins with its answer and the effects.

Below them stand networks and cost, learning curves, classes, test images with confusions and attention maps,
how it was done, and from which runs. Of several data sets it links the page of each.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from operator import attrgetter as get
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np

from convnext_ablation.console import track
from convnext_ablation.data.pictures import picture_uri
from convnext_ablation.errors import UserError
from convnext_ablation.files import write_text
from convnext_ablation.page import render, uri_of
from convnext_ablation.study.designs.contrasts import Contrast
from convnext_ablation.study.report.answer import percent_points
from convnext_ablation.study.report.charts import Chart
from convnext_ablation.study.report.contents import Confusion, Contents, examples, surest
from convnext_ablation.study.report.evidence import Evidence, FinishedRun
from convnext_ablation.study.report.figures import chart_library
from convnext_ablation.study.report.findings import Effect, size_text
from convnext_ablation.study.report.table_files import Table, tables_of
from convnext_ablation.study.report.tables import Column
from convnext_ablation.study.report.whole import Report
from convnext_ablation.training.history import BEST

_SECTIONS = {
    "answer": "Answer in full", "networks": "Networks and cost", "effects": "Effects",
    "curves": "Learning curves", "classes": "Per-class change", "confusions": "Confusions",
    "attention": "Attention maps", "phases": "Data sets", "method": "What was done", "runs": "Runs",
}  # fmt: skip
_SIDE = 160  # pixels of a picture
_CONTRASTS, _CONFUSIONS, _EXAMPLES = 4, 3, 2  # of the pictures shown
_MAPPED_IMAGES, _MAPPED_NETWORKS = 4, 8
_RUN_COLUMNS = [
    Column("run", lambda run: f"{run.network}, seed {run.seed}"),
    Column("identity", lambda run: run.identity[:12]),
    Column("best epoch", lambda run: int(run.best_epoch) if run.best_epoch else None, str),
    Column("val top-1 %", get("val_top1_percent"), "{:.2f}".format),
    Column("test top-1 %", get("test_top1_percent"), "{:.2f}".format),
    Column("command, from this report's folder", get("command")),
    Column("versions", get("versions")),
]


def write_page(report: Report, charts: Mapping[str, Chart]) -> Path:
    """Writes the page with these charts."""
    path, (networks, *effects) = report.folder / "index.html", tables_of(report)
    alone = report.alone
    left_out = {"phases"} if alone else {"confusions", "attention"}
    left_out |= {"curves", "classes"} - charts.keys()
    text = render(
        "report.html",
        report=report,
        alone=alone,
        sections={name: heading for name, heading in _SECTIONS.items() if name not in left_out},
        size=size_text(report.size),
        charts=charts,
        specs={name: [chart.wide, chart.narrow] for name, chart in charts.items()},
        library=chart_library() if charts else "",
        networks=networks,
        effects=effects,
        changes=confusion_pictures(alone) if alone else [],
        attention=attention_maps(alone) if alone else None,
        phases=[]
        if alone
        else [(each, _link(each.folder / path.name, report.folder)) for each in report.sets],
        runs=[Table("runs", f"Runs{_on(each, alone)}", _RUN_COLUMNS, each.runs, "") for each in report.sets],
    )
    write_text(path, text)
    return path


def _on(contents: Contents, alone: Contents | None) -> str:
    return "" if alone else f" on {contents.called}"


def _link(page: Path, folder: Path) -> str:
    return quote(Path(os.path.relpath(page, folder)).as_posix())


class Picture(NamedTuple):
    """A picture of the page; its source, a data URI, is empty if the image isn't there."""

    source: str
    alt: str
    caption: str


class Change(NamedTuple):
    """The confusions that change most with one effect, each with pictures of it."""

    heading: str
    significant: bool
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
    significant = effect.verdict in ("raised", "lowered")
    doubt = "" if significant else f", {effect.finding}"
    heading = f"{effect.label}: {percent_points(effect.difference.estimate)} points{doubt}"
    shown = mine[:_CONFUSIONS]
    return Change(
        heading, significant, [(each, _examples(effect.contrast, each, evidence)) for each in shown]
    )


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
        remark = "Not drawn: the test images are not available; the data folder has moved or is gone."
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
    if not (run.folder / BEST).is_file():
        raise UserError(f"{run.folder / BEST}: no such checkpoint")
    from convnext_ablation.study.report.attention import attention  # with torch, which nothing else needs

    images = [path for index in indices if (path := evidence.image(index)) is not None]
    found = attention(run.folder, images, [int(evidence.targets[index]) for index in indices])
    pictures = []
    for each in found.maps:
        nothing = "" if each.heat.any() else "; nothing speaks for the true class"
        caption = f"{title}: says {evidence.class_name(each.predicted)} ({each.probability:.0%}){nothing}"
        pictures.append(Picture(uri_of(each.picture), f"Attention map: {caption}", caption))
    return f"{found.layer}, {found.grid[0]}x{found.grid[1]} positions", pictures
