"""Publishing a finished run: what is written and sent, and that it comes back bit for bit."""

import argparse
import csv
import json
import os
import re
import shutil
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
import yaml
from hub_server import TOKEN
from huggingface_hub import constants
from safetensors.torch import load_file

from convnext_ablation.cli import parsers
from convnext_ablation.cli import publish as publish_command
from convnext_ablation.cli import train as train_command
from convnext_ablation.cli import validate as validate_command
from convnext_ablation.cli import verify as verify_command
from convnext_ablation.data.folder import Record, write_manifest
from convnext_ablation.errors import UserError
from convnext_ablation.files import sha256_of
from convnext_ablation.hub.publish import FILES, target_of
from convnext_ablation.training.checkpoints import load_checkpoint
from convnext_ablation.weights import download

# of the hub's client, about itself
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

CPU = ("--device", "cpu", "-j", 0)
COLOUR = "--input-size 3 32 32 --mean 0.5 0.5 0.5 --std 0.25 0.25 0.25 --crop-pct 0.9".split()
NAME = "model_iv_atto.shades_32"
REPOSITORY = f"lab/{NAME}"


@pytest.fixture(scope="module")
def data(tmp_path_factory, image_folder):
    """A prepared data set: noisy images in three shades."""
    root = Path(shutil.copytree(image_folder, tmp_path_factory.mktemp("data") / "shades"))
    paths = [path.relative_to(root) for path in root.glob("*/*/*.png")]
    write_manifest(root, [Record(str(path), *path.parts[:2], "", sha256_of(root / path)) for path in paths])
    (root / "dataset.json").write_text('{"name": "shades"}')
    return root


@pytest.fixture(scope="module")
def train(data, recipe_file, tmp_path_factory):
    """Trains a network of this name by the recipe, and returns the folder of its run."""

    def run(model, *more):
        folder = tmp_path_factory.mktemp("runs")
        arguments = [data, "-c", recipe_file, "--test-split", "test", *CPU, "--model", model, *more]
        arguments += ["--output", folder, "--experiment", "run"]
        assert train_command.main([str(argument) for argument in arguments]) == 0
        return folder / "run"

    return run


def publish(*argv, command=publish_command, add_arguments=parsers.add_publish):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    command.run(parser.parse_args([str(argument) for argument in argv]))


def verify(*argv):
    publish(*argv, *CPU, command=verify_command, add_arguments=parsers.add_verify)


def refused(match, *argv):
    """The command is refused with this in one line."""
    with pytest.raises(UserError, match=match) as raised:
        publish(*argv)
    assert "\n" not in str(raised.value)


@pytest.fixture(scope="module")
def finished(train):
    """A finished run whose averaged weights were evaluated."""
    return train("model_iv_atto", *COLOUR, "--model-ema", "--seed", 7)


@pytest.fixture(scope="module")
def released(finished, tmp_path_factory):
    """The folder of its release."""
    folder = tmp_path_factory.mktemp("weights") / NAME
    publish(finished, "--to", folder, "--license", "cc-by-4.0")
    return folder


@pytest.fixture(scope="module")
def tiny(train):
    """The same of the smallest network that timm has."""
    return train("test_resnet", "--model-ema", "--seed", 7)


@pytest.fixture
def run(tiny, tmp_path):
    """A copy of that, to be changed."""
    return Path(shutil.copytree(tiny, tmp_path / "run"))


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def edit_yaml(path, **changes):
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


# what a release holds


def test_a_release_holds_the_evaluated_weights_and_timms_config_with_a_hash(finished, released, data):
    path, config = released / "model.safetensors", config_of(released)
    published = load_file(path)
    trained = load_checkpoint(finished / "model_best.pth.tar")["state_dict_ema"]
    assert published.keys() == trained.keys()
    assert all(torch.equal(published[name], trained[name]) for name in trained)
    assert config["pretrained_cfg"]["input_size"] == [3, 32, 32]
    assert config["pretrained_cfg"]["crop_pct"] == 0.9
    assert config["pretrained_cfg"]["license"] == "cc-by-4.0"
    assert config["label_names"] == ["dark", "grey", "light"]
    assert config["weights"] == {"file": path.name, "sha256": sha256_of(path), "size": path.stat().st_size}
    assert sha256_of(data / "manifest.csv") in (released / "README.md").read_text()
    assert str(finished.parent.parent) not in (released / "config.json").read_text()
    assert [path.name for path in released.parent.iterdir()] == [NAME]
    assert {path.name for path in released.iterdir()} == set(FILES)


