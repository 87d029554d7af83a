"""From official archives to finished phases, by the commands in the header of a shipped experiment."""

import csv
import json
import os
import re
import shlex
from pathlib import Path

import pytest
import timm
import yaml
from huggingface_hub import constants
from inline_engine import Inline
from official_archives import bird_files, dog_files, write_imagenet, write_tar
from safetensors.torch import save

from convnext_ablation.cli import main as cli
from convnext_ablation.cli import study_run
from convnext_ablation.study.pretrained import weights_hash
from convnext_ablation.study.setup import plan_phases
from convnext_ablation.yaml_files import built_in

CLASSES = {"imagenet": 2, "cub200": 3, "stanford-dogs": 2}
SLOW = bool(os.environ.get("CONVNEXT_ABLATION_SLOW_TESTS"))
BASELINES = ["resnet50.tv_in1k", "convnext_tiny.fb_in1k", "vit_small_patch16_224.augreg_in1k"]
# of timm; the last is for images of one size only
WIDTH, MODELS = ("full", BASELINES) if SLOW else ("atto", ["test_vit.r160_in1k"])
NETWORKS = 5 if SLOW else 2


def commands_of(name):
    """The commands in an experiment's header, the study last."""
    text = re.sub(r" \\\n# +", " ", built_in("experiments")[name].read_text())
    study, *others = re.findall(r"^# +(?:\w+ +)?convnext-ablation (.*)$", text, re.MULTILINE)
    return [shlex.split(each) for each in (*others, study)]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in, with the official archives in miniature."""
    monkeypatch.chdir(tmp_path)
    archives = tmp_path / "ARCHIVES"
    archives.mkdir()
    write_imagenet(archives)
    write_tar(archives / "CUB_200_2011.tgz", bird_files(), "w:gz")
    write_tar(archives / "images.tar", dog_files()["images"])
    write_tar(archives / "lists.tar", dog_files()["lists"])
    return tmp_path


@pytest.fixture
def hub_with_weights(hub, monkeypatch, tmp_path):
    """The hub has weights of the models of timm; nothing is in the cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in MODELS:
        hub.add(f"timm/{name}", {"model.safetensors": save(timm.create_model(name).state_dict())})
    return hub


def prepared(name):
    """Prepares the data sets; the study's command, in miniature."""
    *prepare, study = commands_of(name)
    for command in prepare:
        held_out = ["--val=1"] if command[1] != "imagenet" else []
        assert cli.main([*command, "--unofficial", *held_out]) == 0
    phases = yaml.safe_load(built_in("experiments")[name].read_text())["phases"]
    data = {phase: said["data"].partition("_")[0] for phase, said in phases.items()}
    classes = [f"{phase}.num_classes={CLASSES[each]}" for phase, each in data.items()]
    small = [f"--width={WIDTH}", "--precision=float32", "--device=cpu", "--enlarge", "--epochs=1"]
    small += ["--batch-size=2", "--set", "global_batch=2", *classes, "--seeds", "0"]
    if not SLOW and name == "fgvc_11785":  # the other says something of each of the five
        Path("two.yaml").write_text("networks: [model_i, model_v]")
        small.append("--design=two.yaml")
    return [*study, *small, "--models", *MODELS]


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def results(folder, phase):
    paths = sorted((folder / phase).glob("runs/*/result.json"))
    arguments = [yaml.safe_load(path.with_name("args.yaml").read_text()) for path in paths]
    return list(zip([json.loads(path.read_text()) for path in paths], arguments, strict=True))


def test_the_documented_commands_take_official_archives_to_the_tables(
    here, hub_with_weights, no_charts, monkeypatch, capsys
):
    """With CONVNEXT_ABLATION_SLOW_TESTS set, of networks and baselines that the project reported."""
    monkeypatch.setattr(study_run, "engine_of", lambda *_: Inline())
    assert cli.main(prepared("fgvc_11785")) == 0
    told = capsys.readouterr()
    assert "DATA/imagenet: no test split; accuracies are on val, after the last epoch" in told.out
    assert re.findall(r"WARNING: (\S+?)/\w+: the images are enlarged", told.err) == [f"{here}/DATA/imagenet"]
    folder = here / "runs" / "fgvc"
    assert [result["test_images"] for result, _ in results(folder, "imagenet")] == [4] * NETWORKS
    for phase in ("cub200", "stanford-dogs"):
        assert len(results(folder, phase)) == NETWORKS + len(MODELS)
        for result, arguments in results(folder, phase):
            assert result["test_images"] == 3
            start = f"{folder}/imagenet/runs/{result['network']}-seed0-"
            assert result["model"] in MODELS or arguments["pretrained_path"].startswith(start)
        sizes = {result["model"]: run["model_kwargs"] for result, run in results(folder, f"{phase}_448")}
        assert sizes == {**{model: {} for model in MODELS}, MODELS[-1]: {"img_size": 448}}
    assert len(hub_with_weights.said("GET /storage")) == len(MODELS)
    kept = json.loads((folder / "cub200_448" / "study.json").read_text())["published weights"]
    assert kept == {model: weights_hash(model) for model in MODELS}
    accuracies = rows(folder / "report" / "data_sets.csv")
    assert len(accuracies) == NETWORKS + 2 * (NETWORKS + 2 * len(MODELS))
    tables = {path.stem: rows(path) for path in (folder / "report").glob("fgvc_11785*.csv")}
    measured = {name: sum(bool(row["measured"]) for row in table) for name, table in tables.items()}
    assert sorted(measured.values()) == ([5, 10, 12] if SLOW else [])


def test_the_documented_commands_of_what_was_reported_fit_together(here, hub_with_weights):
    command = ["study", "run", *prepared("fgvc_11785_as_reported")[1:]]
    phases = [study for study, _ in plan_phases(cli._parser(command).parse_args(command))]
    sizes = {
        phase.phase: (phase.runs_of(phase.points[0]), phase.recipe["input_size"][-1]) for phase in phases
    }
    fine = {name: (1, 448 if name.endswith("448") else 224) for name in [*sizes][1:]}
    assert sizes == {"imagenet": (1, 112), **fine}
    assert [Path(phase.data_dir).name for phase in phases] == [
        "imagenet", "cub200_256", "dogs_256", "cub200_512", "dogs_512",
    ]  # fmt: skip


@pytest.mark.parametrize("fault", [404, None])
def test_published_weights_that_cannot_be_fetched_are_missed_before_anything_is_trained(
    here, hub_with_weights, capsys, fault
):
    command = prepared("fgvc_11785")
    hub_with_weights.faults.append(("model.safetensors", 404)) if fault else hub_with_weights.close()
    assert cli.main(command) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith(f"convnext-ablation: error: timm/{MODELS[0]}: model.safetensors: ")
    assert not (here / "runs").exists()


@pytest.mark.parametrize("name", built_in("experiments"))
def test_models_of_the_shipped_experiments_have_weights_or_start_from_scratch(name):
    experiment = yaml.safe_load(built_in("experiments")[name].read_text())
    phases = [phase for phase in experiment["phases"].values() if phase.get("networks") != "design"]
    from_scratch = all(
        phase.get("set", {}).get("pretrained") is False for phase in phases if "start" not in phase
    )
    for model in experiment["models"]:
        assert timm.get_pretrained_cfg(model).hf_hub_id == (None if from_scratch else f"timm/{model}")
