"""The recipe of a study: what the command line changes of it, and what doesn't fit."""

import itertools
import shutil
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from timm.scheduler import create_scheduler_v2, scheduler_kwargs

from convnext_ablation.cli import main as cli
from convnext_ablation.errors import UserError
from convnext_ablation.study import external, setup
from convnext_ablation.study.designs.design import design_of
from convnext_ablation.study.experiment_file import overridden, phases_of, scaled
from convnext_ablation.study.setup import plan_phases
from convnext_ablation.study.store import read_study, save_study
from convnext_ablation.study.tuning import learning_rates
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.settings import read_recipe
from convnext_ablation.yaml_files import parse_yaml

FINE_TUNING = "pretrained: true"


@pytest.fixture
def planned(image_folder, recipe_file, tmp_path):
    """Plans a study with lines added to a recipe, and further arguments."""

    def plan(lines="", *further):
        recipe = tmp_path / "mine.yaml"
        changed = {**parse_yaml(recipe_file.read_text(), "recipe"), **(parse_yaml(lines, "lines") or {})}
        recipe.write_text(yaml.safe_dump(changed))
        data = [] if any(word.startswith("--data") for word in further) else [f"--data={image_folder}"]
        call = ["study", "run", *data, f"--recipe={recipe}", "--output=x", *further]
        return plan_phases(cli._parser(call).parse_args(call))[0][0]

    return plan


@pytest.mark.parametrize(
    ("lines", "further", "precision", "amp"),
    [
        ("", [], "float32", False),
        ("amp: true\namp_dtype: bfloat16", [], "bfloat16", True),
        ("amp: true\namp_dtype: float16", ["--precision=float32"], "float32", False),
        ("amp: true", ["--engine=slurm", "--device=cuda"], "float16", True),
        ("", ["--precision=float16", "--engine=slurm", "--device=cuda"], "float16", True),
        ("model_dtype: bfloat16", [], "bfloat16", False),
    ],
)
def test_the_precision_is_the_recipes_unless_another_is_asked_for(planned, lines, further, precision, amp):
    study = planned(lines, *further)
    arguments = study.runs()[0].arguments
    assert study.precision == arguments.precision == precision
    assert (arguments.amp, arguments.amp_dtype) == (amp, precision if amp else "bfloat16")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--set", "drop_path=0.2", "aa=rand-m9", "scale=[0.5, 1]"], {"drop_path": 0.2, "aa": "rand-m9"}),
        (
            ["--set", "color-jitter=null", "--set", "opt_kwargs={fused: true}"],
            {"opt_kwargs": {"fused": True}},
        ),
        (["--batch-size=6", "--set", "global_batch=12"], {"batch_size": 6, "global_batch": 12}),
        (["--set", "amp=true", "amp_dtype=bfloat16"], {"amp": True, "amp_dtype": "bfloat16"}),
        (["--epochs=7"], {"epochs": 7}),
        (["--set", "freeze=stages=2", "sampler=balanced"], {"freeze": "stages=2", "sampler": "balanced"}),
        (["--workers=3"], {"workers": 3}),
    ],
)
def test_values_of_the_recipe_are_replaced(planned, words, expected):
    arguments = planned("", *words).runs()[4].arguments
    assert {name: getattr(arguments, name) for name in expected} == expected


def test_a_learning_rate_that_is_given_comes_before_the_table_and_the_recipes():
    call = ["study", "run", "--data=typefaces", "--output=x", "--set"]
    for given, rate in (("lr=0.5", 0.5), ("lr_base=0.5", 0.5 * (32 / 256) ** 0.5)):
        (args,) = phases_of(cli._parser([*call, given]).parse_args([*call, given]))
        recipe, values = overridden(read_recipe("typefaces"), args)
        points = design_of("stages", "atto").points
        assert set(learning_rates(points, "typefaces", recipe, values).values()) == {rate}


