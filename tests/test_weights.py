"""Where weights come from, and that they are the right ones: a real hub client, and a hub on loopback."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import hub_server
import pytest
import timm
import torch
from conftest import ONE_THREAD
from hub_server import Hub
from huggingface_hub import close_session, constants
from safetensors.torch import load, save
from timm.data import resolve_data_config
from timm.models._hub import has_hf_hub

import convnext_ablation.weights.hub as hub_client
from convnext_ablation import UserError
from convnext_ablation.cli import train as command
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.distributed import Processes
from convnext_ablation.training.parts import create_network
from convnext_ablation.weights import Place, find_release, integrity, read_release

MODEL = "model_iv_atto"
# timm 1.0.20 can't use today's hub client; ours does there, too
by_timm = pytest.mark.skipif(not has_hf_hub(), reason="this timm and this huggingface_hub don't go together")
NAME = f"lab/{MODEL}.cub"
CLASSES = ["ant", "bee", "cat"]
PREPROCESSING = {"input_size": [3, 64, 64], "crop_pct": 0.9, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
IMAGES = torch.linspace(-1, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64)


def randomized(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                noise = torch.rand(value.shape, generator=generator)
                value.copy_(noise + 0.5 if "running_var" in name else (noise - 0.5) / 10)
    return model.eval()


@pytest.fixture(scope="session")
def weights():
    return save(randomized(timm.create_model(MODEL, num_classes=len(CLASSES))).state_dict())


def release(content, **changes):
    """The files of a release."""
    config = {
        "architecture": MODEL,
        "num_classes": len(CLASSES),
        "num_features": 192,
        "label_names": CLASSES,
        "pretrained_cfg": {**PREPROCESSING, "num_classes": len(CLASSES), "interpolation": "bilinear"}
        | {"first_conv": "stem.conv", "classifier": "head.fc", "license": "cc0-1.0"},
        "weights": {
            "file": "model.safetensors",
            "sha256": hashlib.sha256(content).hexdigest(),
            "size": len(content),
        },
        "trained": {"top1": 90.0},
        **changes,
    }
    return {"config.json": json.dumps(config).encode(), "model.safetensors": content}


def write(folder, files):
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    """No test sees another's cache, nor a hub but its own."""
    for name in ("CONVNEXT_ABLATION_HUB", "CONVNEXT_ABLATION_WEIGHTS", "HF_HUB_ETAG_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HOME", str(home))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with Hub(tmp_path / "hub") as hub:
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        monkeypatch.setenv("HF_TOKEN", hub_server.TOKEN)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield hub


@pytest.fixture
def lab(hub, weights, monkeypatch):
    """A hub with a release, in the namespace that is set for all networks."""
    hub.add(NAME, release(weights))
    monkeypatch.setenv("CONVNEXT_ABLATION_HUB", "lab")
    return hub


def pretrained(name=f"{MODEL}.cub", **kwargs):
    return timm.create_model(name, pretrained=True, **kwargs)


def refusal(name=f"{MODEL}.cub", **kwargs):
    """The one line by which loading is refused."""
    with pytest.raises(UserError) as caught:
        pretrained(name, **kwargs)
    line = str(caught.value)
    assert "\n" not in line
    return line


def assert_loaded(model, weights):
    theirs = load(weights)
    assert all(torch.equal(value, theirs[key]) for key, value in model.state_dict().items())


# public weights


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("model_i", "resnet50"),
        ("resnet_to_convnext_stage1", "resnet50"),
        ("roadmap_00_resnet50", "resnet50"),
        ("model_v", "convnext_tiny"),
        ("resnet_to_convnext_stage5", "convnext_tiny"),
        ("roadmap_15_separate_downsampling", "convnext_tiny"),
    ],
)
def test_weights_of_timm_that_fit_have_their_tags(ours, theirs):
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{theirs}.*")]
    assert timm.list_pretrained(f"{ours}.*") == [f"{ours}.{tag}" for tag in tags]
    assert timm.get_pretrained_cfg(ours).tag == timm.get_pretrained_cfg(theirs).tag
    for tag in tags:
        cfg, timms = (timm.get_pretrained_cfg(f"{name}.{tag}").to_dict() for name in (ours, theirs))
        for key in timms.keys() - {"architecture", "url", "first_conv", "classifier", "origin_url"}:
            assert cfg[key] == timms[key], key
        assert cfg["hf_hub_id"] == f"timm/{theirs}.{tag}"
        assert (cfg["first_conv"], cfg["classifier"]) == ("stem.conv", "head.fc")
        assert cfg["origin_url"].startswith("https://")
        assert "url" not in cfg  # pickles