def test_switches_and_channels_come_back_with_the_network(train, tmp_path):
    switches = ("--model-kwargs", "kernel_size=5", "depthwise=True")
    run = train("resnet_to_convnext_atto", *switches, "--in-chans", 1, "--epochs", 1)
    publish(run, "--to", tmp_path / "free.shades")
    model = timm.create_model(f"local-dir:{tmp_path / 'free.shades'}", pretrained=True)
    trained = load_checkpoint(run / "model_best.pth.tar")["state_dict"]
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())
    assert (model.components.kernel_size, model.components.depthwise) == (5, True)
    assert timm.data.resolve_model_data_config(model)["input_size"] == (1, 32, 32)


def test_a_run_of_timms_script_is_published_too_and_without_the_data_says_less(run, data, tmp_path, capsys):
    saved = yaml.safe_load((run / "args.yaml").read_text())
    del saved["test_split"]
    timms = {"data": "/nowhere/shades", "data_dir": None, "aug_repeats": 0}
    (run / "args.yaml").write_text(yaml.safe_dump({**saved, **timms}))
    state = load_checkpoint(run / "model_best.pth.tar")
    del state["convnext_ablation"]  # which holds the names of the classes
    torch.save({**state, "args": Namespace(**saved)}, run / "model_best.pth.tar")
    (run / "test.json").unlink()
    publish(run, "--to", tmp_path / NAME)
    config, card = config_of(tmp_path / NAME), (tmp_path / NAME / "README.md").read_text()
    (result,) = config["trained"]["results"]
    assert (result["split"], result["images"], result["picked_on"]) == ("val", None, True)
    assert "label_names" not in config
    assert "timm's `train.py`" in card
    assert "/nowhere" not in card
    verify(tmp_path / NAME, "--data", data, "--split", "val")
    assert re.search("note: .*manifest.*\nverified: val, 15 images", capsys.readouterr().out)


def test_a_study_without_a_test_split_publishes_its_last_epoch_as_not_picked(run, tmp_path):
    test = json.loads((run / "test.json").read_text())
    (run / "test.json").unlink()
    (run / "test_predictions.npz").rename(run / "predictions.npz")
    shutil.copy(run / "last.pth.tar", run / "model_best.pth.tar")
    edit_yaml(run / "args.yaml", val_split="test")
    result = {"best_epoch": 1, "split": "test", "test_top1_percent": test["top1_percent"]}
    (run / "result.json").write_text(json.dumps({**result, "versions": {"torch": "2.9.9"}}))
    publish(run, "--to", tmp_path / NAME)
    trained = config_of(tmp_path / NAME)["trained"]
    (found,) = trained["results"]
    assert (found["split"], found["top1_percent"], found["picked_on"]) == (
        "test",
        test["top1_percent"],
        False,
    )
    assert (trained["epoch"], trained["versions"]) == (1, {"torch": "2.9.9"})


# into a folder


def test_a_release_in_a_folder_stays(tiny, tmp_path, capsys):
    publish(tiny, "--to", tmp_path / NAME)
    before = (tmp_path / NAME / "model.safetensors").stat()
    (tmp_path / "other").touch()
    assert {path.stat().st_mode for path in (tmp_path / NAME).iterdir()} == {
        (tmp_path / "other").stat().st_mode
    }
    (tmp_path / "other").unlink()
    publish(tiny, "--to", tmp_path / NAME)
    assert "nothing to do" in capsys.readouterr().out
    refused("holds another release; remove it", tiny, "--to", tmp_path / NAME, "--license", "mit")
    assert (tmp_path / NAME / "model.safetensors").stat() == before
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_what_holds_other_files_is_left_alone(tiny, tmp_path, hub):
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "thesis.tex").write_text("years of work")
    refused(r"holds thesis\.tex", tiny, "--to", tmp_path / NAME)
    assert [path.name for path in (tmp_path / NAME).iterdir()] == ["thesis.tex"]
    hub.add(REPOSITORY, {"data.csv": b"1"}, private=True)
    refused(r"holds data\.csv", tiny, "--to", REPOSITORY)
    assert not hub.said("POST")


