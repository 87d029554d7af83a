"""The reported tables with intervals: against scipy and statsmodels, and the file against the script."""

import csv
import importlib.util
import math
import re
import sys

import numpy as np
import pytest
from scipy import stats

from convnext_ablation.study.stats.effects import paired_difference


@pytest.fixture(scope="module")
def script(request):
    path = request.config.rootpath / "benchmarks" / "reported_intervals.py"
    spec = importlib.util.spec_from_file_location("reported_intervals", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["reported_intervals"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["reported_intervals"]


def test_committed_file_is_what_the_script_writes(script, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["reported_intervals.py", "--output", str(tmp_path / "reported.md")])
    script.main()
    committed = script.RESULTS / "reported.md"
    assert (tmp_path / "reported.md").read_text("utf-8") == committed.read_text("utf-8")


def test_paper_roadmap_is_the_table_of_the_docs(script, request):
    with open(script.RESULTS / "paper_roadmap.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    page = (request.config.rootpath / "docs" / "road.md").read_text(encoding="utf-8")
    table = re.findall(r"\| \[Step \d+\].*\| ([\d.]+) \| ([\d.]+) \|\n", page)
    assert [(row["gmacs_224"], row["top1_in_paper_percent"]) for row in rows] == table
    assert all(row["source"].startswith("arXiv:2201.03545") for row in rows)


def test_interval_of_a_disagreement_is_that_of_paired_runs(script):
    treated = np.repeat([True, False, True, False], [300, 200, 4000, 500])
    baseline = np.repeat([False, True, True, False], [300, 200, 4000, 500])
    paired = paired_difference(treated[None], baseline[None])
    change = script.Change("", 100 * baseline.mean(), 100 * treated.mean(), 5000)
    assert change.half_width(0.1) == pytest.approx(100 * (paired.high - paired.low) / 2, rel=1e-3)


def test_seeds_add_to_the_variance_and_less_of_the_mean_of_three(script):
    alone, with_seeds = (script.Change("", 75.0, 80.0, 5000).half_width(0.1, sd) for sd in (0.0, 0.4))
    assert with_seeds**2 - alone**2 == pytest.approx(2 * (stats.norm.isf(0.025) * 0.4) ** 2)
    three = script.Change("", 75.0, 80.0, 5000, seeds=3).half_width(0.1, 0.4)
    assert three**2 - alone**2 == pytest.approx((with_seeds**2 - alone**2) / 3)


@pytest.mark.parametrize("disagreement", [None, 0.1])
def test_the_seed_sd_that_a_change_bears_is_where_its_interval_touches_nothing(script, disagreement):
    change = script.Change("", 75.2, 79.1, 5794)
    borne = change.largest_seed_sd(disagreement)
    assert change.half_width(disagreement, borne) == pytest.approx(change.points)
    assert script.Change("", 79.1, 79.4, 5794).largest_seed_sd(disagreement) == 0


@pytest.mark.parametrize(
    ("before", "after", "seeds", "digits", "says"),
    [
        (75.2, 79.1, 1, 1, "yes"),
        (79.1, 77.9, 1, 1, "depends"),
        (79.1, 79.4, 1, 1, "no"),
        (79.10, 79.40, 3, 2, "no"),
        (79.10, 79.70, 3, 2, "depends"),  # more than seeds alone make, and less than images might
    ],
)
def test_a_change_exceeds_noise_under_all_assumptions_some_or_none(
    script, before, after, seeds, digits, says
):
    assert script.verdict(script.Change("", before, after, 5794, seeds, digits), seed_sd=0.3) == says


def test_a_change_that_rounding_may_have_made_is_not_called_more_than_noise(script):
    change = script.Change("", 79.0, 80.7, 5794)
    assert change.points - 0.1 < change.half_width(None, 0.3) < change.points
    assert script.verdict(change, 0.3) == "depends"


def test_paper_steps_are_compared_with_the_last_one_kept(script):
    changes = script.roadmap(script.read("paper_roadmap.csv"))
    assert len(changes) == 15
    gelu = changes[10]
    assert gelu.label == "11: ReLU -> GELU"
    assert (gelu.before, gelu.after) == (80.57, 80.62)  # kernel 7, not 11
    sds = [float(row["top1_sd_in_paper_points"]) for row in script.read("paper_roadmap.csv")]
    assert script.pooled_sd(script.read("paper_roadmap.csv")) == pytest.approx(
        math.sqrt(np.mean(np.square(sds)))
    )
