"""`study plan`: runs, cost, disk, and what can be found on each set and between sets."""

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import timm
from fake_experiment import finish
from test_study_plan import STUDY
from test_study_power import SCATTER, latent, simulated

from convnext_ablation.cli import main as cli
from convnext_ablation.cli.study_plan import _bytes, _computed, _short, commands
from convnext_ablation.data.folder import FolderSummary
from convnext_ablation.data.layout import SPLITS
from convnext_ablation.data.prepare import DATASETS, as_published
from convnext_ablation.errors import UserError
from convnext_ablation.study import forecast, setup
from convnext_ablation.study.forecast import (
    PlannedPhase,
    differences,
    disk_needed,
    read_scatter,
    reckoned,
    run_seconds,
)
from convnext_ablation.study.stats.power import Asked, PlannedSet, on_one_set
from convnext_ablation.study.stats.variance import assumed_scatter, measured_scatter, scatter_of_single_runs
from convnext_ablation.study.store import save_phases
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.checkpoints import save_checkpoint
from convnext_ablation.yaml_files import built_in

EXPERIMENT = """
design: stages
width: full
models: [resnet50.tv_in1k]
phases:
  pretrain: {data: imagenet, recipe: in1k_112, seeds: [0], networks: design}
  cub: {data: cub200, recipe: cub200_224, start: pretrain, networks: design}
  dogs: {data: stanford-dogs, recipe: stanford_dogs_224, start: pretrain, networks: design}
  baselines: {data: cub200, recipe: cub200_224, networks: models}
"""


