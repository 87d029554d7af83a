"""The page: what was found, figures with their numbers and caveats, and where each figure comes from."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources

from convnext_ablation.study.report.answer import p_text
from convnext_ablation.study.report.classes import ClassGain, Confusion
from convnext_ablation.study.report.figures import percent_points
from convnext_ablation.study.report.findings import StudyFacts
from convnext_ablation.study.report.inline import colours_of, inlined, palette
from convnext_ablation.study.report.inputs import PageExtras
from convnext_ablation.study.report.parts import Column, details, figure, known, long_table, sortable
from convnext_ablation.study.report.tables import CurveLine, EffectLine, NetworkLine, RunLine
from convnext_ablation.study.wording import counted, seeds_text
from convnext_ablation.webpage import bullets, document, section

__all__ = ["Contents", "Drawing", "html"]


@dataclass(frozen=True)
class Drawing:
    """A figure of the page.

    Attributes:
        svg: Text of its file.
        title: What it shows.
        caption: How to read it.
    """

    svg: str
    title: str
    caption: str


@dataclass(frozen=True)
class Contents:
    """What the page is made of.

    Attributes:
        drawings: The figures, by name of their file: roadmap, effects, cost, curves, classes.
        pictures: HTML of the confusions with images, and of the attention maps.
        warnings: What stands beneath each figure of accuracy.
        missing: Remarks on what could not be shown, by name of the figure.
    """

    facts: StudyFacts
    extras: PageExtras
    networks: Sequence[NetworkLine]
    effects: Sequence[EffectLine]
    curves: Sequence[CurveLine]
    classes: Sequence[ClassGain]
    confusions: Sequence[Confusion]
    runs: Sequence[RunLine]
    drawings: dict[str, Drawing]
    pictures: dict[str, str]
    warnings: Sequence[str]
    missing: dict[str, str]


def html(contents: Contents) -> str:
    """Writes the whole page."""
    facts = contents.facts
    script = _resource("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # the browser itself sees to it that nothing is fetched, and that no other script runs
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    sections = [text for text in _sections(contents) if text]
    body = [
        f"<header><h1>{escape(facts.title)}</h1>",
        f"<nav aria-label='Contents'><ul>{''.join(map(_link, sections))}</ul></nav></header>",
        '<main id="main">',
        *(section(anchor, heading, *parts) for anchor, heading, *parts in sections),
        "</main>",
        '<div id="said" class="unseen" role="status"></div>',
        f"<script>{script}</script>",
    ]
    style = _resource("page.css") + palette(colours_of(each.svg for each in contents.drawings.values()))
    head = f'\n<meta http-equiv="Content-Security-Policy" content="{policy}">'
    return document(facts.title, body, style, head)


def _resource(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _link(part: Sequence[str]) -> str:
    return f'<li><a href="#{part[0]}">{escape(part[1])}</a></li>'


def _sections(contents: Contents) -> list[tuple[str, ...]]:
    extras = contents.extras
    return [
        (
            "answer",
            "Answer",
            f'<p class="answer">{escape(extras.answer)}</p>',
            "<h3>What these figures don't say</h3>" if extras.caveats else "",
            bullets(extras.caveats),
        ),
        ("networks", "Networks", _drawn(contents, "roadmap"), _networks(contents.networks)),
        ("effects", "Effects", _drawn(contents, "effects"), bullets(contents.facts.notes),
         _effects(contents.effects)),
        ("cost", "Accuracy and cost", _drawn(contents, "cost")),
        ("curves", "Learning curves", _drawn(contents, "curves"), _curves(contents)),
        ("classes", "Classes that gain", _drawn(contents, "classes"), _classes(contents)),
        ("confusions", "Confusions that go", _CONFUSIONS, contents.pictures["confusions"],
         _confusions(contents)),
        ("attention", "Where the networks look", _ATTENTION, contents.pictures["attention"]),
        ("method", "What was done", *_method(contents)),
        ("runs", "Runs", _runs(contents)),
    ]  # fmt: skip


_CONFUSIONS = (
    "<p>Of the surest effects, the pairs of classes that are confused less on the better side, and test "
    "images of them. Shares of runs are weighed as the effect weighs its networks. They are picked for being "
    "clear: they illustrate an effect and prove none.</p>"
)
_ATTENTION = (
    "<p>Grad-CAM (Selvaraju et al., 2017) of the image's true class, by captum: brighter is where the "
    "feature map speaks more for that class. The images are of those that the runs disagree on most. A map "
    "shows where the classifier finds evidence, not why, is as coarse as the feature map, and is of one run "
    "of each network.</p>"
)


def _drawn(contents: Contents, name: str) -> str:
    remark = f"<p>{escape(contents.missing[name])}</p>" if name in contents.missing else ""
    if name not in contents.drawings:
        return remark
    drawing = contents.drawings[name]
    picture = inlined(drawing.svg, name, drawing.title)
    return figure(picture, drawing.title, drawing.caption, contents.warnings) + remark


def _top1(each: NetworkLine) -> str:
    return f"{100 * each.top1:.2f} [{100 * each.top1_low:.2f}, {100 * each.top1_high:.2f}]"


def _networks(table: Sequence[NetworkLine]) -> str:
    columns = [
        Column("network", lambda row: row.label),
        Column("number", lambda row: str(row.number), lambda row: row.number),
        Column("adds", lambda row: row.adds),
        Column("runs", lambda row: str(row.runs), lambda row: row.runs),
        Column("top-1 %", _top1, lambda row: row.top1),
        Column("lr", lambda row: f"{row.learning_rate:g}", lambda row: row.learning_rate),
        Column("M par.", lambda row: f"{row.parameters / 1e6:.2f}", lambda row: row.parameters),
        Column("GMACs", lambda row: f"{row.gmacs:.3f}", lambda row: row.gmacs),
        Column(
            "images/s",
            lambda row: known("{:.4g}".format, row.images_per_second),
            lambda row: row.images_per_second,
        ),
        Column("s a run", lambda row: known("{:.0f}".format, row.seconds), lambda row: row.seconds),
    ]
    return sortable("Networks, with 95 % intervals of top-1 (networks.csv)", columns, table)


def _effects(table: Sequence[EffectLine]) -> str:
    columns = [
        Column("effect", lambda row: row.label),
        Column("kind", lambda row: row.kind if row.primary else f"{row.kind}, secondary"),
        Column("runs", lambda row: str(row.runs), lambda row: row.runs),
        Column("points", lambda row: percent_points(row.estimate), lambda row: row.estimate),
        Column(
            "95 % interval",
            lambda row: f"[{percent_points(row.low)}, {percent_points(row.high)}]",
            lambda row: row.high - row.low,
        ),
        Column("p", lambda row: p_text(row.p_value), lambda row: row.p_value),
        Column("p (Holm)", lambda row: p_text(row.p_holm), lambda row: row.p_holm),
        Column("P(better)", lambda row: known("{:.3f}".format, row.p_better), lambda row: row.p_better),
    ]
    return sortable("Effects on top-1 in percent points (effects.csv)", columns, table)


def _share(value: float) -> str:
    return f"{100 * value:.2f}"


def _curves(contents: Contents) -> str:
    last = {point.network: point for point in contents.curves}
    labels = {each.network: each.label for each in contents.networks}
    columns = [
        Column("network", lambda row: labels.get(row.network, row.network)),
        Column("epochs", lambda row: str(row.epoch + 1), lambda row: row.epoch),
        Column("runs", lambda row: str(row.runs), lambda row: row.runs),
        Column("top-1 %", lambda row: _share(row.top1), lambda row: row.top1),
        Column("least %", lambda row: _share(row.top1_low), lambda row: row.top1_low),
        Column("most %", lambda row: _share(row.top1_high), lambda row: row.top1_high),
        Column("training loss", lambda row: f"{row.train_loss:.4f}", lambda row: row.train_loss),
    ]
    table = sortable("Validation top-1 after the last epoch (curves.csv)", columns, list(last.values()))
    return details("The last epoch in numbers", table) if last else ""


def _classes(contents: Contents) -> str:
    columns = [
        Column("effect", lambda row: row.label),
        Column("class", lambda row: row.class_name),
        Column("images", lambda row: str(row.images), lambda row: row.images),
        Column("points", lambda row: percent_points(row.gain), lambda row: row.gain),
        Column("least", lambda row: known(percent_points, row.low), lambda row: row.low),
        Column("most", lambda row: known(percent_points, row.high), lambda row: row.high),
    ]
    caption = "Gain of each class (classes.csv)"
    return long_table("Each class in numbers", caption, columns, contents.classes)


def _confusions(contents: Contents) -> str:
    columns = [
        Column("effect", lambda row: row.label),
        Column("class", lambda row: row.class_name),
        Column("taken for", lambda row: row.taken_for),
        Column("without", lambda row: f"{row.images_without:.2f}", lambda row: row.images_without),
        Column("with", lambda row: f"{row.images_with:.2f}", lambda row: row.images_with),
        Column("change", lambda row: f"{row.change:+.2f}".replace("-", "−"), lambda row: row.change),
    ]
    caption = "Confusions, test images a run (confusions.csv)"
    return long_table("The confusions that change most", caption, columns, contents.confusions)


def _method(contents: Contents) -> list[str]:
    facts, seeds = contents.facts, sorted({run.seed for run in contents.runs})
    start = "from pre-trained weights" if facts.pretrained else "from scratch"
    lines = [
        f"design: {facts.design}",
        *([f"runs: {facts.origin}"] if facts.origin else []),
        f"data: {facts.data_name}, {facts.classes} classes, {counted(facts.test_images, 'test image')}, "
        f"{facts.image_size} x {facts.image_size} px",
        f"training: {counted(facts.epochs, 'epoch')} {start}, {facts.precision}, {seeds_text(seeds)}",
        f"machine: {facts.machine}, {counted(facts.threads, 'thread')}",
        f"versions: {', '.join(f'{name} {version}' for name, version in facts.versions.items())}",
        "intervals: 95 %, over seeds and test images, paired; p-values adjusted by Holm's method for the "
        "primary effects together",
    ]
    return [bullets(lines), f"<pre><code>{escape(facts.command)}</code></pre>"]


def _runs(contents: Contents) -> str:
    columns = [
        Column("run", lambda row: f"{row.network}, seed {row.seed}"),
        Column("identity", lambda row: row.identity[:12]),
        Column("best epoch", lambda row: row.best_epoch, _epoch_of),
        Column("val top-1 %", lambda row: known(_share, row.val_top1), lambda row: row.val_top1),
        Column("test top-1 %", lambda row: _share(row.test_top1), lambda row: row.test_top1),
        Column("command, from this report's folder", lambda row: row.command),
    ]
    versions = list(dict.fromkeys(row.versions for row in contents.runs))
    if len(versions) == 1:
        remark = f"<p>All with {escape(versions[0])}.</p>" if versions[0] else ""
    else:
        remark = (
            f"<p>With {len(versions)} sets of versions, so they may differ by more than their networks.</p>"
        )
        columns.append(Column("versions", lambda row: row.versions))
    return remark + sortable("Runs (runs.csv)", columns, contents.runs, high=True)


def _epoch_of(row: RunLine) -> float:
    return float(row.best_epoch) if row.best_epoch else float("nan")
