"""A study that nobody ran: predictions with planted effects, summaries, and images of them."""

import csv
import itertools
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
from page_reader import read
from PIL import Image

from convnext_ablation.study.designs.contrasts import Contrast
from convnext_ablation.study.report.charts import charts, write_charts
from convnext_ablation.study.report.contents import Contents
from convnext_ablation.study.report.evidence import Evidence, FinishedRun, NetworkResult
from convnext_ablation.study.report.findings import StudyFacts, compare
from convnext_ablation.study.report.html_page import write_page
from convnext_ablation.study.report.table_files import write_tables
from convnext_ablation.study.report.whole import Report, report_of
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
    warnings=["WARNING: Pre-training has seen 22 test images."],
)


def fake_study(folder, networks=3, seeds=3, classes=4, images=60, epochs=3):
    """The contents of a report: each network is right more often than the one before.

    Class 0 is taken for class 1 in a third of its images by the first network, and by no other.
    """
    rng = np.random.default_rng(0)
    names = [f"bird {number} <b>" for number in range(classes)]
    targets = np.arange(images) % classes
    ids = np.array([f"{names[target]}/{number:05d}.png" for number, target in enumerate(targets)])
    hard = rng.random(images)
    runs, results = [], []
    for network in range(networks):
        key, found = f"model_{network}", []
        for seed in range(seeds):
            wrong = hard + rng.normal(0, 0.05, images) > 0.6 + 0.1 * network
            predicted = np.where(wrong, (targets + 2) % classes, targets)
            if network == 0:
                predicted[: images : 3 * classes] = 1
            run = folder / "runs" / f"{key}-seed{seed}-0123abcd"
            result = _write_run(run, seed, epochs, network)
            found.append(FinishedRun(key, seed, run, predicted, targets, result))
        runs += found
        results.append(NetworkResult(key, f"Model {network}", f"change {network}", found))
    contrasts = [_after(*pair) for pair in itertools.pairwise(results)]
    evidence = Evidence(runs, ids, names, folder / "data" / "test")
    return Contents(folder / "report", compare(results, contrasts, FACTS.classes), FACTS, evidence)


def _write_run(run, seed, epochs, network):
    run.mkdir(parents=True)
    history = [
        Epoch(epoch, 2.0 / (epoch + 1), 1.0, 30.0 + 10 * epoch + 5 * network + seed, 90.0, 0.01)
        for epoch in range(epochs)
    ]
    write_summary(run / "summary.csv", history, True)
    return {
        "identity": "0123abcd" * 8,
        "best_epoch": epochs - 1,
        "val_top1_percent": 50.0 + seed,
        "versions": {"torch": "2.9.0"},
        "learning_rate": 0.01,
        "parameters": 1_000_000 + network,
        "gmacs": 0.5 - 0.1 * network,
        "train_images_per_second": 100.0 * (network + 1),
        "train_seconds": 60.0,
    }


def _after(one, two):
    return Contrast(
        name=f"{two.name}-{one.name}",
        label=f"{two.label} after {one.label}",
        weights={two.name: 1.0, one.name: -1.0},
        kind="difference",
        baseline=one.name,
    )


def write_images(evidence):
    """Makes files of the test images, 40 x 30 px."""
    rng = np.random.default_rng(1)
    for name in evidence.ids:
        path = evidence.data_folder / str(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(path)


def write_all(contents):
    """Writes a whole report."""
    write_tables(report_of(contents))
    write_page(report_of(contents), write_charts(report_of(contents)))


def again(contents, folder, **changes):
    """Writes the page anew into a folder, with parts of its contents changed; what it has, and its source."""
    folder.mkdir(exist_ok=True)
    changed = report_of(replace(contents, folder=folder, **changes))
    return read(write_page(changed, charts(changed)))


def several_sets(contents, folder):
    """The report of an experiment: the study as its general set, and two sets that start from that."""
    sets = [replace(contents, name="characters", data="characters", fingerprint="0")]
    for name in ("cub200", "stanford-dogs"):
        rows = contents.findings.rows
        networks = [
            replace(
                row.network,
                runs=[replace(run, pretraining_seed=run.seed, seed=0) for run in row.network.runs],
            )
            for row in rows
        ]
        asked = [effect.contrast for effect in contents.findings.effects]
        sets.append(
            replace(
                contents,
                folder=folder / name,
                findings=compare(networks, asked, FACTS.classes),
                name=name,
                data=name,
                fingerprint=name,
                start="characters",
            )
        )
    return Report(folder, sets, asked, FACTS.command)


def csv_lines(contents, name):
    """The lines of a table of a report."""
    with open(contents.folder / f"{name}.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def svg_texts(path):
    """The texts of a figure."""
    return [" ".join(text.itertext()) for text in ET.parse(path).iter("{http://www.w3.org/2000/svg}text")]