# onto the hub


def test_a_publication_is_one_commit_to_a_private_repository(tiny, hub, capsys):
    publish(tiny, "--to", REPOSITORY, "--dry-run")
    assert not hub.requests
    assert re.search(r"model\.safetensors +[\d,]+ bytes", capsys.readouterr().out)
    publish(tiny, "--to", REPOSITORY)
    repository = hub.repositories[REPOSITORY]
    assert repository.private
    assert len(repository.commits) == 2  # the hub's own, and this
    assert set(repository.files) == {*FILES, ".gitattributes"}
    assert f"published hf-hub:{REPOSITORY}@{repository.head}" in capsys.readouterr().out
    publish(tiny, "--to", REPOSITORY)
    assert "nothing was sent" in capsys.readouterr().out
    publish(tiny, "--to", REPOSITORY, "--license", "mit")
    assert len(repository.commits) == 3
    hub.faults.append(("commit/main", 403))
    refused("403", tiny, "--to", REPOSITORY)
    assert len(repository.commits) == 3
    assert not hub.said("DELETE")


def test_public_is_public_and_needs_a_licence(tiny, hub):
    refused("--license", tiny, "--to", REPOSITORY, "--public")
    assert not hub.requests
    publish(tiny, "--to", REPOSITORY, "--public", "--license", "apache-2.0")
    assert not hub.repositories[REPOSITORY].private
    refused("is public; give --public", tiny, "--to", REPOSITORY, "--license", "mit")


def test_nothing_stays_of_a_first_publication_that_fails(tiny, hub, capsys):
    hub.faults.append(("PUT /upload", 403))
    refused("403", tiny, "--to", REPOSITORY)
    assert not hub.repositories
    hub.faults.append(("DELETE", 403))
    refused("403", tiny, "--to", REPOSITORY)
    assert re.search(rf"may be left; remove it at .*/{NAME}", capsys.readouterr().err)


def test_a_hub_that_asks_to_wait_is_published_to_later_and_a_slow_one_is_given_up(tiny, hub, monkeypatch):
    waited: list[float] = []
    monkeypatch.setattr(download, "time", SimpleNamespace(sleep=waited.append))
    for request, licence in (("repos/create", "mit"), ("preupload", "cc0-1.0"), ("commit/main", "other")):
        hub.faults.append((request, {"Retry-After": "7"}))
        publish(tiny, "--to", REPOSITORY, "--license", licence)
    assert waited == [7, 7, 7]
    assert len(hub.repositories[REPOSITORY].commits) == 4
    monkeypatch.setattr(download, "_LONGEST_WAIT", 0)
    monkeypatch.setattr(download, "_SLOWEST_SENT", 1e9)
    hub.faults.append(("commit/main", "drip"))
    refused("bytes were not sent in 0 s", tiny, "--to", REPOSITORY, "--license", "bsd-3-clause")


@pytest.mark.parametrize(
    ("token", "to", "said"),
    [
        ("", REPOSITORY, "no token"),
        (
            "hf_expired",
            REPOSITORY,
            "refuses the token, which may have expired; log in again with `hf auth login`",
        ),
        (TOKEN, f"others/{NAME}", "403"),
        (TOKEN, "lab/old", "lab/old: is called lab/new now; publish --to lab/new"),
    ],
)
def test_who_may_not_publish_is_told_in_a_line(tiny, hub, monkeypatch, token, to, said):
    hub.renamed["lab/old"] = "lab/new"
    hub.add("lab/new", {})
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere/token")
    refused(said, tiny, "--to", to)
    assert list(hub.repositories) == ["lab/new"]


