"""Publishing a finished run: what is written and sent, and that it comes back bit for bit."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from conftest import ONE_THREAD
from hub_server import TOKEN, Hub
from huggingface_hub import HfApi, ModelCard, constants
from published_runs import draw_images, publish, train, verify
from safetensors.torch import load_file

from convnext_ablation.errors import UserError
from convnext_ablation.hub import publish_study
from convnext_ablation.hub.publish import FILES, target_of
from convnext_ablation.study.stats.effects import accuracy
from convnext_ablation.training.checkpoints import load_checkpoint
from convnext_ablation.training.predictions import Predictions

# of the hub's client, about itself
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

NAME = "model_iv_atto.shades_32"
REPOSITORY = f"lab/{NAME}"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_images(tmp_path_factory.mktemp("data") / "shades")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    """A finished run whose averaged weights were evaluated."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    return train(data, folder, "--model", "model_iv_atto", "--epochs", 2, "--model-ema", "--seed", 7)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, data):
    """The same of the smallest network that timm has."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    return train(data, folder, "--model", "test_resnet", "--epochs", 2, "--model-ema", "--seed", 7)


@pytest.fixture
def run(tiny, tmp_path):
    """A copy of that, to be changed."""
    return Path(shutil.copytree(tiny, tmp_path / "run"))


@pytest.fixture(autouse=True)
def _home(tmp_path_factory, monkeypatch):
    """The hub's client keeps nothing in the home of who runs the tests."""
    home = str(tmp_path_factory.mktemp("home"))
    monkeypatch.setattr(constants, "HF_HOME", home)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setenv("HF_HOME", home)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that this process publishes to, by LFS."""
    with Hub(tmp_path / "hub") as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        for name in ("HF_TOKEN", "NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, hub.environment(tmp_path)[name])
        yield hub


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def edit_yaml(path, **changes):
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


# what a release holds


@pytest.mark.parametrize(("weights", "key"), [("auto", "state_dict_ema"), ("plain", "state_dict")])
def test_a_release_holds_the_weights_that_were_asked_for(finished, tmp_path, weights, key):
    publish(finished, "--to", tmp_path / NAME, "--weights", weights)
    published = load_file(tmp_path / NAME / "model.safetensors")
    trained = load_checkpoint(finished / "model_best.pth.tar")[key]
    assert published.keys() == trained.keys()
    assert all(torch.equal(published[name], trained[name]) for name in trained)
    # what was evaluated are the averaged weights, so of the others no figure is known
    assert bool(config_of(tmp_path / NAME)["trained"]["results"]) == (weights == "auto")
    assert sorted(path.name for path in (tmp_path / NAME).iterdir()) == sorted(FILES)
    assert not list(tmp_path.glob(".*"))


def test_auto_takes_the_plain_weights_of_a_run_that_evaluated_those(run, tmp_path):
    edit_yaml(run / "args.yaml", model_ema_force_cpu=True)
    publish(run, "--to", tmp_path / NAME)
    assert config_of(tmp_path / NAME)["trained"]["weights"] == "plain"


def test_the_config_is_what_timm_writes_with_a_hash(finished, tmp_path):
    publish(finished, "--to", tmp_path / NAME, "--license", "cc-by-4.0")
    config = config_of(tmp_path / NAME)
    model = timm.create_model(f"local-dir:{tmp_path / NAME}", pretrained=True)
    timm.models.save_for_hf(model, str(tmp_path / "timms"), safe_serialization=True)
    theirs = config_of(tmp_path / "timms")
    for name in ("num_classes", "num_features", "global_pool", "architecture"):
        assert config.get(name) == theirs.get(name), name
    for name in ("input_size", "mean", "std", "crop_pct", "interpolation", "first_conv", "classifier"):
        assert config["pretrained_cfg"][name] == theirs["pretrained_cfg"][name], name
    assert config["pretrained_cfg"]["input_size"] == [3, 32, 32]
    assert config["pretrained_cfg"]["crop_pct"] == 0.9
    assert config["pretrained_cfg"]["license"] == "cc-by-4.0"
    assert config["label_names"] == ["dark", "light grey", "white"]
    assert config["weights"]["size"] == (tmp_path / NAME / "model.safetensors").stat().st_size
    assert str(finished.parent.parent) not in (tmp_path / NAME / "config.json").read_text()


def test_switches_and_channels_come_back_with_the_network(data, tmp_path):
    more = ("--model-kwargs", "kernel_size=5", "depthwise=True", "--in-chans", 1, "--input-size", 1, 32, 32)
    more = (*more, "--mean", 0.5, "--std", 0.25, "--epochs", 1, "--model", "resnet_to_convnext_atto")
    run = train(data, tmp_path / "run", *more)
    publish(run, "--to", tmp_path / "free.shades")
    model = timm.create_model(f"local-dir:{tmp_path / 'free.shades'}", pretrained=True)
    trained = load_checkpoint(run / "model_best.pth.tar")["state_dict"]
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())
    assert timm.data.resolve_model_data_config(model)["input_size"] == (1, 32, 32)


def test_a_run_of_timms_script_is_published_too(run, tmp_path):
    saved = yaml.safe_load((run / "args.yaml").read_text())
    for name in ("test_split", "skip_bad_images"):
        del saved[name]
    timms = {"data": saved["data_dir"], "data_dir": None, "aug_repeats": 0}
    (run / "args.yaml").write_text(yaml.safe_dump({**saved, **timms}))
    state = load_checkpoint(run / "model_best.pth.tar")
    torch.save({**state, "args": Namespace(**saved)}, run / "model_best.pth.tar")
    for name in ("test.json", "test_predictions.npz"):
        (run / name).unlink()
    publish(run, "--to", tmp_path / NAME)
    (result,) = config_of(tmp_path / NAME)["trained"]["results"]
    assert (result["split"], result["images"], result["picked_on"]) == ("val", 9, True)
    card = (tmp_path / NAME / "README.md").read_text()
    assert "timm's `train.py`" in card
    assert "trained on shades (3 classes" in card
    assert saved["data_dir"] not in card


def test_without_the_data_the_release_says_less(run, data, tmp_path, capsys):
    edit_yaml(run / "args.yaml", data_dir="/nowhere/shades")
    publish(run, "--to", tmp_path / NAME)
    config = config_of(tmp_path / NAME)
    assert "label_names" not in config
    assert config["trained"]["manifest_sha256"] is None
    test, validation = config["trained"]["results"]
    assert (test["images"], validation["images"]) == (12, None)
    card = (tmp_path / NAME / "README.md").read_text()
    assert "names of the classes weren't known" in card
    assert "/nowhere" not in card
    verify(tmp_path / NAME, "--data", data, "--split", "val")
    assert re.search("note: .*manifest.*\nverified: val, 9 images", capsys.readouterr().out)


def test_every_figure_of_the_card_is_one_of_the_runs_files(finished, data, tmp_path):
    publish(finished, "--to", tmp_path / NAME, "--license", "mit")
    text = (tmp_path / NAME / "README.md").read_text()
    test, predictions = json.loads((finished / "test.json").read_text()), finished / "test_predictions.npz"
    with open(finished / "summary.csv", newline="") as file:
        epoch = next(row for row in csv.DictReader(file) if int(row["epoch"]) == test["epoch"])
    exact = {
        "test": (test["top1"], test["top5"], 12, Predictions.load(predictions).correct),
        "val": (float(epoch["eval_top1"]), float(epoch["eval_top5"]), 9, None),
    }
    told = {
        (result.dataset_split, result.metric_type): result for result in ModelCard(text).data.eval_results
    }
    assert len(told) == 4
    for split, (top1, top5, images, correct) in exact.items():
        assert told[split, "accuracy"].metric_value == round(top1, 3)
        assert told[split, "top_5_accuracy"].metric_value == round(top5, 3)
        if correct is None:
            correct = np.arange(images) < round(top1 * images / 100)
        bounds = accuracy(correct[None])
        interval = f"[{100 * bounds.low:.2f}, {100 * bounds.high:.2f}]"
        assert f"| {split} | {images} | {top1:.2f} {interval} | {top5:.2f} |" in text
    assert f"after epoch {test['epoch']}, counted from 0, of 2." in text
    parameters = sum(
        value.numel()
        for name, value in load_file(tmp_path / NAME / "model.safetensors").items()
        if not re.search("running_|num_batches", name)
    )
    assert f"- {parameters / 1e6:.2f} M parameters" in text
    assert hashlib.sha256((tmp_path / NAME / "model.safetensors").read_bytes()).hexdigest() in text
    assert hashlib.sha256((data / "manifest.csv").read_bytes()).hexdigest() in text
    recipe = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.S)[1])
    saved = yaml.safe_load((finished / "args.yaml").read_text())
    assert recipe == {name: saved[name] for name in recipe}
    assert {
        "batch_size",
        "lr",
        "opt",
        "epochs",
        "seed",
        "model_ema",
        "crop_pct",
        "input_size",
    } < recipe.keys()


# into a folder


def test_publishing_the_same_again_into_a_folder_changes_nothing(tiny, tmp_path, capsys):
    publish(tiny, "--to", tmp_path / NAME)
    before = (tmp_path / NAME / "model.safetensors").stat()
    publish(tiny, "--to", tmp_path / NAME)
    assert "nothing to do" in capsys.readouterr().out
    assert (tmp_path / NAME / "model.safetensors").stat() == before
    publish(tiny, "--to", tmp_path / NAME, "--weights", "plain")
    assert "anew" in capsys.readouterr().out
    assert config_of(tmp_path / NAME)["trained"]["weights"] == "plain"
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_a_release_that_can_not_be_replaced_stays(tiny, tmp_path, monkeypatch):
    publish(tiny, "--to", tmp_path / NAME)
    before = (tmp_path / NAME / "config.json").read_text()
    replace = os.replace

    def fails_for_the_new_one(source, target):
        if Path(target) == tmp_path / NAME and Path(source).name == "release":
            raise OSError("the disk is gone")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails_for_the_new_one)
    with pytest.raises(OSError, match="disk is gone"):
        publish(tiny, "--to", tmp_path / NAME, "--weights", "plain")
    assert (tmp_path / NAME / "config.json").read_text() == before


def test_a_folder_with_other_files_is_left_alone(tiny, tmp_path):
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"holds thesis\.tex"):
        publish(tiny, "--to", tmp_path / NAME)
    assert [path.name for path in (tmp_path / NAME).iterdir()] == ["thesis.tex"]


def test_a_dry_run_shows_everything_and_writes_nothing(tiny, tmp_path, hub, capsys):
    publish(tiny, "--to", tmp_path / "new" / NAME, "--dry-run")
    shown = capsys.readouterr().out
    publish(tiny, "--to", tmp_path / "new" / NAME)
    for name in FILES:
        size = (tmp_path / "new" / NAME / name).stat().st_size
        assert re.search(rf"{re.escape(name)} +{size:,} bytes", shown)
    assert (tmp_path / "new" / NAME / "README.md").read_text() in shown
    shutil.rmtree(tmp_path / "new")
    publish(tiny, "--to", REPOSITORY, "--dry-run")
    publish(tiny, "--to", tmp_path / "new" / NAME, "--dry-run")
    assert not hub.requests
    assert not (tmp_path / "new").exists()


# onto the hub


def test_the_first_publication_makes_a_private_repository_with_one_commit(tiny, hub, capsys):
    publish(tiny, "--to", REPOSITORY)
    repository = hub.repositories[REPOSITORY]
    assert repository.private
    assert len(repository.commits) == 2  # the hub's own, and this
    sha256 = json.loads(hub.files(REPOSITORY)["config.json"])["weights"]["sha256"]
    assert hub.said() == [
        "GET /api/whoami-v2",
        f"GET /api/models/{REPOSITORY}",
        "POST /api/repos/create",
        "POST /api/validate-yaml",
        f"POST /api/models/{REPOSITORY}/preupload/main",
        f"POST /{REPOSITORY}.git/info/lfs/objects/batch",
        f"PUT /upload/{sha256}",
        f"POST /verify/{sha256}",
        f"POST /api/models/{REPOSITORY}/commit/main",
    ]
    header, *files = hub.requests[-1].body
    assert header["value"]["summary"] == f"Publish {NAME}, epoch {config_epoch(hub)}"
    assert {(line["key"], line["value"]["path"]) for line in files} == {
        ("file", "config.json"),
        ("lfsFile", "model.safetensors"),
        ("file", "README.md"),
    }
    assert all(request.token == TOKEN for request in hub.requests if "upload/" not in request.path)
    assert repository.head.oid in capsys.readouterr().out


def config_epoch(hub):
    return json.loads(hub.files(REPOSITORY)["config.json"])["trained"]["epoch"]


def test_the_same_again_sends_nothing_and_other_weights_make_a_revision(tiny, hub, capsys):
    publish(tiny, "--to", REPOSITORY)
    first, count = hub.repositories[REPOSITORY].head.oid, len(hub.requests)
    publish(tiny, "--to", REPOSITORY)
    assert [str(each) for each in hub.requests[count:]] == [
        "GET /api/whoami-v2",
        f"GET /api/models/{REPOSITORY}",
    ]
    assert "nothing was sent" in capsys.readouterr().out
    publish(tiny, "--to", REPOSITORY, "--weights", "plain")
    assert len(hub.repositories[REPOSITORY].commits) == 3
    assert hub.requests[-1].body[0]["value"]["parentCommit"] == first
    assert hub.files(REPOSITORY, first)["model.safetensors"] != hub.files(REPOSITORY)["model.safetensors"]


def test_public_is_public_and_needs_a_licence(tiny, hub):
    with pytest.raises(UserError, match="--license"):
        publish(tiny, "--to", REPOSITORY, "--public")
    assert not hub.requests
    publish(tiny, "--to", REPOSITORY, "--public", "--license", "apache-2.0")
    assert not hub.repositories[REPOSITORY].private
    with pytest.raises(UserError, match="is public; give --public"):
        publish(tiny, "--to", REPOSITORY, "--weights", "plain")


@pytest.mark.parametrize("fails", ["preupload", "PUT /upload", "commit/main"])
def test_nothing_stays_of_a_first_publication_that_fails(tiny, hub, fails):
    hub.fault(fails, 403)
    with pytest.raises(UserError, match=r"not published .*nothing is left") as raised:
        publish(tiny, "--to", REPOSITORY)
    assert "\n" not in str(raised.value)
    assert REPOSITORY not in hub.repositories
    assert hub.said("DELETE")
    hub.heal()
    publish(tiny, "--to", REPOSITORY)
    assert set(FILES) < set(hub.files(REPOSITORY))


def test_a_repository_that_can_not_be_removed_is_told_of(tiny, hub):
    hub.fault("commit/main|DELETE", 403)
    with pytest.raises(UserError, match=rf"may be left; remove it at .*/{NAME}"):
        publish(tiny, "--to", REPOSITORY)


def test_a_first_publication_that_is_interrupted_leaves_nothing(tiny, hub, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(HfApi, "create_commit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        publish(tiny, "--to", REPOSITORY)
    assert not hub.repositories
    assert "not published; nothing is left" in capsys.readouterr().err


def test_a_commit_whose_answer_is_lost_was_made(tiny, hub, capsys):
    hub.fault("commit/main", "lose")
    publish(tiny, "--to", REPOSITORY)
    assert f"published hf-hub:{REPOSITORY}@{hub.repositories[REPOSITORY].head.oid}" in capsys.readouterr().out
    assert not hub.said("DELETE")


def test_a_failed_revision_leaves_the_one_before(tiny, hub):
    publish(tiny, "--to", REPOSITORY)
    before = hub.files(REPOSITORY)
    hub.fault("commit/main", 403)
    with pytest.raises(UserError, match="403"):
        publish(tiny, "--to", REPOSITORY, "--weights", "plain")
    assert hub.files(REPOSITORY) == before
    assert not hub.said("DELETE")


def test_a_repository_with_other_files_is_left_alone(tiny, hub):
    hub.add(REPOSITORY, {"data.csv": b"1"}, private=True)
    with pytest.raises(UserError, match=r"holds data\.csv"):
        publish(tiny, "--to", REPOSITORY)
    assert not hub.said("POST")


@pytest.mark.parametrize(
    ("token", "to", "said"),
    [
        ("", REPOSITORY, "no token"),
        ("hf_wrong", REPOSITORY, "token is not valid"),
        (TOKEN, f"others/{NAME}", "may not write there"),
    ],
)
def test_who_may_not_publish_is_told_in_a_line(tiny, hub, monkeypatch, token, to, said):
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere/token")
    with pytest.raises(UserError, match=said) as raised:
        publish(tiny, "--to", to)
    assert "\n" not in str(raised.value)
    assert not hub.repositories


def test_a_dead_hub_is_told_in_a_line(tiny, hub):
    hub.close()
    with pytest.raises(UserError, match="can't be reached") as raised:
        publish(tiny, "--to", REPOSITORY)
    assert "\n" not in str(raised.value)


# back from the hub

READ_BACK = """
import sys, timm, torch, convnext_ablation
logits = {}
for name in sys.argv[2:]:
    model = timm.create_model(name, pretrained=True).eval()
    images = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits[name] = {"logits": model(images), "state": model.state_dict()}
