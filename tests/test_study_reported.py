"""What the 11785-FGVC project reported, beside made-up measurements, most of them missing."""

import csv
import re
from types import SimpleNamespace

import latex
import pytest

from convnext_ablation.study.report.reported import (
    REPORTED,
    TABLES,
    beside_reported,
    key_of,
    write_reported_tables,
)
from convnext_ablation.study.stats.effects import Interval


def measured(top1: float, low: float, high: float, runs: int) -> SimpleNamespace:
    """What a table takes of a network: its accuracy, and of how many runs it is."""
    return SimpleNamespace(top1=Interval(top1, low, high), runs=runs)


SOME = {
    ("model_v", "imagenet", 112): measured(0.7625, 0.755, 0.77, 1),
    key_of("model_i", "cub200", 224): measured(0.75, 0.73, 0.7525, 3),
    key_of("model_i", "stanford-dogs", 224): measured(0.8, 0.79, 0.81, 5),
    key_of("resnet50.tv_in1k", "cub200", 448): measured(0.85, 0.84, 0.86, 3),
    key_of("vit_small_patch16_224.augreg_in1k", "stanford-dogs", 224): measured(0.84, 0.83, 0.85, 2),
}
SIZES = {"imagenet": 5, "finetune": 10, "baselines": 12}


def by_key(lines):
    return {(line.network, line.data, line.image_size): line for line in lines}


def test_without_a_measurement_the_tables_are_those_that_were_reported():
    tables = beside_reported({})
    assert {name: len(lines) for name, lines in tables.items()} == SIZES
    assert [line.reported_top1_percent for line in tables["imagenet"]] == [75.0, 76.9, 77.0, 76.9, 77.5]
    finetuned = by_key(tables["finetune"])
    assert finetuned["model_iv", "cub200", 224].reported_top1_percent == 76.7
    assert finetuned["model_v", "stanford_dogs", 224].reported_top1_percent == 88.4
    baselines = by_key(tables["baselines"])
    assert baselines["resnet50", "cub200", 448].reported_top1_percent == 86.2
    assert baselines["vit_small_patch16", "stanford_dogs", 448].reported_top1_percent == 90.2
    for line in (line for lines in tables.values() for line in lines):
        assert line.reported == "reported by the 11785-FGVC project, one seed, epoch picked on test"
        assert line[6:] == (None, None, None, "")


def test_each_measurement_stands_beside_its_own_figure_and_nowhere_else():
    lines = [line for table in beside_reported(SOME).values() for line in table]
    found = {key: line[6:] for key, line in by_key(lines).items() if line.measured}
    assert found == {
        ("model_v", "imagenet", 112): (76.25, 75.5, 77.0, "measured: 1 run"),
        ("model_i", "cub200", 224): (75.0, 73.0, 75.25, "measured: 3 runs"),
        ("model_i", "stanford_dogs", 224): (80.0, 79.0, 81.0, "measured: 5 runs"),
        ("resnet50", "cub200", 448): (85.0, 84.0, 86.0, "measured: 3 runs"),
        ("vit_small_patch16", "stanford_dogs", 224): (84.0, 83.0, 85.0, "measured: 2 runs"),
    }
    assert [line[:6] for line in lines] == [
        line[:6] for table in beside_reported({}).values() for line in table
    ]


def test_the_files_say_all_of_it_in_full_and_leave_what_is_missing_empty(tmp_path):
    write_reported_tables(tmp_path, SOME)
    for name, count in SIZES.items():
        with open(tmp_path / f"fgvc_11785_{name}.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == count
        for row, line in zip(rows, beside_reported(SOME)[name], strict=True):
            assert list(row.values()) == ["" if value is None else str(value) for value in line]


def test_people_read_reported_beside_measured_with_whose_they_are(tmp_path):
    write_reported_tables(tmp_path, SOME)
    text = re.sub(" +", " ", (tmp_path / "fgvc_11785.md").read_text(encoding="utf-8"))
    assert REPORTED in text
    assert "| network | px | ImageNet: reported | ImageNet: measured |" in text
    assert "| Model V | 112 | 77.5 | 76.2 [75.5, 77.0], 1 run |" in text
    assert "| Model I | 224 | 75.2 | 75.0 [73.0, 75.2], 3 runs | 82.5 | 80.0 [79.0, 81.0], 5 runs |" in text
    assert "| Model II | 224 | 79.1 | – | 85.2 | – |" in text
    assert "| ResNet-50 | 448 | 86.2 | 85.0 [84.0, 86.0], 3 runs | 85.3 | – |" in text
    assert text.count("Stanford Dogs is made from ImageNet") == 2, "below each table with its figures"


def test_latex_says_the_same(tmp_path):
    write_reported_tables(tmp_path, SOME)
    bodies = [(tmp_path / f"fgvc_11785_{name}.tex").read_text(encoding="utf-8") for name in TABLES]
    tables = [body.partition("\n\n")[0] for body in bodies]
    assert latex.table_of(tables[0])[-1] == ["Model V", "112", "77.5", "76.2 [75.5, 77.0], 1 run"]
    assert latex.table_of(tables[1])[2] == ["Model II", "224", "79.1", "--", "85.2", "--"]
    assert [len(latex.table_of(table)) - 1 for table in tables] == [5, 5, 6]
    assert all(REPORTED in body for body in bodies)
    if latex.PDFLATEX is None:
        pytest.skip("pdflatex is not installed: not compiled")
    assert latex.compiled(tmp_path, *bodies) == ""