def test_no_other_network_has_weights():
    with_weights = {name.partition(".")[0] for name in timm.list_pretrained("*")}
    ours = set(timm.list_models(module="zoo"))
    assert with_weights & ours == {
        *("model_i", "resnet_to_convnext_stage1", "roadmap_00_resnet50"),
        *("model_v", "resnet_to_convnext_stage5", "roadmap_15_separate_downsampling"),
    }
    assert "model_i.a1_in1k" in timm.list_models(pretrained=True)


def test_networks_without_weights_are_prepared_for_alike():
    cfgs = [
        timm.create_model(name, device="meta").pretrained_cfg for name in ("model_i", "model_iv", "model_v")
    ]
    assert [resolve_data_config(pretrained_cfg=cfg) for cfg in cfgs[1:]] == [
        resolve_data_config(pretrained_cfg=cfgs[0])
    ] * 2
    assert not any(cfg.get("hf_hub_id") for cfg in cfgs)


@pytest.mark.parametrize(
    ("ours", "theirs", "tag"), [("model_i", "resnet50", "tv_in1k"), ("model_v", "convnext_tiny", "fb_in1k")]
)
def test_public_weights_give_the_logits_of_timm(hub, ours, theirs, tag):
    expected = randomized(timm.create_model(theirs))
    hub.add(f"timm/{theirs}.{tag}", {"model.safetensors": save(expected.state_dict())})
    model = pretrained(f"{ours}.{tag}").eval()
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES), expected(IMAGES))
    assert resolve_data_config(model=model) == resolve_data_config(
        pretrained_cfg=timm.get_pretrained_cfg(f"{theirs}.{tag}").to_dict()
    )
    asked = f"HEAD /timm/{theirs}.{tag}/resolve/main/model.safetensors"
    commit = hub.repositories[f"timm/{theirs}.{tag}"].head.oid
    assert hub.said("timm") == [asked, asked, f"GET /storage/timm/{theirs}.{tag}/{commit}/model.safetensors"]

    other_head = pretrained(f"{ours}.{tag}", num_classes=10)
    assert other_head.head.fc.weight.shape[0] == 10
    assert torch.equal(other_head.stem.conv.weight, model.stem.conv.weight)
    assert len(hub.said("GET /storage")) == 1


def test_public_weights_with_a_flipped_bit_are_refused_and_fetched_anew(hub, weights):
    overlay = {"hf_hub_id": "timm/convnext_pico.x", "num_classes": 3}  # as public tags have it, but small
    hub.add("timm/convnext_pico.x", {"model.safetensors": weights})
    hub.fault("GET /storage", "flip", times=1)
    line = refusal(MODEL, pretrained_cfg_overlay=overlay)
    assert line.startswith("timm/convnext_pico.x: model.safetensors: refused: its hash is ")
    assert line.endswith("it was removed from the cache, so try again")
    assert_loaded(pretrained(MODEL, pretrained_cfg_overlay=overlay), weights)


def test_networks_that_nobody_trained_say_what_to_do():
    assert refusal("model_iv") == (
        "model_iv: nobody has published weights of it; train it with train.py, and set "
        "CONVNEXT_ABLATION_WEIGHTS=FOLDER or CONVNEXT_ABLATION_HUB=NAMESPACE to where your own are (public "
        "weights there are of model_i and model_v)"
    )
    assert refusal("model_iv.in1k").startswith("model_iv.in1k: no public weights have this tag; set CONVN")
    assert "(in12k_ft_in1k, " in refusal("model_v.in1k")
    assert "names no weights" in refusal("model_iv", pretrained_cfg={"num_classes": 3})


# releases on a hub

_LOAD = """
import sys, timm, torch, convnext_ablation
with torch.no_grad():
    for name in sys.argv[2:]:
        model = timm.create_model(name, pretrained=True).eval()
        images = torch.linspace(-1, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64)
        print(name, model.pretrained_cfg["input_size"], model.pretrained_cfg["hf_hub_id"])
        torch.save((model.state_dict(), model(images)), sys.argv[1] + "/" + name.replace("/", "_") + ".pt")
"""