@pytest.mark.parametrize(
    ("lines", "words", "message"),
    [
        ("", "--set epoch=3", "unknown argument in --set 'epoch'; did you mean 'epochs'"),
        ("", "--set drop_pat=0.3", "unknown argument in --set 'drop_pat'; did you mean 'drop_path'"),
        ("", "--set epochs", "--set epochs: write NAME=VALUE"),
        ("", "--set lr=4e-3", "lr is '4e-3'; it takes a number; YAML reads 4e-3 as text"),
        ("", "--set epochs=many", "epochs is 'many'; it takes a whole number"),
        ("", "--set hflip=2", "hflip is 2.0; it must be at most 1"),
        ("", "--set scale=[0.5", r"--set scale=\[0.5: not valid YAML"),
        ("", "--set hflip=0.1 hflip=0.2", "--set hflip is given twice"),
        ("", "--set seed=3", "--set seed: a study sets it itself; use --seeds"),
        ("", "--set test_split=val", "--set test_split: a study sets it itself; leave it out"),
        ("", "--set tta=3", "--set: tta is an argument of timm's train.py that this one doesn't take"),
        ("", "--set kd_temperature=3", "kd_temperature: an argument of timm's train.py without effect here"),
        ("", "--set epochs=3 --epochs=4", "--set epochs and --epochs are both given; give one"),
        ("", "--set amp=true --precision=float32", "--set amp and --precision are both given"),
        ("", "--set lr=0.1 --tune=lr=0.1,0.2", "--set lr and --tune are both given; give one"),
        ("", "--epochs=0", "--epochs is 0; it must be at least 1"),
        ("", "--epochs=4 --set lr_cycle_limit=2", "--epochs: the recipe has several cycles"),
        ("", "--batch-size=0", "batch_size is 0; it must be at least 1"),
        ("", "--workers=-1", "--workers is -1; it must be at least 0"),
        ("", "--set global_batch=12", "global_batch is 12, no multiple of batch_size 8 x 1 process = 8"),
        (
            "",
            f"--set early_stopping=3 --train-script={__file__}",
            "early_stopping is 3, and timm's script has no such argument; leave one out",
        ),
        (
            FINE_TUNING,
            "--design=stages",
            "fine-tunes, and no weights are published of model_i_atto, model_ii_atto, ",
        ),
        (
            FINE_TUNING,
            "--design=stages --width=full",
            "of model_ii, model_iii, model_iv; give --init PATTERN",
        ),
        (
            FINE_TUNING,
            "--design=screening",
            "published of .* and 11 more; give --init PATTERN, or --from-scratch",
        ),
        (FINE_TUNING, "--from-scratch --init=x", "--from-scratch and --init are both given; give one"),
        (FINE_TUNING, "--from-scratch --set pretrained=true", "--set pretrained and --from-scratch are both"),
        ("amp: true", "", r"mine\.yaml says float16, which is for GPUs; on a CPU give --precision bfloat16"),
        ("", "--precision=float16", "--precision says float16, which is for GPUs; on a CPU give"),
        ("model_dtype: bfloat16", "--precision=float32", "sets model_dtype bfloat16; leave out --precision"),
        ("num_classes: 200", "", r"has 3 classes, and the recipe .*mine.yaml is for 200; .*num_classes=3"),
        ("num_classes: 2", "", "has 3 classes, and the recipe .* is for 2; take another recipe"),
        ("input_size: [1, 48, 48]", "", r"is 32 px \(median\), and the recipe .* needs 48 px \(48 / 1\); "),
        ("", "--set crop_pct=0.5", r"needs 64 px \(32 / 0.5\); prepare larger images, take "),
    ],
)
def test_what_the_recipe_or_the_data_can_not_take_is_refused(planned, lines, words, message):
    with pytest.raises(UserError, match=message) as caught:
        planned(lines, *words.split())
    assert "\n" not in str(caught.value)


def test_a_run_that_is_tested_on_its_validation_images_does_not_stop_by_them(planned, image_folder, tmp_path):
    for split in ("train", "val"):
        shutil.copytree(image_folder / split, tmp_path / "data" / split)
    with pytest.raises(UserError, match="early_stopping would use the test images"):
        planned("early_stopping: 2", f"--data={tmp_path / 'data'}")
    assert planned("early_stopping: 2").runs()[0].arguments.early_stopping == 2


def epochs_by_timm(arguments):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    return create_scheduler_v2(optimizer, **scheduler_kwargs(arguments), updates_per_epoch=3)[1]


@pytest.mark.parametrize("sched", ["cosine", "tanh", "poly", "step", "multistep"])
@pytest.mark.parametrize(
    "counted",
    [
        {"warmup_epochs": 0},
        {"warmup_epochs": 5, "cooldown_epochs": 3},
        {"warmup_epochs": 20, "warmup_prefix": True, "cooldown_epochs": 10},
        {"lr_cycle_limit": 3},
        {"lr_cycle_limit": 3, "lr_cycle_mul": 1.5, "warmup_prefix": True},
    ],
)
def test_epochs_in_all_are_those_that_timm_trains(sched, counted):
    arguments = TrainingArguments(sched=sched, epochs=33, **counted)
    assert arguments.epochs_in_all == epochs_by_timm(arguments)
    for epochs in (1, 2, 3, 10, 100) if arguments.lr_cycle_limit == 1 else ():
        other = replace(arguments, **scaled(arguments, epochs))
        assert other.epochs_in_all == epochs_by_timm(other) == epochs
        assert other.epochs >= 1


