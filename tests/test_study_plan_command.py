"""`study plan`: what it prints and writes, and what it takes a run to cost."""

import re
from types import SimpleNamespace

import pytest

from convnext_ablation.cli import main as cli
from convnext_ablation.study import forecast
from convnext_ablation.study.forecast import run_seconds
from convnext_ablation.study.stats.power import detectable, seeds_needed
from convnext_ablation.study.stats.variance import assumed_scatter
from convnext_ablation.training.arguments import TrainingArguments


@pytest.fixture
def plan(image_folder, recipe_file, tmp_path, monkeypatch, capsys):
    """Runs `study plan` in an empty folder; gives its exit code, what it printed, and its error."""
    monkeypatch.chdir(tmp_path)

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
    assert max(map(len, lines[1:-3])) <= 80  # the last are commands
    start = next(number for number, line in enumerate(lines) if line.startswith("macro resnext  "))
    table = [line.split() for line in lines[start : start + 4]]  # the main effects
    assert [row[0] for row in table] == ["macro", "inverted", "kernel", "micro"]
    assert len({row[-2] for row in table}) == 1
    said = " ".join(out.split())
    assert "at an adjusted p below 0.05 (Holm, 4 effects; the other 10 are not adjusted)" in said
    assert re.search(r"\nshades\w* +80 +0\.3 +10 +16\n", out)
    assert "Picard, arXiv:2109.08203" in said
    assert "- Group inverted: inverted bottleneck, spatial convolution moved up." in said
    assert "Where over 1000 seeds would be needed, there are too few test images" in said
    assert "Disk: about " in said
    assert "CPU-" not in out
    assert not list(tmp_path.iterdir())


def test_costs_are_timed_for_every_network_and_add_up(plan, tmp_path):
    code, out, err = plan("--design=stages", "--seeds", "0", "1", "--jobs=1", "--threads=1")
    assert code == 0, err
    rows = [line.split() for line in out.splitlines() if line.startswith("model_")]
    assert [row[0] for row in rows] == [f"model_{number}_atto" for number in ("i", "ii", "iii", "iv", "v")]
    assert {row[-1] for row in rows} == {"2"}
    assert re.search(r"Together [\d.]+ CPU-(seconds|minutes); with 1 at a time \d", " ".join(out.split()))
    assert not list(tmp_path.iterdir())


def test_the_command_for_each_engine_is_the_plans_without_what_is_assumed(plan, monkeypatch):
    words = (
        "convnext-ablation study plan --data x --like s --design stages --seeds 0 1 --accuracy=70 --no-timing"
    )
    monkeypatch.setattr("sys.argv", words.split())
    same = "convnext-ablation study --data x --design stages --seeds 0 1 --output FOLDER"
    commands = plan("--no-timing")[1].splitlines()[-3:]
    assert commands[0] == same
    assert commands[1].startswith(f"{same} --engine slurm ")
    assert commands[2].startswith(f"{same} --engine ray ")


def test_tuning_runs_count(plan):
    code, out, _ = plan("--design=stages", "--tune=lr=0.1,0.2,0.4", "--seeds", "0", "1", "--no-timing")
    assert code == 0
    assert "5 networks x (2 seeds + 3 learning rates) = 25 runs" in out


def test_one_seed_resolves_nothing(plan):
    _, out, _ = plan("--seeds", "0", "--no-timing")
    assert re.findall(r"  (\S+) \(", out) == ["none"] * 4
    assert "One seed supports no claim" in out


def test_given_assumptions_are_percent_and_decide_what_is_detectable(plan):
    _, out, _ = plan("--no-timing", "--accuracy=95", "--seed-sd=2", "--resolve=20")
    assert re.search(r"\nshades\w* +95 +2 +2\.5 ", out)
    assert "Source: as given; the rest " in " ".join(out.split())
    size, seeds = re.findall(r"  (\S+) \((\S+)\)", out)[0]
    scatter = assumed_scatter(accuracy=0.95, seed_sd=0.02)
    asked = (scatter, 3, 21, [1.0, -1.0], 0.05 / 4)
    assert float(size) == pytest.approx(100 * detectable(*asked), abs=0.01)
    assert "seeds for 20" in out
    assert int(seeds) == seeds_needed(0.2, scatter, 21, [1.0, -1.0], 0.05 / 4)


@pytest.mark.parametrize(
    ("further", "message"),
    [
        (["--jobs=0"], "--jobs is 0; it must be at least 1"),
        (["--gpus-per-run=0"], "--gpus-per-run is 0; it must be at least 1"),
        (["--gpus-per-run=3"], "--gpus-per-run 3 does not divide the recipe's batch of 8"),
        (["--gpus-per-run=16"], "--gpus-per-run 16 does not divide the recipe's batch of 8"),
        (["--gpus-per-run=2", "--device=meta"], "--gpus-per-run 2: --device is 'meta'; give cuda, or cpu"),
        (["--gpus-per-run=2", "--train-script=t.py"], "timm's script trains in one process on a CPU"),
        (["--resolve=0"], "--resolve is 0; give the size of an effect in points"),
        (["--accuracy=120"], "an accuracy of 120 % was given"),
        (["--like=nowhere"], "nowhere: no study is there"),
        (["--design=nothing.yaml"], "nothing.yaml: can't be read"),
        (["--design=factorial", "--groups", "wide=widht"], "unknown component"),
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
    counts = {"train": 100, "val": 20, "test": 40}
    epoch, validation, test = 12 * (0.6 + 8 * 0.01), 20 * (0.025 + 0.01), 40 * (0.025 + 0.01)
    for interval, epochs, validations in ((1, 3, 3), (2, 5, 3)):
        arguments = TrainingArguments(batch_size=8, epochs=epochs, warmup_epochs=0, val_interval=interval)
        expected = epochs * epoch + validations * validation + test
        assert run_seconds(arguments, 0.6, 0.01, counts) == pytest.approx(expected)


@pytest.mark.parametrize(("seconds", "images"), [(64.0, 64), (0.0, 4)])
def test_long_steps_are_told_from_fewer_images(monkeypatch, seconds, images):
    taken = []

    def step(trainer, images, targets):
        taken.append(len(images))
        return 0.1 * len(images)

    monkeypatch.setattr(forecast, "_step", step)
    trainer = SimpleNamespace(arguments=TrainingArguments(batch_size=64))
    assert forecast._step_seconds(trainer, range(64), range(64), seconds) == pytest.approx(6.4)
    assert taken[-1] == images