@pytest.fixture
def plan(tmp_path, monkeypatch, capsys):
    """Runs `study plan` on that experiment where none of its data are; gives exit code, output and errors."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "birds.yaml").write_text(EXPERIMENT)

    def call(*words, experiment=("birds.yaml",)):
        code = cli.main(["study", "plan", *experiment, *words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def plan_study(plan, image_folder, recipe_file):
    """The same of a single study."""
    given = (f"--data={image_folder}", f"--recipe={recipe_file}", "--precision=float32")
    return lambda *words: plan(*given, *words, experiment=())


def made(phase, seeds, start=None, images=1000, scatter=SCATTER, **changes):
    """A phase of the five stages on images that nobody has."""
    study = replace(STUDY, phase=phase, seeds=seeds, start=start and start.study, **changes)
    counts = {"train": 100, "val": 20, "test": images}
    return PlannedPhase(study, FolderSummary(study.data_dir, ["a", "b"], counts, ""), scatter)


def test_an_experiment_is_planned_before_any_of_its_data_are_here(plan, tmp_path):
    code, out, err = plan("--seconds-per-image", "0.001", "cub=0.003", "baselines=0.003")
    assert code == 0, err
    lines, said = out.splitlines(), " ".join(out.split())
    assert lines[0] == "pretrain: stages on imagenet (50,000 val images): 5 networks x 1 seed = 5 runs"
    assert (
        "cub: stages on cub200 (5,794 test images): 5 networks x 3 seeds x 1 pre-training seed = 15" in said
    )
    assert "In all 38 runs. Not here, counted as published: imagenet, " in said
    # model_iii at 224 has most multiply-accumulates of the phases that aren't named; 8 batches an update
    rows = {tuple(words[:2]): words[2:] for line in lines if (words := line.split())[3:]}
    assert rows["dogs", "model_iii"][:2] == ["16", "ms"]
    assert rows["cub", "model_iii"][:2] == ["48", "ms"]
    assert rows["baselines", "resnet50.tv_in1k"][:2] == ["48", "ms"]
    # 105 epochs of 299 batches; an image evaluated takes a third of its share of a step
    seconds = 105 * (4794 // 16 * 0.048 + 1200 * 0.001) + 5794 * 0.001
    assert rows["cub", "model_iii"][2:] == [f"{seconds / 60:.0f}", "min", "3"]
    assert "GPU-hours (pretrain " in said
    given = (
        "0.003 s an image of model_iii in cub, 0.001 s an image of model_iii in dogs, 0.003 s an image of "
    )
    assert f"Steps are as given, {given}resnet50.tv_in1k in baselines; those of others" in said
    assert "Disk: about 4." in said
    header = next(line for line in lines if "cub - pretrain" in line)
    assert header.split("  ")[-3:] == ["cub - pretrain", "dogs - pretrain", "mean - pretrain"]
    assert "One seed supports no claim" in said
    assert lines[-3] == (
        "convnext-ablation study birds.yaml --device cuda --data imagenet=FOLDER cub200=FOLDER "
        "stanford-dogs=FOLDER --output FOLDER"
    )
    assert max(map(len, lines[6:-3])) <= 80  # the first are of runs, the last are commands
    assert [path.name for path in tmp_path.iterdir()] == ["birds.yaml"]


RUNS = {"fgvc_11785": 71, "fgvc_11785_as_reported": 27}


@pytest.mark.parametrize(("name", "runs"), RUNS.items())
def test_the_shipped_experiments_can_be_planned_anywhere(plan, name, runs):
    assert {*RUNS, "mini"} == built_in("experiments").keys()
    code, out, err = plan("--no-timing", "--device=cuda", experiment=(name,))
    assert code == 0, err
    assert f"In all {runs} runs." in out
    assert "mean - imagenet" in out


def test_the_miniature_trains_on_no_more_images_than_its_twelve_minutes_allow(monkeypatch):
    def counted(name, folder):
        drawn = DATASETS[name]()
        counts = {split: len(drawn.classes) * getattr(drawn, split) for split in SPLITS}
        return FolderSummary(folder, list(drawn.classes), counts, "")

    monkeypatch.setattr(setup, "prepare", counted)
    call = ["study", "run", "mini", "--output=unused"]
    phases = setup.plan_phases(cli._parser(call).parse_args(call))
    trained = {}  # images, of 64 px as four of 32
    for study, data in phases:
        runs = study.all_runs()
        side = runs[0].arguments.input_size[-1]
        trained[study.phase] = len(runs) * study.epochs * data.counts["train"] * (side // 32) ** 2
    assert len(trained) == 4
    assert sum(trained.values()) <= 410_000  # a tenth more takes about a minute more
    assert [study.is_pretrained for study, _ in phases] == [False, True, True, False]
    assert {len(study.pretraining_seeds) for study, _ in phases} == {0, 4}


def test_a_study_of_a_published_set_is_planned_before_it_is_here(plan):
    words = ("--data", "cub200", "--width", "full", "--from-scratch", "--recipe", "cub200_224")
    code, out, err = plan(*words, "--seconds-per-image=0.003", experiment=())
    assert code == 0, err
    assert out.startswith("stages on cub200 (5,794 test images): 5 networks x 3 seeds = 15 runs\n")
    assert "GPU-hours; with 1 at a time" in " ".join(out.split())
    given = "--width full --from-scratch --recipe cub200_224 --device cuda --data FOLDER --output FOLDER"
    assert f"\nconvnext-ablation study {given}\n" in out, "the folder stands for the set's name"
    code, out, _ = plan(*words, "--no-timing", "--device=cuda", experiment=())
    assert code == 0
    assert "GPU-hours" not in out


def test_assumptions_may_be_of_one_phase(plan):
    _, out, err = plan("--no-timing", "--device=cuda", "--accuracy", "70", "dogs=60", "--seed-sd", "dogs=1")
    assert not err
    rows = [line.split() for line in out.splitlines() if re.match(r"\w+ +\d+ +[\d.]+ +\d+ +\d+$", line)]
    assert [row[:3] for row in rows] == [
        ["pretrain", "70", "0.3"],
        ["cub", "70", "0.3"],
        ["dogs", "60", "1"],
        ["baselines", "70", "0.3"],
    ]


def test_phases_of_an_experiment_are_timed_one_after_another(plan, image_folder, recipe_file, tmp_path):
    (tmp_path / "two.yaml").write_text("networks: [model_i, model_v]")
    phase = f"data={image_folder} recipe={recipe_file}"
    words = ["--phase", "first", *phase.split(), "seeds=0,1"]
    words += ["--phase", "second", *phase.split(), "start=first", "seeds=0"]
    code, out, err = plan(*words, "--design=two.yaml", "--jobs=1", experiment=())
    assert code == 0, err
    rows = [line.split() for line in out.splitlines() if re.match(r"(first|second) +model_\w+ ", line)]
    assert [(row[0], row[-1]) for row in rows] == [("first", "2")] * 2 + [("second", "2")] * 2
    assert "timing training steps, about 2 minutes ..." in out
    assert re.search(r"Together [\d.]+ CPU-\w+ \(first [\d.]+ CPU-\w+, second", " ".join(out.split()))


def test_seconds_of_one_network_give_those_of_others_by_their_multiply_accumulates():
    one, two = made("", [0]), made("", [0], recipe={**STUDY.recipe, "input_size": [1, 64, 64]})
    ((small,), said), ((large,), _) = reckoned([one], {"": 0.01}), reckoned([two], {"": 0.01})
    assert said == ["0.01 s an image of model_iii_atto"]
    assert max(small.steps.values()) == pytest.approx(0.08) == max(large.steps.values())
    both, said = reckoned(
        [
            replace(one, study=replace(one.study, phase="a")),
            replace(two, study=replace(two.study, phase="b")),
        ],
        {"": 0.01},
    )
    assert said == ["0.01 s an image of model_iii_atto in b"]
    ratio = both[1].steps["model_i_atto"] / both[0].steps["model_i_atto"]
    assert ratio == pytest.approx(4, rel=0.02)  # four times as many pixels, but for the classifier


def test_checkpoints_on_disk_are_what_is_reckoned_for_them(tmp_path):
    phase = made("", [0, 1])
    sizes = []
    for point in phase.study.points:
        model = timm.create_model(point.model, num_classes=2, in_chans=1)
        save_checkpoint(tmp_path / "model_best.pth.tar", {"state_dict": model.state_dict(), "epoch": 1})
        sizes.append((tmp_path / "model_best.pth.tar").stat().st_size)
    disk = disk_needed([phase])
    assert disk.checkpoints == pytest.approx(2 * sum(sizes), rel=0.02)
    assert disk.at_work == pytest.approx(6 * max(sizes), rel=0.02)
    assert disk_needed([phase, phase]).total == 2 * disk.total
    averaged = replace(phase, study=replace(phase.study, recipe={**phase.study.recipe, "model_ema": True}))
    assert disk_needed([averaged]).checkpoints == 2 * disk.checkpoints
    tuned = replace(phase, study=replace(phase.study, learning_rates={}, tuning=(0.1, 0.2)))
    assert disk_needed([tuned]).checkpoints == 2 * disk.checkpoints
    assert disk_needed([tuned]).predictions == disk.predictions


@pytest.mark.parametrize("pretrainings", [[0], [0, 1, 2, 3]])
def test_differences_are_between_a_phase_and_those_that_start_from_it(pretrainings):
    general, other = made("general", pretrainings, images=5000), assumed_scatter(0.6, 0.01)
    tuned = [made("one", [0, 1, 2], general), made("two", [0, 1], general, 500, other)]
    found = differences([general, *tuned, made("alone", [0])])
    assert list(found) == ["one - general", "two - general", "mean - general"]
    several = len(pretrainings) > 1
    assert [each[0].draws for each in found.values()] == ([4, 4, 4] if several else [3, 2, 2])
    sets = [
        PlannedSet(-1.0, SCATTER, 5000, drawn=several),
        PlannedSet(0.5, SCATTER, 1000),
        PlannedSet(0.5, other, 500),
    ]
    effect = found["mean - general"][1]
    level = 0.05 / 12  # Holm's, of four effects and three comparisons
    assert effect.asked == Asked(sets, list(effect.contrast.weights.values()), level, shared=several)
    assert found["one - general"][0].asked.sets == [sets[0], replace(sets[1], weight=1.0)]
    assert differences(tuned) == {}


def test_what_pretrainings_change_on_all_measured_sets_alike_hides_no_difference():
    top1 = {
        (point.key, start): 0.6 + 0.01 * start * number
        for number, point in enumerate(STUDY.points)
        for start in range(4)
    }
    general = made("general", [0, 1, 2, 3], scatter=replace(SCATTER, by_start=top1))
    higher = replace(SCATTER, by_start={key: 0.1 + each for key, each in top1.items()})
    ((effect, *_),) = differences([general, made("one", [0], general, scatter=higher)]).values()
    assert effect.asked.seed_variance == pytest.approx(0)
    assert effect.asked.detectable(4) < replace(effect.asked, seed_variance=None).detectable(4)
    fewer = replace(SCATTER, by_start={key: each for key, each in top1.items() if key[1]})
    ((effect, *_),) = differences([general, made("one", [0], general, scatter=fewer)]).values()
    assert effect.asked.seed_variance == pytest.approx(0), "of the pre-trainings that all sets have"


def test_a_finished_experiment_says_how_much_chance_is_in_each_phase(tmp_path):
    first = replace(STUDY, phase="first", seeds=[0])
    phases = save_phases(tmp_path, [first, replace(STUDY, phase="second", start=None, seeds=[0, 1])])
    tables = simulated(np.random.default_rng(2), SCATTER, [0] * 5, 2, 500, latent(SCATTER))
    for phase in phases:
        for run in phase.runs():
            network, seed = phase.points.index(run.point), run.arguments.seed
            finish(run, tmp_path / phase.phase, tables[network][seed])
    source = f"measured in {tmp_path / 'second'} (5 networks, 2 seeds)"
    found = read_scatter(tmp_path, "second")
    assert found == measured_scatter(list(tables), source)
    assert found.by_start[STUDY.points[3].key, 1] == tables[3][1].mean()
    single = f"measured in {tmp_path / 'first'} (5 networks, 1 seed)"
    expected = scatter_of_single_runs([table[0] for table in tables], single)
    assert read_scatter(tmp_path, "first", single=True) == expected
    with pytest.raises(UserError, match="two or more seeds in common, and there are 5 with 1"):
        read_scatter(tmp_path, "first")


def test_published_sets_have_their_published_sizes():
    sizes = {name: as_published(name) for name in ("imagenet", "cub200", "stanford-dogs")}
    assert {name: len(each.classes) for name, each in sizes.items()} == {
        "imagenet": 1000,
        "cub200": 200,
        "stanford-dogs": 120,
    }
    assert sizes["imagenet"].counts == {"train": 1_281_167, "val": 50_000}
    assert sizes["cub200"].counts == {"train": 4794, "val": 1200, "test": 5794}
    assert sizes["stanford-dogs"].counts == {"train": 9600, "val": 2400, "test": 8580}
    assert as_published("cub200_512").counts == sizes["cub200"].counts
    assert as_published("folder") is None
    assert as_published("typefaces") is None
    assert as_published("nothing") is None


def test_figures_are_in_units_that_people_read():
    assert [_short(each) for each in (0.00012, 0.0474, 0.9, 2.474, 61, 700)] == [
        *("0.12 ms", "47.4 ms", "900 ms", "2.5 s", "61 s", "12 min")
    ]
    assert [_computed(each, "CPU") for each in (10, 700, 5000, 9000, 10**7)] == [
        *("10 CPU-seconds", "12 CPU-minutes", "83 CPU-minutes", "2.5 CPU-hours", "2,778 CPU-hours")
    ]
    assert [_bytes(each) for each in (1500, 81e6, 3.94e9, 2e12, 999.6e6)] == [
        *("1.5 kB", "81 MB", "3.9 GB", "2.0 TB", "1.0 GB")
    ]


# Of a single study


def test_runs_effects_assumptions_and_notes_are_printed_and_nothing_is_written(plan_study, tmp_path):
    groups = ("--design=factorial", "--groups", "narrow=inverted,moved_up", "gelu")
    code, out, _ = plan_study(*groups, "--seeds", "0", "1", "2", "3", "--no-timing")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == f"factorial on {lines[0].split()[2]} (21 test images): 4 networks x 4 seeds = 16 runs"
    assert max(map(len, lines[1:-3])) <= 80  # the last are commands
    table = [line.split() for line in lines if line.startswith(("narrow  ", "GELU  "))]  # the main effects
    assert [row[0] for row in table] == ["narrow", "GELU"]
    assert len({row[-2] for row in table}) == 1
    said = " ".join(out.split())
    assert "at an adjusted p below 0.05 (Holm, 2 effects; the other 3 are not adjusted)" in said
    assert re.search(r"\nshades\w* +80 +0\.3 +10 +\d+\n", out)
    assert "Picard, arXiv:2109.08203" in said
    assert "- Group narrow: inverted bottleneck, spatial convolution moved up." in said
    assert "Where over 1000 seeds would be needed, there are too few test images" in said
    assert "Disk: about " in said
    assert "CPU-" not in out
    assert [path.name for path in tmp_path.iterdir()] == ["birds.yaml"]


def test_costs_are_timed_for_every_network_and_add_up(plan_study, tmp_path):
    code, out, err = plan_study("--design=stages", "--seeds", "0", "1", "--jobs=1", "--threads=1")
    assert code == 0, err
    rows = [line.split() for line in out.splitlines() if line.startswith("model_")]
    assert [row[0] for row in rows] == [f"model_{number}_atto" for number in ("i", "ii", "iii", "iv", "v")]
    assert {row[-1] for row in rows} == {"2"}
    assert re.search(r"Together [\d.]+ CPU-(seconds|minutes); with 1 at a time \d", " ".join(out.split()))
    assert [path.name for path in tmp_path.iterdir()] == ["birds.yaml"]


def test_the_command_for_each_engine_is_the_plans_without_what_is_assumed():
    words = "study plan --data x --like s --design stages --seeds 0 1 --accuracy=70 --no-timing"
    same = "convnext-ablation study --data x --design stages --seeds 0 1 --output FOLDER"
    found = commands(replace(STUDY, command=f"convnext-ablation {words}"))
    assert found[0] == same
    assert found[1].startswith(f"{same} --engine slurm ")
    assert found[2].startswith(f"{same} --engine ray ")


def test_tuning_runs_count(plan_study):
    code, out, _ = plan_study("--design=stages", "--tune=lr=0.1,0.2,0.4", "--seeds", "0", "1", "--no-timing")
    assert code == 0
    assert "5 networks x (2 seeds + 3 learning rates) = 25 runs" in out


def test_one_seed_resolves_nothing(plan_study):
    _, out, _ = plan_study("--seeds", "0", "--no-timing")
    assert re.findall(r"  (\S+) \(", out) == ["none"] * 4
    assert "One seed supports no claim" in out


def test_given_assumptions_are_percent_and_decide_what_is_detectable(plan_study):
    _, out, _ = plan_study("--no-timing", "--accuracy=95", "--seed-sd=2", "--resolve=20")
    assert re.search(r"\nshades\w* +95 +2 +2\.5 ", out)
    assert "Source: as given; the rest " in " ".join(out.split())
    size, seeds = re.findall(r"  (\S+) \((\S+)\)", out)[0]
    scatter = assumed_scatter(accuracy=0.95, seed_sd=0.02)
    asked = on_one_set(scatter, 21, [1.0, -1.0], 0.05 / 4)
    assert float(size) == pytest.approx(100 * asked.detectable(3), abs=0.01)
    assert "seeds for 20" in out
    assert int(seeds) == asked.seeds_needed(0.2)


@pytest.mark.parametrize(
    ("single", "words", "message"),
    [
        (False, "--seconds-per-image fast", "--seconds-per-image fast: give a number, or PHASE=NUMBER"),
        (False, "--seconds-per-image nan", "--seconds-per-image nan: give a number, or PHASE=NUMBER"),
        (False, "--seconds-per-image 0", "--seconds-per-image: give a number above 0"),
        (False, "--seconds-per-image cub=1 cub=2", "cub=2: is given twice for cub; give one"),
        (False, "--seconds-per-image cubs=1", "unknown phase in --seconds-per-image: 'cubs'"),
        (False, "--seconds-per-image cub=1", "no value for pretrain, dogs, baselines; add"),
        (False, "--seconds-per-image 1 --no-timing", "--no-timing and --seconds-per-image are both given"),
        (False, "--no-timing --device=cuda --accuracy cubs=70", "unknown phase in --accuracy: 'cubs'"),
        (False, "--no-timing --device=cuda --seed-sd =1", "--seed-sd =1: give a number, or PHASE=NUMBER"),
        (False, "--no-timing --device=cuda --accuracy cub=100", "an accuracy of 100 % was given"),
        (False, "--device=cpu", "--data imagenet: make its folder first"),
        (True, "--jobs=0", "--jobs is 0; it must be at least 1"),
        (True, "--gpus-per-run=0", "--gpus-per-run is 0; it must be at least 1"),
        (True, "--gpus-per-run=3", "--gpus-per-run 3 does not divide the recipe's batch of 8"),
        (True, "--gpus-per-run=16", "--gpus-per-run 16 does not divide the recipe's batch of 8"),
        (True, "--gpus-per-run=2 --device=meta", "--gpus-per-run 2: --device is 'meta'; give cuda, or cpu"),
        (True, "--gpus-per-run=2 --train-script=t.py", "timm's script trains in one process on a CPU"),
        (True, "--resolve=0", "--resolve is 0; give the size of an effect in points"),
        (True, "--accuracy=120", "an accuracy of 120 % was given"),
        (True, "--like=nowhere", "nowhere: no study is there"),
        (True, "--design=nothing.yaml", "nothing.yaml: can't be read"),
        (True, "--design=factorial --groups wide=widht", "unknown component"),
    ],
)
def test_bad_arguments_are_one_line_and_code_2(request, tmp_path, single, words, message):
    plan = request.getfixturevalue("plan_study" if single else "plan")
    code, out, err = plan(*words.split(), *(["--no-timing"] if single else []))
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert not out
    assert [path.name for path in tmp_path.iterdir()] == ["birds.yaml"]


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
