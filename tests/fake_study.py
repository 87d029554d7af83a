"""A study that nobody ran: predictions with planted effects, summaries, and images of them."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from page_reader import read
from PIL import Image

from convnext_ablation.study.designs.contrasts import Contrast
from convnext_ablation.study.report.figures import draw_cost, write_figure
from convnext_ablation.study.report.findings import Effect, Row, StudyFacts
from convnext_ablation.study.report.page import PageExtras, PageRun, write_page
from convnext_ablation.study.report.tables import network_table
from convnext_ablation.study.stats.effects import Difference, accuracy
from convnext_ablation.training.history import Epoch, write_summary

FACTS = StudyFacts(
    title="Planted effects <on> shades",
    design="stages",
    data_name="shades",
    image_size=32,
    test_images=60,
    classes=4,
    precision="float32",
    threads=1,
    epochs=3,
    machine="a laptop",
    versions={"python": "3.12.1", "torch": "2.9.0"},
    command="convnext-ablation study --design stages --data 'a & b'",
    notes=("Kernels are aliased.",),
)


@dataclass
class FakeStudy:
    rows: list[Row]
    effects: list[Effect]
    facts: StudyFacts
    extras: PageExtras
    folder: Path | None = None
    paths: list[Path] = field(default_factory=list)


def fake_study(folder, networks=3, seeds=3, classes=4, images=60, epochs=3):
    """Makes a study below a folder: each network is right more often than the one before.

    Class 0 is taken for class 1 in a third of its images by the first network, and by no other.
    """
    rng = np.random.default_rng(0)
    names = [f"bird {number} <b>" for number in range(classes)]
    targets = np.arange(images) % classes
    ids = np.array([f"{names[target]}/{number:05d}.png" for number, target in enumerate(targets)])
    hard = rng.random(images)
    runs, rows = [], []
    for network in range(networks):
        key, found = f"model_{network}", []
        for seed in range(seeds):
            wrong = hard + rng.normal(0, 0.05, images) > 0.6 + 0.1 * network
            predicted = np.where(wrong, (targets + 2) % classes, targets)
            if network == 0:
                predicted[: images : 3 * classes] = 1
            run = folder / "runs" / f"{key}-seed{seed}-0123abcd"
            _write_run(run, seed, epochs, network)
            found.append(PageRun(key, seed, run, predicted))
        runs += found
        rows.append(_row(network, key, [run.predicted == targets for run in found]))
    extras = PageExtras(
        answer="Model 1 is better & Model 2 is best.",
        caveats=["Nobody ran this."],
        runs=runs,
        ids=ids,
        targets=targets,
        classes=names,
        data_folder=folder / "data",
        warnings=["Pre-training has seen 22 test images."],
    )
    return FakeStudy(rows, [_effect(rows, number) for number in range(1, networks)], FACTS, extras)


def _write_run(run, seed, epochs, network):
    run.mkdir(parents=True)
    history = [
        Epoch(epoch, 2.0 / (epoch + 1), 1.0, 30.0 + 10 * epoch + 5 * network + seed, 90.0, 0.01)
        for epoch in range(epochs)
    ]
    write_summary(run / "summary.csv", history, True)
    result = {"identity": "0123abcd" * 8, "best_epoch": epochs - 1, "val_top1": 50.0 + seed}
    (run / "result.json").write_text(json.dumps({**result, "versions": {"torch": "2.9.0"}}))


def _row(network, key, correct):
    return Row(
        name=key,
        label=f"Model {network}",
        adds=f"change {network}",
        seeds=len(correct),
        top1=accuracy(np.array(correct)),
        baseline="",
        follows=network > 0,
        difference=None,
        learning_rate=0.01,
        parameters=1_000_000 + network,
        gmacs=0.5 - 0.1 * network,
        images_per_second=100.0 * (network + 1),
        seconds=60.0,
    )


def _effect(rows, number):
    one, two = rows[number - 1 : number + 1]
    estimate = two.top1.estimate - one.top1.estimate
    contrast = Contrast(
        name=f"{two.name}-{one.name}",
        label=f"{two.label} after {one.label}",
        weights={two.name: 1.0, one.name: -1.0},
        kind="difference",
        baseline=one.name,
    )
    p = 0.01 * number
    difference = Difference(estimate, estimate - 0.05, estimate + 0.04, p, 2 * p, 0.99)
    return Effect(contrast, difference, one.seeds, one.seeds)


def write_images(extras, indices=None):
    """Makes files of the test images, 40 x 30 px."""
    rng = np.random.default_rng(1)
    for index in range(len(extras.ids)) if indices is None else indices:
        path = extras.data_folder / "test" / str(extras.ids[index])
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path)


def with_page(folder):
    """A study and its page: `folder` is the report's, `paths` are its files."""
    made = fake_study(folder)
    write_images(made.extras)
    roadmap = write_figure(lambda: draw_cost(network_table(made.rows)), folder, "roadmap")[0]
    made.extras = replace(made.extras, roadmap=roadmap)
    made.folder = folder / "report"
    made.paths = write_page(made.folder, made.rows, made.effects, made.facts, made.extras)
    return made


def again(study, folder, **changes):
    """Writes the page anew, with some of what it is made from changed; what it has, and its source."""
    given = {"rows": study.rows, "effects": study.effects, "facts": study.facts, "extras": study.extras}
    return read(write_page(folder, **{**given, **changes})[0])


def csv_lines(study, name):
    """The lines of a table of a study's page."""
    with open(study.folder / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