def test_a_published_release_comes_back_bit_for_bit(finished, hub, tmp_path, monkeypatch):
    publish(finished, "--to", REPOSITORY)
    trained = load_checkpoint(finished / "model_best.pth.tar")["state_dict_ema"]
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CONVNEXT_ABLATION_HUB", "lab")
    for name in (f"hf-hub:{REPOSITORY}", NAME):
        model = timm.create_model(name, pretrained=True)
        assert model.pretrained_cfg["hf_hub_id"] == f"{REPOSITORY}@{hub.repositories[REPOSITORY].head}"
        assert all(torch.equal(value, trained[key]) for key, value in model.state_dict().items())


# evaluating the run itself


def test_validation_says_first_which_weights_it_took(tiny, data, capsys):
    best = tiny / "model_best.pth.tar"
    picked = json.loads((tiny / "test.json").read_text())["top1_percent"]
    given = [*map(str, (data, "--split", "test", "--checkpoint", best, *CPU))]
    assert validate_command.main(given) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith(f"{best}: plain weights, 3 classes, ")
    assert first.endswith("; --use-ema uses the averaged ones, by which the run picked its best epoch")
    assert validate_command.main([*given, "--use-ema"]) == 0
    first, *_, result = capsys.readouterr().out.partition("\n")
    assert first.startswith(f"{best}: averaged weights, 3 classes, ")
    assert f'"top1": {picked:.4f}'.rstrip("0") in result


def test_validation_takes_the_folder_of_a_run_or_of_its_release(finished, released, data, tmp_path, capsys):
    def validate(weights, *more):
        given = (data, "--split", "test", "--checkpoint", weights, *CPU, *more)
        return validate_command.main([*map(str, (*given, "--predictions-file", tmp_path / "rows.csv"))])

    assert validate(finished, "--use-ema") == 0
    rows = (tmp_path / "rows.csv").read_text()
    assert validate(finished) == validate(released) == 0
    assert (tmp_path / "rows.csv").read_text() == rows
    assert f"\n{released}/model.safetensors: averaged weights, 3 classes\n" in capsys.readouterr().out
    assert validate(released, "--model", "model_iv_atto") == validate(tmp_path) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"validate.py: error: {released} says of which network it is; leave --model out",
        f"validate.py: error: {tmp_path}: is no run and no release, it has neither model_best.pth.tar nor "
        "config.json; name a file",
    ]


# what is refused


def test_runs_that_are_not_finished_or_not_one_are_refused(run, data, tmp_path):
    to = ("--to", tmp_path / NAME)
    edit_yaml(run / "args.yaml", epochs=9)
    refused("only 2 of 9 epochs", run, *to)
    edit_yaml(run / "args.yaml", epochs=2)
    refused("has none of the run's splits", run, *to, "--data", tmp_path)
    edit_yaml(run / "args.yaml", epochs=2, model="model_v_atto")
    refused("aren't those of model_v_atto", run, *to)
    edit_yaml(run / "args.yaml", model="test_resnet")
    other = Path(shutil.copytree(data, tmp_path / "data"))
    image = next((other / "test").glob("*/*.png"))
    image.rename(image.with_name("other.png"))
    refused("other images in the split 'test'", run, *to, "--data", other)
    result = json.loads((run / "test.json").read_text())
    (run / "test.json").write_text(json.dumps({**result, "top1_percent": 99.0}))
    refused("files are of different runs", run, *to)
    (run / "test.json").write_text(json.dumps(result))
    state = load_checkpoint(run / "model_best.pth.tar")
    torch.save({**state, "epoch": 5}, run / "model_best.pth.tar")
    refused("is of epoch 5", run, *to)
    next(iter(state["state_dict_ema"].values())).flatten()[0] = float("nan")
    torch.save(state, run / "model_best.pth.tar")
    refused(r"model_best\.pth\.tar: conv1.0.weight isn't finite", run, *to)
    (run / "model_best.pth.tar").unlink()
    refused(r"has no model_best\.pth\.tar", run, *to)
    assert not (tmp_path / NAME).exists()


def test_where_to_is_never_guessed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert target_of(REPOSITORY) == target_of(f"hf-hub:{REPOSITORY}") == REPOSITORY
    assert target_of(f"./{REPOSITORY}") == tmp_path / REPOSITORY
    (tmp_path / "lab").mkdir()
    for unclear in (REPOSITORY, NAME):
        with pytest.raises(UserError, match=r"write .*\./"):
            target_of(unclear)
    refused(r"has no args\.yaml", "none", "--to", f"hf-hub:{REPOSITORY}")


