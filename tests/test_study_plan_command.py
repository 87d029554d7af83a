"""`study plan`: what it prints and writes, and what it takes a run to cost."""

from __future__ import annotations

import csv
import re
from dataclasses import replace

import pytest
import torch

from convnext_ablation.cli import experiment as planning
from convnext_ablation.cli import main as cli
from convnext_ablation.cli import study_plan as plan_command
from convnext_ablation.study import forecast as timing
from convnext_ablation.study.designs.design import design_of
from convnext_ablation.study.forecast import run_seconds, spread, time_networks
from convnext_ablation.study.stats.power import detectable
from convnext_ablation.study.stats.variance import Scatter
from convnext_ablation.training.arguments import TrainingArguments

BASE = TrainingArguments(
    model="model_i_atto", lr=0.1, batch_size=8, epochs=3, warmup_epochs=2, val_split="val", test_split="test"
)
COUNTS = {"train": 100, "val": 20, "test": 40}


@pytest.fixture
def plan(image_folder, recipe_file, tmp_path, monkeypatch, capsys):
    """Runs `study plan` in an empty folder; gives its exit code, what it printed, and its error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(planning, "count_gmacs", lambda model, size: 0.5)  # counting takes a while

    def call(*further):
        arguments = ["study", "plan", f"--data={image_folder}", f"--recipe={recipe_file}"]
        try:
            code = cli.main([*arguments, "--precision=float32", *further])
        except SystemExit as error:  # argparse
            code = error.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_runs_effects_assumptions_and_notes_are_printed_and_nothing_is_written(plan, tmp_path):
    code, out, _ = plan("--design=factorial", "--seeds", "0", "1", "2", "3", "--no-timing")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == f"factorial on {lines[0].split()[2]} (21 test images): 16 networks x 4 seeds = 64 runs"
    assert max(map(len, lines[1:])) <= 80
    table = [line.split() for line in lines if " main effect  " in line]
    assert [row[0] for row in table] == ["macro", "inverted", "kernel", "micro"]
    assert len({row[-2] for row in table}) == 1
    said = " ".join(out.split())
    assert (
        "with 4 seeds, at an adjusted p below 0.05 (Holm, 4 effects; the other 10 are not adjusted)" in said
    )
    assert "Taken: top-1 80 %, SD between seeds 0.3 points; 10 % of the images" in said
    assert "Picard, arXiv:2109.08203" in said
    assert "- Group inverted: inverted bottleneck, spatial convolution moved up." in said
    assert "Where over 1000 seeds would be needed, it is the test images that are too few" in said
    assert "CPU-hours" not in out
    assert not list(tmp_path.iterdir())


def test_costs_are_timed_for_every_network_and_add_up(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(plan_command, "SECONDS", 0.1)
    code, out, err = plan("--design=stages", "--seeds", "0", "1", "--jobs=1", "--threads=1")
    assert code == 0, err
    rows = [line.split() for line in out.splitlines() if line.startswith("model_")]
    assert [row[0] for row in rows] == [f"model_{number}_atto" for number in ("i", "ii", "iii", "iv", "v")]
    assert {row[-1] for row in rows} == {"2"}
    assert "CPU-hours; with 1 at a time" in " ".join(out.split())
    assert "~" not in out
    assert not list(tmp_path.iterdir())


def test_tuning_runs_count(plan):
    code, out, _ = plan("--design=stages", "--tune=lr=0.1,0.2,0.4", "--seeds", "0", "1", "--no-timing")
    assert code == 0
    assert "5 networks x 2 seeds + 3 learning rates = 25 runs" in out


def test_one_seed_resolves_nothing(plan):
    _, out, _ = plan("--seeds", "0", "--no-timing")
    sizes = re.findall(r"  difference +(\S+)", out)
    assert sizes == ["none"] * 4
    assert "One seed supports no claim" in out


def test_given_assumptions_are_percent_and_decide_what_is_detectable(plan):
    given = ["--accuracy=95", "--seed-sd=2", "--seed-disagreement=3", "--network-disagreement=4"]
    _, out, _ = plan("--no-timing", *given)
    said = " ".join(out.split())
    assert "Taken: top-1 95 %, SD between seeds 2 points; 3 % of the images told otherwise by another" in said
    assert "4 % by another network. Source: as given." in said
    size = re.findall(r"  difference +(\S+)", out)[0]
    scatter = Scatter(0.95, 0.02, 0.03, 0.04, "")
    assert float(size) == pytest.approx(100 * detectable(scatter, 3, 21, [1.0, -1.0], 0.05 / 4), abs=0.01)


def test_effects_are_written_as_csv(plan, tmp_path):
    code, out, _ = plan("--no-timing", "--design=screening", "--resolve=20", "--csv=new/effects.csv")
    assert code == 0
    assert "seeds for 20" in out
    with open(tmp_path / "new" / "effects.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    contrasts = design_of("screening", "atto").contrasts
    assert [row["contrast"] for row in rows] == [contrast.name for contrast in contrasts]
    assert {row["level"] for row in rows} == {repr(0.05 / 13)}
    assert {row["resolve"] for row in rows} == {"0.2"}
    assert int(rows[0]["seeds"]) > 1
    assert float(rows[0]["detectable"]) > 0


@pytest.mark.parametrize(
    ("further", "message"),
    [
        (["--jobs=0"], "--jobs is 0; it must be at least 1"),
        (["--resolve=0"], "--resolve is 0; give the size of an effect in points"),
        (["--accuracy=120"], "an accuracy of 120 % was given"),
        (["--like=nowhere"], "--like nowhere: no finished run is there"),
        (["--design=nothing.yaml"], "nothing.yaml: can't be read"),
        (["--design=factorial", "--groups", "wide=widht"], "unknown component"),
        (["--seeds", "1", "1"], "a seed is given twice"),
    ],
)
def test_bad_arguments_are_one_line_and_code_2(plan, tmp_path, further, message):
    code, out, err = plan("--no-timing", *further)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not out
    assert not list(tmp_path.iterdir())


def test_a_run_is_its_epochs_with_validation_and_the_test():
    # 12 steps of 8 images; an image evaluated takes a third of an eighth of a step, and loading
    epoch, validation, test = 12 * (0.6 + 8 * 0.01), 20 * (0.025 + 0.01), 40 * (0.025 + 0.01)
    assert run_seconds(BASE, 0.6, 0.01, COUNTS) == pytest.approx(3 * (epoch + validation) + test)
    longer = replace(BASE, warmup_prefix=True, val_interval=2, test_split=None)
    assert run_seconds(longer, 0.6, 0.01, COUNTS) == pytest.approx(5 * epoch + 3 * validation)
    assert run_seconds(replace(BASE, val_split=""), 0.6, 0.01, COUNTS) == pytest.approx(3 * epoch + test)


def test_networks_to_time_are_spread_over_all():
    assert spread("abcdefghi", 3) == ["a", "e", "i"]
    assert spread("abc", 5) == ["a", "b", "c"]


class Stepper:
    """Takes 10 ms, and 2 ms an image, of `model_i_atto`, and twice as long of the others."""

    def __init__(self, arguments):
        self.slow = 1 if arguments.model == "model_i_atto" else 2
        self.whole, self.images = arguments.batch_size, []

    def _step(self, batch):
        self.images.append(batch)
        return self.slow * (0.010 + 0.002 * batch)


@pytest.mark.parametrize(("seconds", "batch"), [(30.0, 64), (0.3, 4)])
def test_steps_of_whole_batches_are_told_from_smaller_ones_by_a_straight_line(monkeypatch, seconds, batch):
    class Fake(timing._Stepper):
        __init__ = Stepper.__init__
        _step = Stepper._step

        def __new__(cls, arguments):
            made = super().__new__(cls)
            made.times, made.batch = {}, arguments.batch_size
            return made

        def loading_seconds(self):
            return 0.001

    monkeypatch.setattr(timing, "_Stepper", Fake)
    monkeypatch.setattr(timing, "MOST_NETWORKS", 2)
    monkeypatch.setattr(timing, "_FEWEST_NETWORKS", 2)
    arguments = {
        name: replace(BASE, model=name, batch_size=64)
        for name in ("model_i_atto", "model_ii_atto", "model_v_atto")
    }
    gmacs = {"model_i_atto": 1.0, "model_ii_atto": 2.0, "model_v_atto": 5.0}
    threads = torch.get_num_threads()
    found = time_networks(arguments, gmacs, COUNTS | {"train": 1000}, 1, seconds)
    assert torch.get_num_threads() == threads
    steps = {key: cost.step_seconds for key, cost in found.costs.items()}
    fast = 0.010 + 0.002 * 64
    # the one in between lies a quarter of the way between those with fewer and more GMACs
    assert steps == pytest.approx(
        {"model_i_atto": fast, "model_ii_atto": 1.25 * fast, "model_v_atto": 2 * fast}
    )
    assert [found.costs[key].measured for key in gmacs] == [True, False, True]
    assert found.measured == 2
    assert found.smallest_batch == batch
    assert found.loading_seconds == 0.001


def test_fewer_networks_are_timed_where_they_would_not_fit_into_memory(monkeypatch):
    arguments = {point.key: replace(BASE, model=point.model) for point in design_of("stages", "atto").points}
    keys = list(arguments)
    assert timing._affordable(keys, arguments) == keys
    monkeypatch.setattr(timing, "MOST_PARAMETERS", 1)
    assert timing._affordable(keys, arguments) == [keys[0], keys[2], keys[4]]
    model = timing.timm.create_model("model_i_atto", in_chans=3)
    assert timing._parameters(BASE) == sum(parameter.numel() for parameter in model.parameters())