torch.save(logits, sys.argv[1])
"""


def test_what_was_published_comes_back_bit_for_bit_in_another_process(finished, hub, tmp_path, monkeypatch):
    with monkeypatch.context() as by_xet:
        by_xet.setattr(constants, "HF_HUB_DISABLE_XET", False)
        publish(finished, "--to", REPOSITORY)
    assert f"GET /api/models/{REPOSITORY}/xet-write-token/main" in hub.said()
    assert not hub.said("lfs/objects")
    first = hub.repositories[REPOSITORY].head.oid
    publish(finished, "--to", REPOSITORY, "--weights", "plain")
    pinned = f"hf-hub:{REPOSITORY}@{first}"
    names = (pinned, f"hf-hub:{REPOSITORY}", NAME)
    environment = {**ONE_THREAD, **hub.environment(tmp_path / "cache"), "CONVNEXT_ABLATION_HUB": "lab"}
    command = [sys.executable, "-c", READ_BACK, str(tmp_path / "logits.pt"), *names]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=120)
    back = torch.load(tmp_path / "logits.pt")
    state = load_checkpoint(finished / "model_best.pth.tar")
    for name, key in zip(names, ("state_dict_ema", "state_dict", "state_dict"), strict=True):
        model = timm.create_model("model_iv_atto", num_classes=3).eval()
        model.load_state_dict(state[key])
        with torch.inference_mode():
            logits = model(torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(0)))
        assert torch.equal(back[name]["logits"], logits), name
        assert all(torch.equal(back[name]["state"][at], value) for at, value in state[key].items())


# what is refused


def test_runs_that_are_not_finished_or_not_one_are_refused(run, tmp_path):
    def refused(match):
        with pytest.raises(UserError, match=match) as raised:
            publish(run, "--to", tmp_path / NAME)
        assert "\n" not in str(raised.value)
        assert not (tmp_path / NAME).exists()

    edit_yaml(run / "args.yaml", epochs=9)
    refused("only 2 of 9 epochs")
    edit_yaml(run / "args.yaml", epochs=2, model="model_v_atto")
    refused("aren't those of model_v_atto")
    edit_yaml(run / "args.yaml", model="model_of_mine")
    refused("not in timm's registry")
    edit_yaml(run / "args.yaml", model="test_resnet")
    result = json.loads((run / "test.json").read_text())
    (run / "test.json").write_text(json.dumps({**result, "top1": 99.0}))
    refused("files are of different runs")
    (run / "test.json").write_text(json.dumps(result))
    state = load_checkpoint(run / "model_best.pth.tar")
    torch.save({**state, "epoch": 5}, run / "model_best.pth.tar")
    refused("is of epoch 5")
    (run / "model_best.pth.tar").unlink()
    refused(r"has no model_best\.pth\.tar")


def test_data_other_than_those_of_the_test_are_refused(run, tmp_path, data):
    other = Path(shutil.copytree(data, tmp_path / "data"))
    for image in (other / "test").glob("*/*.png"):
        image.rename(image.with_name(f"other_{image.name}"))
    with pytest.raises(UserError, match="other images in the split 'test'"):
        publish(run, "--to", tmp_path / NAME, "--data", other)
    with pytest.raises(UserError, match="no such folder"):
        publish(run, "--to", tmp_path / NAME, "--data", tmp_path / "none")


def test_where_to_is_never_guessed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert target_of(REPOSITORY).repository == REPOSITORY
    assert target_of(f"./{REPOSITORY}").folder == Path(REPOSITORY)
    (tmp_path / "lab").mkdir()
    with pytest.raises(UserError, match=r"write \./lab"):
        target_of(REPOSITORY)
    assert target_of(f"hf-hub:{REPOSITORY}").repository == REPOSITORY
    for unclear in (NAME, "hf-hub:lab"):
        with pytest.raises(UserError, match=r"NAMESPACE"):
            target_of(unclear)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--to", REPOSITORY], "name the folder of one run"),
        (["run", "--to", REPOSITORY, "--tag", "x"], "--tag is for --study"),
        (["run", "--to", REPOSITORY, "--license", "All rights reserved"], "give an identifier"),
        (["none", "--to", REPOSITORY], "no such folder"),
    ],
)
def test_bad_arguments_are_told_in_a_line(argv, said):
    with pytest.raises(UserError, match=said):
        publish(*argv)


# memory

MEASURE = """
import re, sys
sys.path.insert(0, sys.argv[1])
from published_runs import publish
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
before = peak()
publish(sys.argv[2], "--to", sys.argv[3])
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's count of a process's memory")
@pytest.mark.parametrize("to_hub", [False, True], ids=["to a folder", "to a hub"])
def test_publishing_holds_the_weights_once_or_twice_and_no_optimizer(run, hub, tmp_path, to_hub):
    model = timm.create_model("model_iv", num_classes=3)
    weights = model.state_dict()
    size = sum(value.nbytes for value in weights.values())
    moments = {"state": {0: {"exp_avg": torch.ones(size // 4)}}}
    torch.save({"epoch": 0, "state_dict": weights, "optimizer": moments}, run / "model_best.pth.tar")
    edit_yaml(run / "args.yaml", model="model_iv", model_ema=False, data_dir="/nowhere/shades")
    rows = (run / "summary.csv").read_text().splitlines()
    worse = rows[2].split(",")
    worse[3] = "0.0"
    (run / "summary.csv").write_text("\n".join([*rows[:2], ",".join(worse)]) + "\n")
    (run / "test.json").unlink()
    arguments = [Path(__file__).parent, run, REPOSITORY if to_hub else tmp_path / NAME]
    command = [sys.executable, "-c", MEASURE, *map(str, arguments)]
    environment = {**ONE_THREAD, **hub.environment(tmp_path / "its own")}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=120)
    used = int(done.stdout.splitlines()[-1])
    assert size > 100e6
    assert used < 2.5 * size, f"{used / size:.2f} times the weights"
    print(f"{used / size:.2f} times the weights")


# studies


@pytest.fixture(scope="module")
def study(tmp_path_factory, finished):
    """A study with two networks: of the first two seeds, of which the second did better on validation."""
    root = tmp_path_factory.mktemp("studies") / "shades"
    best = json.loads((finished / "test.json").read_text())
    for network, seed, top1 in (
        ("model_iv_atto", 0, 40.0),
        ("model_iv_atto", 1, 50.0),
        ("first_atto", 0, 30.0),
    ):
        folder = root / "runs" / f"{network}-seed{seed}-0123abcd"
        shutil.copytree(finished, folder)
        (folder / "test.json").unlink()
        (folder / "test_predictions.npz").rename(folder / "predictions.npz")
        edit_yaml(folder / "args.yaml", seed=seed)
        result = {"network": network, "seed": seed, "val_top1": top1, "best_epoch": best["epoch"]}
        result |= {"test_top1": best["top1"], "versions": {"torch": "2.9.9"}}
        (folder / "result.json").write_text(json.dumps(result))
    tuned = root / "runs" / "model_iv_atto-tuning"
    tuned.mkdir()
    (tuned / "result.json").write_text('{"network": "model_iv_atto", "seed": 0, "val_top1": 99.0}')
    return root


def test_a_study_is_published_by_validation_and_tied_together(study, tmp_path, capsys):
    publish("--study", study, "--to", tmp_path / "weights")
    names = ["first_atto.shades_32", "model_iv_atto.shades_32"]
    folders = [path for path in sorted((tmp_path / "weights").iterdir()) if path.is_dir()]
    assert [path.name for path in folders] == names
    assert [config_of(path)["trained"]["seed"] for path in folders] == [0, 1]
    assert config_of(folders[0])["trained"]["versions"] == {"torch": "2.9.9"}
    collection = (tmp_path / "weights" / "README.md").read_text()
    for name, folder in zip(names, folders, strict=True):
        test = config_of(folder)["trained"]["results"][0]
        row = rf"\[{name}\]\({name}/README.md\) \| test \| 12 \| {test['top1']:.2f} \["
        assert re.search(row, collection)
    assert f"[{names[0]}](../{names[0]})" in (folders[1] / "README.md").read_text()
    assert publish_study.RULE in capsys.readouterr().out
    assert timm.create_model(f"local-dir:{folders[1]}", pretrained=True).num_classes == 3


def test_a_study_on_the_hub_is_a_collection_and_again_is_nothing_new(study, hub, capsys):
    hub.fault("commit/main", 403, times=1)
    with pytest.raises(UserError, match="0 of 2 are published, the same command goes on"):
        publish("--study", study, "--to", "lab", "--tag", "s")
    publish("--study", study, "--to", "lab", "--tag", "s")
    publish("--study", study, "--to", "lab", "--tag", "s")
    assert hub.said("whoami") == 3 * ["GET /api/whoami-v2"]
    assert sorted(hub.repositories) == ["lab/first_atto.s", "lab/model_iv_atto.s"]
    assert all(len(repository.commits) == 2 for repository in hub.repositories.values())
    (collection,) = hub.collections.values()
    assert collection["private"]
    assert [item["item"]["id"] for item in collection["items"]] == sorted(hub.repositories)
    assert collection["items"][0]["note"].startswith("test: top-1 ")


def test_a_study_with_runs_of_other_settings_is_refused(study, tmp_path):
    other = Path(shutil.copytree(study, tmp_path / "study"))
    edit_yaml(other / "runs" / "model_iv_atto-seed1-0123abcd" / "args.yaml", lr=0.5)
    with pytest.raises(UserError, match="other settings"):
        publish("--study", other, "--to", tmp_path / "weights")
    with pytest.raises(UserError, match="no finished run"):
        publish("--study", tmp_path, "--to", tmp_path / "weights")


# verify


@pytest.fixture(scope="module")
def released(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / NAME
    publish(finished, "--to", folder)
    return folder


def test_verify_computes_the_figures_again(released, data, monkeypatch, capsys):
    verify(released, "--data", data)
    assert re.search(r"verified: test, 12 images, top-1 \d", capsys.readouterr().out)
    monkeypatch.setenv("CONVNEXT_ABLATION_WEIGHTS", str(released.parent))
    verify(NAME, "--data", data, "--split", "val")
    assert "verified: val, 9 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (
            lambda data: next((data / "test").glob("*/*.png")).unlink(),
            "has 11 images, claimed are figures on 12",
        ),
        (lambda data: (data / "manifest.csv").write_text("id\n"), "is another: its SHA-256 isn't"),
        (lambda data: (data / "manifest.csv").unlink(), r"has no manifest\.csv"),
        (lambda data: (data / "classes.txt").write_text("white\ndark\nlight grey\n"), "in another order"),
    ],
)
def test_verify_on_other_data_says_what_differs(released, data, tmp_path, harm, said, capsys):
    other = Path(shutil.copytree(data, tmp_path / "data"))
    harm(other)
    with pytest.raises(SystemExit) as raised:
        verify(released, "--data", other)
    assert raised.value.code == 1
    assert re.search(f"differs: .*{said}", capsys.readouterr().out)


def test_verify_finds_a_figure_that_is_too_high(released, data, tmp_path, capsys):
    release = Path(shutil.copytree(released, tmp_path / NAME))
    config = config_of(release)
    result = config["trained"]["results"][0]
    true, result["top1"] = result["top1"], result["top1"] + 100 / 12
    (release / "config.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit):
        verify(release, "--data", data)
    assert f"differs: top-1 is {true:.3f} %, claimed are {true + 100 / 12:.3f} %" in capsys.readouterr().out
    verify(release, "--data", data, "--tolerance", 9)


def test_verify_refuses_weights_that_are_not_those_published(released, data, tmp_path):
    release = Path(shutil.copytree(released, tmp_path / NAME))
    with open(release / "model.safetensors", "r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"other")
    with pytest.raises(UserError, match="refused"):
        verify(release, "--data", data)


def test_verify_says_what_it_can_not_verify(released, data, tmp_path, monkeypatch):
    monkeypatch.delenv("CONVNEXT_ABLATION_WEIGHTS", raising=False)
    for name, said in ((NAME, "say where it is"), ("model_iv", "write MODEL.TAG"), ("./none", "no release")):
        with pytest.raises(UserError, match=said):
            verify(name, "--data", data)
    with pytest.raises(UserError, match="claims no figures on train; there are: test, val"):
        verify(released, "--data", data, "--split", "train")