# verify


def test_verify_computes_the_figures_again(released, data, capsys):
    verify(released, "--data", data)
    assert re.search(r"verified: test, 21 images, top-1 \d", capsys.readouterr().out)
    verify(released, "--data", data, "--split", "val")
    assert "verified: val, 15 images" in capsys.readouterr().out
    with pytest.raises(UserError, match="claims no figures on train; there are: test, val"):
        verify(released, "--data", data, "--split", "train")
    with pytest.raises(UserError, match="there is no release"):
        verify("./none", "--data", data)


def test_verify_on_other_data_says_what_differs(released, data, tmp_path, capsys):
    other = Path(shutil.copytree(data, tmp_path / "data"))
    (other / "classes.txt").write_text("light\ndark\ngrey\n")
    (other / "manifest.csv").write_text("id\n")
    next((other / "test").glob("*/*.png")).unlink()
    with pytest.raises(SystemExit) as raised:
        verify(released, "--data", other)
    assert raised.value.code == 1
    said = capsys.readouterr().out
    for differs in ("has 20 images, claimed are figures on 21", "in another order", "its SHA-256 isn't"):
        assert differs in said


def test_verify_leaves_out_broken_images_where_it_is_told_to(released, data, tmp_path, capsys):
    other = Path(shutil.copytree(data, tmp_path / "data"))
    broken = next((other / "test").glob("*/*.png"))
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(UserError, match=rf"^{broken}: can't be decoded"):
        verify(released, "--data", other)
    with pytest.raises(SystemExit, match="1"):
        verify(released, "--data", other, "--skip-bad-images", 1)
    said = capsys.readouterr().out
    assert "skipped, 1 of 21 images, which can't be decoded" in said
    assert "has 20 images, claimed are figures on 21" in said


def test_a_release_is_verified_and_evaluated_by_the_names_of_its_classes(train, data, tmp_path, capsys):
    (tmp_path / "map.txt").write_text("light\ndark\ngrey\n")
    run = train("model_iv_atto", *COLOUR, "--class-map", tmp_path / "map.txt", "--epochs", 1)
    publish(run, "--to", tmp_path / NAME)
    assert config_of(tmp_path / NAME)["label_names"] == ["light", "dark", "grey"]
    verify(tmp_path / NAME, "--data", data)
    assert "verified: test, 21 images" in capsys.readouterr().out

    less = Path(shutil.copytree(data / "test", tmp_path / "less" / "test"))
    shutil.rmtree(less / "dark")
    given = (less.parent, "--split", "test", "--model", f"local-dir:{tmp_path / NAME}", *CPU)
    given += ("--per-class-file", tmp_path / "classes.csv")
    assert validate_command.main([*map(str, given)]) == 0
    rows = list(csv.DictReader((tmp_path / "classes.csv").open()))
    assert [(row["class"], row["images"]) for row in rows] == [("light", "7"), ("dark", "0"), ("grey", "7")]
    file = ("--checkpoint", tmp_path / NAME / "model.safetensors", "--model", "model_iv_atto", *COLOUR)
    assert validate_command.main([*map(str, (*given, *file))]) == 0
    assert list(csv.DictReader((tmp_path / "classes.csv").open())) == rows


def test_verify_finds_a_figure_that_is_too_high_and_weights_that_are_others(released, data, tmp_path, capsys):
    release = Path(shutil.copytree(released, tmp_path / NAME))
    config = config_of(release)
    result = config["trained"]["results"][0]
    true, result["top1_percent"] = result["top1_percent"], result["top1_percent"] + 100 / 21
    (release / "config.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit):
        verify(release, "--data", data)
    assert f"differs: top-1 is {true:.3f} %, claimed are {true + 100 / 21:.3f} %" in capsys.readouterr().out
    verify(release, "--data", data, "--tolerance", 9)
    with pytest.raises(UserError, match="--tolerance is nan; give 0 or more"):
        verify(release, "--data", data, "--tolerance", "nan")
    with open(release / "model.safetensors", "r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"other")
    with pytest.raises(UserError, match="refused"):
        verify(release, "--data", data)