@pytest.mark.parametrize(
    ("name", "epochs", "expected"),
    [
        ("cub200_224", 105, {}),
        ("cub200_224", 21, {"epochs": 20, "warmup_epochs": 1}),
        ("cub200_224", 1, {"epochs": 1, "warmup_epochs": 0}),
        ("in1k_112", 16, {"epochs": 15, "warmup_epochs": 1}),
        ("in1k_112", 640, {"epochs": 600, "warmup_epochs": 40}),
        ("in1k_112_as_reported_model_i", 20, {"epochs": 20}),
        ("fashion_mnist", 3, {}),
    ],
)
def test_warm_up_keeps_its_share_of_the_epochs(name, epochs, expected):
    assert scaled(TrainingArguments(**read_recipe(name)), epochs) == expected


def test_other_epochs_of_the_schedule_keep_their_share():
    steps = TrainingArguments(sched="step", epochs=90, warmup_epochs=0, decay_epochs=30.0, mixup_off_epoch=45)
    assert scaled(steps, 9) == {"epochs": 9, "decay_epochs": 3.0, "mixup_off_epoch": 4}
    several = TrainingArguments(sched="multistep", epochs=90, warmup_epochs=0, decay_milestones=(30, 60))
    assert scaled(several, 9) == {"epochs": 9, "decay_milestones": [3, 6]}


@pytest.mark.parametrize(
    ("further", "workers"),
    [([], 0), (["--workers=2"], 2), (["--engine=slurm", "--device=cuda"], 4), (["--device=cuda:1"], 4)],
)
def test_workers_are_four_on_a_gpu_and_none_on_a_cpu(planned, monkeypatch, tmp_path, further, workers):
    monkeypatch.setattr(setup, "check_device", lambda device: None)
    study = planned("", *further)
    assert {run.arguments.workers for run in study.runs()} == {workers}
    other = replace(study, workers=workers + 1)
    assert [run.identity for run in other.runs()] == [run.identity for run in study.runs()]
    assert read_study_of(tmp_path / "study", study).workers == workers
    assert read_study_of(tmp_path / "study", other).workers == workers + 1


def read_study_of(folder, study):
    save_study(folder, study)
    return read_study(folder)


@pytest.fixture
def networks(tmp_path):
    """Writes a design of these networks, and gives the arguments that ask for it at full width."""

    def write(*names):
        (tmp_path / "design.yaml").write_text(f"networks: [{', '.join(names)}]\n")
        return [f"--design={tmp_path / 'design.yaml'}", "--width=full"]

    return write


def test_a_fine_tuning_recipe_takes_published_weights_of_every_network(planned, networks):
    study = planned(FINE_TUNING, *networks("roadmap_00_resnet50", "model_v"))
    assert study.is_pretrained
    assert all(run.arguments.pretrained for run in study.runs())


def test_weights_and_images_that_do_not_fit_a_network_are_refused(planned, networks, tmp_path):
    two = [*networks("model_i", "model_v"), "--width=atto"]
    state = timm.create_model("model_i_atto", in_chans=1).state_dict()
    for name in ("model_i_atto", "model_v_atto"):
        torch.save({"state_dict": state}, tmp_path / f"{name}.pth")
    with pytest.raises(
        UserError, match=rf"--init {tmp_path}/model_v_atto\.pth: the checkpoint .* model_v_atto"
    ):
        planned("", f"--init={tmp_path}/{{model}}.pth", *two)
    state["stages.0.blocks.0.conv1.weight"][0] = torch.nan
    torch.save(state, tmp_path / "model_i_atto.pth")
    with pytest.raises(UserError, match=r"--init .*model_i_atto\.pth: stages\.0\.bl.* isn't finite; begin"):
        planned("", f"--init={tmp_path}/{{model}}.pth", *two)
    with pytest.raises(
        UserError, match=r"model_v_atto: can't take images of 4 x 4 px: .*; give at least 32 px"
    ):
        planned("input_size: [1, 4, 4]", *two)


@pytest.mark.parametrize(("lines", "origins"), [("", 2), (FINE_TUNING, 1)])
def test_weights_that_are_named_are_started_from_by_the_script_too(planned, tmp_path, capsys, lines, origins):
    for number, point in enumerate(design_of("stages", "atto").points):
        settings = {"data_dir": "in1k", "epochs": 100 + number % origins, "input_size": [3, 112, 112]}
        state = {"state_dict": timm.create_model(point.model, in_chans=1).state_dict(), "arch": point.model}
        torch.save({**state, "args": settings}, tmp_path / f"{point.key}.pth")
    study = planned(lines, f"--init={tmp_path}/{{model}}.pth")
    assert (study.is_pretrained, len(study.weights)) == (True, 5)
    assert ("start from weights of different origin" in capsys.readouterr().err) == (origins == 2)
    told = external._arguments(study.runs()[0], 3)
    assert (told["pretrained"], told["pretrained_path"]) == (True, str(tmp_path / "model_i_atto.pth"))
    assert external._arguments(planned("").runs()[0], 3)["pretrained"] is False


