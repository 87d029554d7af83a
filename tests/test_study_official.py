"""From official archives to finished phases, by the commands in the header of a shipped experiment."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest
import timm
import yaml
from hub_server import TOKEN
from huggingface_hub import constants
from inline_engine import Inline
from official_archives import bird_files, dog_files, write_imagenet, write_tar
from safetensors.torch import save

from convnext_ablation.cli import main as cli
from convnext_ablation.cli import study_run
from convnext_ablation.study.experiment_file import experiment_names, experiment_path
from convnext_ablation.study.phases import read_phases
from convnext_ablation.study.setup import plan_phases
from convnext_ablation.study.status import Survey

MODEL = "test_vit.r160_in1k"  # of timm; for images of one size only
CLASSES = {"imagenet": 2, "cub200": 3, "stanford-dogs": 2}
SLOW = bool(os.environ.get("CONVNEXT_ABLATION_SLOW_TESTS"))


def commands_of(name):
    """The commands in an experiment's header, the study last."""
    text = re.sub(r" \\\n# +", " ", experiment_path(name).read_text())
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
    """The hub has the weights of one model of timm; nothing is in the cache."""
    for name, value in {"HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(tmp_path / "hub")}.items():
        monkeypatch.setenv(name, value)  # for processes
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    hub.add(f"timm/{MODEL}", {"model.safetensors": save(timm.create_model(MODEL).state_dict())})
    return hub


def prepared(name):
    """Prepares the data sets; the study's command, in miniature."""
    *prepare, study = commands_of(name)
    for command in prepare:
        held_out = ["--val=1"] if command[1] != "imagenet" else []
        assert cli.main([*command, "--unofficial", *held_out]) == 0
    phases = yaml.safe_load(experiment_path(name).read_text())["phases"]
    data = {phase: said["data"].partition("_")[0] for phase, said in phases.items()}
    classes = [f"{phase}.num_classes={CLASSES[each]}" for phase, each in data.items()]
    small = ["--width=atto", "--precision=float32", "--device=cpu", "--enlarge", "--epochs=1"]
    small += ["--batch-size=2", "--set", "global_batch=2", *classes, "--models", MODEL]
    return [*study, *small, *([] if SLOW else ["--seeds", "0"])]


def results(folder, phase):
    paths = sorted((folder / phase).glob("runs/*/result.json"))
    arguments = [yaml.safe_load(path.with_name("args.yaml").read_text()) for path in paths]
    return list(zip([json.loads(path.read_text()) for path in paths], arguments, strict=True))


def test_the_documented_commands_take_official_archives_to_finished_phases(
    here, hub_with_weights, monkeypatch, capsys
):
    """With CONVNEXT_ABLATION_SLOW_TESTS set, all seeds, in processes of their own."""
    if not SLOW:
        monkeypatch.setattr(study_run, "engine_of", lambda *_: Inline())
    command, seeds = prepared("fgvc_11785"), 3 if SLOW else 1
    assert cli.main(command) == 0
    told = capsys.readouterr()
    assert "DATA/imagenet: no test split; accuracies are on val, after the last epoch" in told.out
    assert re.findall(r"WARNING: (\S+?)/\w+: the images are enlarged", told.err) == [f"{here}/DATA/imagenet"]
    folder = here / "runs" / "fgvc"
    assert [result["test_images"] for result, _ in results(folder, "imagenet")] == [4] * 5
    for phase in ("cub200", "stanford-dogs"):
        assert len(results(folder, phase)) == 6 * seeds
        for result, arguments in results(folder, phase):
            assert result["test_images"] == 3
            start = f"{folder}/imagenet/runs/{result['network']}-seed0-"
            assert result["model"] == MODEL or arguments["pretrained_path"].startswith(start)
        for result, arguments in results(folder, f"{phase}_448"):
            assert (result["model"], result["test_images"]) == (MODEL, 3)
            assert arguments["model_kwargs"] == {"img_size": 448}
    assert len(hub_with_weights.said("GET /storage")) == 1
    states = Survey(read_phases(folder), folder).look()
    assert [state.status for state in states] == ["done"] * (5 + 2 * 7 * seeds)


def test_the_documented_commands_of_what_was_reported_fit_together(here, hub_with_weights):
    command = ["study", "run", *prepared("fgvc_11785_as_reported")[1:]]
    phases = [study for study, _ in plan_phases(cli._parser(command).parse_args(command))]
    sizes = {phase.phase: (phase.runs_each, phase.recipe["input_size"][-1]) for phase in phases}
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
    assert line.startswith(f"convnext-ablation: error: timm/{MODEL}: model.safetensors: ")
    assert not (here / "runs").exists()


@pytest.mark.parametrize("name", experiment_names())
def test_models_of_the_shipped_experiments_have_weights(name):
    for model in yaml.safe_load(experiment_path(name).read_text())["models"]:
        assert timm.get_pretrained_cfg(model).hf_hub_id == f"timm/{model}"