@by_timm
def test_a_new_process_loads_a_release_by_every_name_online_and_offline(hub, weights, tmp_path):
    old = hub.add(NAME, release(weights))
    other = save({key: value * 2 for key, value in load(weights).items()})
    new = hub.add(NAME, release(other))
    environment = {**ONE_THREAD, **hub.environment(tmp_path / "fresh"), "CONVNEXT_ABLATION_HUB": "lab"}
    names = [f"{MODEL}.cub", f"hf-hub:{NAME}", f"hf-hub:{NAME}@{old}"]

    def run(folder, **more):
        folder.mkdir()
        command = [sys.executable, "-c", _LOAD, str(folder), *names]
        done = subprocess.run(command, env={**environment, **more}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert done.stdout.splitlines() == [
            f"{name} (3, 64, 64) {NAME}@{commit}" for name, commit in zip(names, (new, new, old), strict=True)
        ]
        return [torch.load(folder / f"{name.replace('/', '_')}.pt") for name in names]

    online = run(tmp_path / "online")
    torch.set_num_threads(1)  # as there, so that sums are the same to the last bit
    for (state, logits), expected in zip(online, (other, other, weights), strict=True):
        model = timm.create_model(MODEL, num_classes=3).eval()
        model.load_state_dict(load(expected))
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
        with torch.no_grad():
            assert torch.equal(model(IMAGES), logits)
    resolve = f"/{NAME}/resolve"
    assert hub.said("GET .*lab/") == [
        *(f"GET {resolve}/main/config.json", f"GET /storage/{NAME}/{new}/model.safetensors"),
        *(f"GET {resolve}/{old}/config.json", f"GET /storage/{NAME}/{old}/model.safetensors"),
    ]
    made = len(hub.said(NAME))
    offline = run(tmp_path / "offline", HF_HUB_OFFLINE="1")
    assert all(torch.equal(a[1], b[1]) for a, b in zip(online, offline, strict=True))
    assert len(hub.said(NAME)) == made


def test_a_release_brings_its_preprocessing_and_classes(lab, weights):
    model = pretrained()
    assert_loaded(model, weights)
    config = resolve_data_config(model=model)
    assert config["input_size"] == (3, 64, 64)
    assert (config["crop_pct"], config["interpolation"]) == (0.9, "bilinear")
    assert (config["mean"], config["std"]) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert model.num_classes == 3
    cfg = model.pretrained_cfg
    assert (cfg["label_names"], cfg["license"], cfg["tag"]) == (tuple(CLASSES), "cc0-1.0", "cub")


def test_without_weights_a_tag_brings_the_preprocessing_alone(lab):
    model = timm.create_model(f"{MODEL}.cub")
    assert (model.num_classes, model.pretrained_cfg["crop_pct"]) == (3, 0.9)
    assert not lab.said("safetensors")


def test_another_head_other_channels_and_features_start_from_a_release(lab, weights):
    assert pretrained(num_classes=10).head.fc.weight.shape[0] == 10
    stem = load(weights)["stem.conv.weight"]
    torch.testing.assert_close(pretrained(in_chans=1).stem.conv.weight, stem.sum(1, keepdim=True))
    assert torch.equal(pretrained(features_only=True).stem.conv.weight, stem)


def test_training_starts_from_a_release_and_its_preprocessing(lab, weights):
    arguments = TrainingArguments(data_dir="", model=f"{MODEL}.cub", pretrained=True, device="cpu")
    model = create_network(arguments, 7, Processes(torch.device("cpu")))
    assert torch.equal(model.stem.conv.weight, load(weights)["stem.conv.weight"])
    assert (model.num_classes, resolve_data_config(model=model)["crop_pct"]) == (7, 0.9)
    arguments = TrainingArguments(data_dir="", model="model_iii_atto", pretrained=True, device="cpu")
    with pytest.raises(UserError, match="lab has no weights of model_iii_atto"):
        create_network(arguments, 7, Processes(torch.device("cpu")))


@pytest.mark.parametrize(
    ("name", "size"),
    [(f"{MODEL}.cub", 224), ("model_v.fb_in22k_ft_in1k_384", 384), ("model_i", 224), (f"hf-hub:{NAME}", 224)],
)
def test_a_run_of_any_weights_has_a_folder(name, size, tmp_path):
    arguments = TrainingArguments(data_dir="", model=name, output=str(tmp_path))
    folder = command._run_folder(arguments, Processes(torch.device("cpu")))
    assert folder.name.endswith(f"-{name.replace('/', '_').replace(':', '_')}-{size}")


def test_a_namespace_can_be_pinned_and_named_in_the_call(lab, weights):
    old = lab.repositories[NAME].head.oid
    lab.add(NAME, release(save({key: value * 2 for key, value in load(weights).items()})))
    assert_loaded(pretrained(weights_from=f"hf-hub:lab@{old}"), weights)
    lab.close()
    close_session()  # and with it the connections that are still open
    assert_loaded(pretrained(weights_from=f"hf-hub:lab@{old}"), weights)


def test_the_only_release_needs_no_tag(lab, weights):
    lab.add(f"lab/{MODEL}x.cub", {})
    assert_loaded(pretrained(MODEL), weights)
    lab.add(f"lab/{MODEL}.dogs", {})
    assert refusal(MODEL) == f"lab has {MODEL}.cub, {MODEL}.dogs; name the one you want"


def test_offline_the_cache_says_which_release_there_is(lab, weights, monkeypatch):
    pretrained()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_loaded(pretrained(MODEL), weights)
    line = refusal("model_iii_atto")
    assert line.startswith(
        "lab/model_iii_atto: what there is of it isn't in the hub's cache, and HF_HUB_OFFLINE"
    )


def test_a_network_is_found_under_its_other_names(lab, weights):
    assert_loaded(pretrained("resnet_to_convnext_stage4_atto.cub"), weights)


def test_weights_come_through_another_cache(lab, weights, tmp_path):
    assert_loaded(pretrained(cache_dir=tmp_path / "other"), weights)
    assert list((tmp_path / "other").rglob("model.safetensors"))
    assert not list(tmp_path.glob("cache/hub/models--*"))


def test_switches_that_a_network_was_made_with_come_with_its_weights(hub):
    free = timm.create_model("resnet_to_convnext_atto", num_classes=3, inverted=True, device="cpu")
    arguments = {"inverted": True, "weights_from": "local-dir:/elsewhere"}
    files = release(save(free.state_dict()), architecture="resnet_to_convnext_atto", model_args=arguments)
    hub.add("lab/resnet_to_convnext_atto.x", files)
    model = pretrained("resnet_to_convnext_atto.x", weights_from="hf-hub:lab")
    assert model.components.inverted
    assert "no such repository" in refusal("resnet_to_convnext_atto.tv", weights_from="hf-hub:lab")
    assert not hub.said("model_i_atto")  # which it is only as long as nothing is switched


# what is refused


@pytest.mark.parametrize("fault", ["flip", "truncate", "html"])
@pytest.mark.parametrize("name", [f"{MODEL}.cub", pytest.param(f"hf-hub:{NAME}", marks=by_timm)])
def test_a_file_that_differs_is_refused_and_a_second_try_works(lab, weights, fault, name):
    lab.fault("GET /storage", fault, times=1)
    line = refusal(name)
    assert NAME in line
    assert "model.safetensors" in line
    assert "try again" in line
    assert_loaded(pretrained(name), weights)


def test_a_config_that_differs_is_refused_and_a_second_try_works(lab, weights):
    lab.fault("GET .*config.json", "flip", times=1)
    assert refusal().startswith(f"{NAME}: config.json: refused: its hash is ")
    assert_loaded(pretrained(), weights)


def test_a_file_that_was_changed_in_the_cache_is_refused_and_a_second_try_works(lab, weights):
    path = Path(pretrained().pretrained_cfg["file"])
    time.sleep(0.1)
    pretrained()  # and remembered
    blob, stat = path.resolve(), path.stat()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    os.utime(blob, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert "refused: its hash is" in refusal()
    assert not path.is_symlink()
    assert not blob.exists()
    assert_loaded(pretrained(), weights)


def test_weights_other_than_those_the_config_was_published_with_are_refused(lab, weights):
    other = save({key: value * 2 for key, value in load(weights).items()})
    lab.add(NAME, {"model.safetensors": other})
    assert "refused: its hash is" in refusal()
    lab.add(NAME, {"model.safetensors": other[:-4]})
    assert f"it has {len(other) - 4} bytes, published are {len(other)}" in refusal()
    lab.add(NAME, release(weights))
    assert_loaded(pretrained(), weights)


def test_a_cache_without_links_is_checked_too(lab, weights, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    without_hash = json.loads(release(weights)["config.json"])
    del without_hash["weights"]
    lab.add(NAME, {"config.json": json.dumps(without_hash).encode()})
    lab.fault("GET /storage", "flip", times=1)
    assert "refused: its hash is" in refusal()
    path = Path(pretrained().pretrained_cfg["file"])
    assert not path.is_symlink()


class Malicious:
    def __reduce__(self):
        return os._exit, (3,)


@pytest.mark.parametrize("archive", [True, False])
def test_a_pickle_under_the_name_of_weights_is_refused_unread(lab, archive):
    file = io.BytesIO()
    torch.save({"head.fc.weight": Malicious()}, file, _use_new_zipfile_serialization=archive)
    lab.add(NAME, release(file.getvalue()))
    assert "model.safetensors: refused, unread: a pickle" in refusal()


@by_timm
def test_weights_that_were_published_as_a_pickle_alone_are_not_read(hub, weights):
    files = release(weights)
    config = json.loads(files["config.json"])
    del config["weights"]
    hub.add(NAME, {"config.json": json.dumps(config).encode(), "pytorch_model.bin": b"\x80\x04"})
    assert refusal(f"hf-hub:{NAME}").endswith(
        "has no file model.safetensors; pickles are not read, have it published as safetensors"
    )
    overlay = {"hf_hub_id": NAME, "hf_hub_filename": "pytorch_model.bin"}
    assert "only safetensors is taken" in refusal(MODEL, pretrained_cfg_overlay=overlay)
    assert not hub.said("pytorch_model.bin")


def test_a_published_file_with_a_corrupt_header_is_refused(lab, weights):
    lab.add(NAME, release(b"\xff" * 8 + weights[8:]))
    assert "no safetensors, or a damaged one (" in refusal()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_classes": 4, "label_names": None}, "tells 3 classes apart, config.json says 4"),
        ({"label_names": ["ant"]}, "names 1 classes, and says there are 3"),
        ({"architecture": "model_iii_atto"}, f"holds weights of model_iii_atto, not of {MODEL}; load it as"),
        ({"architecture": None}, "names no architecture"),
        ({"pretrained_cfg": None}, "has no pretrained_cfg"),
        ({"num_classes": "3"}, "says num_classes is '3'"),
        ({"model_args": [1]}, "has model_args that are none"),
        ({"weights": "model.safetensors"}, "doesn't say which file the weights are"),
        ({"weights": {"file": "../model.safetensors", "sha256": "0" * 64}}, "names '../model.safetensors'"),
        ({"weights": {"file": "model.bin", "sha256": "0" * 64}}, "names 'model.bin' as the weights"),
        ({"weights": {"sha256": "0"}}, "has no SHA-256"),
    ],
)
def test_a_release_that_contradicts_itself_is_refused(tmp_path, weights, changes, told):
    write(tmp_path / f"{MODEL}.cub", release(weights, **changes))
    assert told in refusal(weights_from=f"local-dir:{tmp_path}")


def test_what_a_config_says_of_other_sources_is_not_heeded(tmp_path, weights):
    cfg = {**PREPROCESSING, "file": "/etc/passwd", "url": "http://elsewhere", "of_a_newer_timm": 1}
    write(tmp_path / f"{MODEL}.cub", release(weights, pretrained_cfg=cfg))
    model = pretrained(weights_from=f"local-dir:{tmp_path}")
    assert_loaded(model, weights)
    assert model.pretrained_cfg["file"] == str(tmp_path / f"{MODEL}.cub" / "model.safetensors")


# hubs that don't give


def test_a_missing_repository_is_one_line(lab):
    line = refusal(f"{MODEL}.dogs")
    assert line.startswith(
        f"lab/{MODEL}.dogs: no such repository on {lab.url}, or a private one; check the name"
    )


def test_a_private_repository_needs_a_token(hub, weights, monkeypatch):
    hub.add(NAME, release(weights), private=True)
    assert_loaded(pretrained(weights_from="hf-hub:lab"), weights)
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", constants.HF_HUB_CACHE + "2")
    assert "log in with `hf auth login` or set HF_TOKEN" in refusal(weights_from="hf-hub:lab")


def test_a_wrong_revision_is_one_line(lab):
    line = refusal(weights_from="hf-hub:lab@v9")
    assert line == f"{NAME}: has no revision 'v9'; name a commit, tag or branch"
    assert "has no revision" in refusal(weights_from=f"hf-hub:lab@{'0' * 40}")


def test_offline_and_not_in_the_cache_is_one_line(lab, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    line = refusal()
    assert line.startswith(
        f"{NAME}: config.json isn't in the hub's cache, and HF_HUB_OFFLINE is set; load it"
    )
    assert not lab.requests


def test_a_dead_hub_is_one_line_unless_the_cache_has_it(lab, weights, caplog):
    pretrained()
    lab.close()
    close_session()  # and with it the connections that are still open
    assert_loaded(pretrained(), weights)
    assert "taken from the cache, since the hub didn't give it" in caplog.text
    line = refusal(f"{MODEL}.dogs")
    assert f"can't be had from {lab.url} (" in line
    assert "isn't in the cache; check the network and HF_ENDPOINT, and try again" in line


@pytest.mark.parametrize("fault", ["hang", "drop", 503])
def test_a_hub_that_does_not_answer_is_asked_once(lab, weights, monkeypatch, fault):
    monkeypatch.setattr(hub_client, "_SECONDS", 0.3)
    lab.fault("HEAD", fault)
    assert "config.json can't be had from" in refusal()
    assert f"lab/{MODEL}: what there is of it can't be had from" in refusal(MODEL)
    assert not lab.said("GET /api/models")
    assert lab.said(NAME) == [f"HEAD /{NAME}/resolve/main/config.json"]
    lab.heal()
    assert_loaded(pretrained(), weights)


def test_a_name_that_cannot_be_one_is_one_line(hub):
    assert "can't be the name of a repository" in refusal(weights_from="hf-hub:a b")


# folders


def test_a_folder_serves_a_release_by_every_name(tmp_path, weights, monkeypatch):
    write(tmp_path / f"{MODEL}.cub", release(weights))
    for name, kwargs in (
        (f"{MODEL}.cub", {"weights_from": f"local-dir:{tmp_path}"}),
        (MODEL, {"weights_from": f"local-dir:{tmp_path}"}),
        (f"local-dir:{tmp_path / f'{MODEL}.cub'}", {}),
    ):
        model = pretrained(name, **kwargs)
        assert_loaded(model, weights)
        assert model.pretrained_cfg["crop_pct"] == 0.9
    monkeypatch.setenv("CONVNEXT_ABLATION_WEIGHTS", str(tmp_path))
    assert_loaded(pretrained(), weights)
    assert_loaded(pretrained(MODEL), weights)
    assert_loaded(pretrained("resnet_to_convnext_stage4_atto"), weights)


@pytest.mark.parametrize("spoil", [lambda content: content[:-1] + b"?", lambda content: content[:-1]])
def test_a_file_that_differs_in_a_folder_is_refused_and_left(tmp_path, weights, spoil):
    folder = write(tmp_path / f"{MODEL}.cub", release(weights))
    path = folder / "model.safetensors"
    path.write_bytes(spoil(weights))
    for name in (f"{MODEL}.cub", f"local-dir:{folder}"):
        line = refusal(name, weights_from=f"local-dir:{tmp_path}")
        assert line.startswith(f"{folder}: model.safetensors: refused: it")
        assert line.endswith("copy it again")
    assert path.exists()


def test_what_a_folder_lacks_is_told(tmp_path, weights, monkeypatch):
    place = f"local-dir:{tmp_path}"
    assert refusal(weights_from=place) == (
        f"{tmp_path} has no {MODEL}.cub; publish a run into it with `convnext-ablation publish`"
    )
    folder = write(tmp_path / f"{MODEL}.dogs", release(weights))
    assert refusal(weights_from=place) == f"{tmp_path} has no {MODEL}.cub; it has {MODEL}.dogs"
    assert refusal("model_i", weights_from=place).startswith(f"{tmp_path} has no weights of model_i; publish")
    (folder / "model.safetensors").unlink()
    assert "model.safetensors: missing" in refusal(MODEL, weights_from=place)
    (folder / "config.json").write_text("{")
    assert f"{folder}: config.json can't be read (" in refusal(MODEL, weights_from=place)
    monkeypatch.setenv("CONVNEXT_ABLATION_WEIGHTS", f"{tmp_path}/nowhere")
    assert refusal(MODEL) == f"weights are to come from {tmp_path}/nowhere, and there is no such folder"
    monkeypatch.setenv("CONVNEXT_ABLATION_HUB", "lab")
    assert "are both set; unset one of them" in refusal(MODEL)


def test_a_folder_without_a_hash_is_said_not_to_be_checked(tmp_path, weights, caplog):
    write(tmp_path / f"{MODEL}.cub", release(weights, weights=None))
    assert_loaded(pretrained(weights_from=f"local-dir:{tmp_path}"), weights)
    assert "has no hash of the weights, so they are not checked" in caplog.text


@pytest.mark.parametrize("text", ["lab", "lab/model_iv", "hf-hub:lab/model_iv", "hf-hub:", "hf-hub:@main"])
def test_a_place_is_named_as_timm_names_it(text):
    with pytest.raises(UserError, match="write hf-hub:NAMESPACE"):
        Place(text)


def test_a_release_can_be_read_without_its_weights(tmp_path, weights, lab):
    folder = write(tmp_path / f"{MODEL}.cub", release(weights))
    local, remote = read_release(folder), read_release(f"hf-hub:{NAME}")
    assert find_release([MODEL], "", Place(f"local-dir:{tmp_path}")) == local
    for found in (local, remote):
        assert (found.architecture, found.num_classes, found.tag) == (MODEL, 3, "cub")
        assert found.label_names == tuple(CLASSES)
        assert found.trained == {"top1": 90.0}
        assert found.sha256 == hashlib.sha256(weights).hexdigest()
    assert remote.name == f"{NAME}@{lab.repositories[NAME].head.oid}"
    assert not lab.said("safetensors")
    with pytest.raises(UserError, match="there is no release"):
        read_release(tmp_path)
    with pytest.raises(UserError, match="write hf-hub:NAMESPACE/NAME for a hub"):
        read_release(NAME)


def test_files_that_the_caller_names_are_left_to_timm(tmp_path, weights, monkeypatch):
    monkeypatch.setenv("CONVNEXT_ABLATION_HUB", "lab")  # which is not asked
    (tmp_path / "mine.safetensors").write_bytes(weights)
    overlay = {"file": str(tmp_path / "mine.safetensors"), "num_classes": 3}
    assert_loaded(pretrained(MODEL, pretrained_cfg_overlay=overlay), weights)
    assert_loaded(pretrained(MODEL, pretrained_cfg={**overlay, "classifier": "head.fc"}), weights)
    overlay = {"state_dict": load(weights), "num_classes": 3}
    assert_loaded(pretrained(MODEL, pretrained_cfg_overlay=overlay), weights)


# what is remembered


def test_a_file_is_hashed_once_and_again_when_it_changed(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    time.sleep(0.1)
    digest = integrity.content_sha256(path)
    assert digest == hashlib.sha256(b"one").hexdigest()
    (record,) = Path(constants.HF_HOME, "convnext_ablation", "verified").iterdir()
    record.write_text(record.read_text().replace(digest, "0" * 64))
    assert integrity.content_sha256(path) == "0" * 64  # it went by the record
    stat = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert integrity.content_sha256(path) == hashlib.sha256(b"two").hexdigest()


def test_a_file_that_may_be_changing_is_not_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(integrity, "_YOUNG", 1e6)
    path = tmp_path / "file"
    path.write_bytes(b"one")
    integrity.content_sha256(path)
    assert not Path(constants.HF_HOME, "convnext_ablation").exists()


def test_a_record_that_cannot_be_written_or_read_is_done_without(tmp_path):
    Path(constants.HF_HOME).write_text("no folder")
    path = tmp_path / "file"
    path.write_bytes(b"one")
    time.sleep(0.1)
    assert integrity.content_sha256(path) == hashlib.sha256(b"one").hexdigest()