def test_a_fine_tuning_recipe_trains_from_scratch_only_if_that_is_meant(planned, networks):
    for design in (networks("model_i", "model_iii"), ["--design=stages"]):
        study = planned(FINE_TUNING, *design, "--from-scratch")
        assert not study.is_pretrained
        assert [run.identity for run in study.runs()] == [run.identity for run in planned("", *design).runs()]


@pytest.fixture
def pictures(tmp_path):
    """Makes an image folder of two classes, of so many pixels a side, in grey or in colour."""

    def make(height, width, coloured=True, suffix="jpg", number=4):
        rng = np.random.default_rng(0)
        for split, name, index in itertools.product(("train", "val", "test"), ("a", "b"), range(number)):
            grey = rng.integers(0, 256, (height, width, 1), dtype=np.uint8).repeat(3, axis=2)
            path = tmp_path / "pictures" / split / name / f"{index}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((grey // (3, 2, 1)).astype(np.uint8) if coloured else grey).save(path)
        return f"--data={tmp_path / 'pictures'}"

    return make


COLOUR = "input_size: [3, 32, 32]\nmean: [0.5, 0.5, 0.5]\nstd: [0.5, 0.5, 0.5]"


@pytest.mark.parametrize("further", [["--set", "num_classes=3"], ["--enlarge", "--set", "num_classes=3"]])
def test_what_is_refused_can_be_meant(planned, further, capsys):
    lines = "num_classes: 200\ncrop_pct: 0.5" if "--enlarge" in further else "num_classes: 200"
    assert planned(lines, *further).runs()[0].arguments.num_classes == 3
    said = "the images are enlarged, from 32 px of the shorter side (median) to 64"
    assert (said in capsys.readouterr().err) == ("--enlarge" in further)


@pytest.mark.parametrize(
    ("size", "needed", "refused", "said"),
    [
        ((40, 60), 448, True, False),
        ((24, 60), 32, False, True),
        ((60, 23), 32, True, False),
        ((32, 32), 32, False, False),
    ],
)
def test_images_that_are_much_smaller_than_the_recipe_needs_are_refused(
    planned, pictures, capsys, size, needed, refused, said
):
    lines = COLOUR.replace("32", str(needed))
    if refused:
        with pytest.raises(UserError, match=f"is {min(size)} px .* needs {needed} px"):
            planned(lines, pictures(*size))
    else:
        planned(lines, pictures(*size))
    assert ("enlarged" in capsys.readouterr().err) == said


def test_networks_that_a_recipe_does_not_name_are_said(planned, capsys):
    planned("model: model_v")
    others = ", ".join(f"model_{number}_atto" for number in ("i", "ii", "iii", "iv", "v"))
    assert capsys.readouterr().err.endswith(f"mine.yaml is for model_v; here it trains {others}\n")
    planned("model: model_v", "--width=full", "--models=resnet18")
    assert "is for model_v; here it trains model_i, model_ii, model_iii, model_iv, resnet18\n" in (
        capsys.readouterr().err
    )


def test_photographs_become_grey_only_if_that_is_said(planned, pictures):
    data = pictures(40, 40)
    with pytest.raises(UserError, match="the images have colour, and the network takes one channel"):
        planned("", data)
    assert planned("", data, "--set", "input_img_mode=L").runs()[0].arguments.image_mode == "L"
    assert planned("input_img_mode: L", data).runs()
    assert planned("", pictures(40, 40, coloured=False)).runs()


@pytest.mark.parametrize(("coloured", "suffix"), [(True, "png"), (False, "png"), (False, "jpg")])
def test_a_recipe_for_colour_takes_grey_images_and_says_so(planned, pictures, capsys, coloured, suffix):
    planned(COLOUR, pictures(40, 40, coloured=coloured, suffix=suffix))
    assert ("the images are grey; the network takes them as three" in capsys.readouterr().err) != coloured


def test_photographs_of_ones_own_are_fine_tuned_on_from_public_weights(planned, pictures, networks, capsys):
    words = [pictures(260, 300, number=16), *networks("model_i", "model_v"), "--recipe=photographs_224"]
    study = planned("", *words)
    arguments = study.runs()[0].arguments
    assert (arguments.pretrained, arguments.num_classes, arguments.lr) == (True, None, 1e-4)
    assert (study.precision, study.epochs, study.size) == ("bfloat16", 50, "2 networks x 3 seeds")
    assert not capsys.readouterr().err


def test_photographs_that_are_fewer_than_a_batch_are_refused(planned, pictures, networks):
    words = [pictures(260, 300), *networks("model_i", "model_v"), "--recipe=photographs_224"]
    message = "8 training images are fewer than one batch of 32; give --batch-size 8 --set global_batch=8"
    with pytest.raises(UserError, match=message):
        planned("", *words)
