"""Where weights come from, and that they are the right ones: a real hub client, and a hub on loopback."""

import hashlib
import json
import os
from types import SimpleNamespace

import pytest
import timm
import torch
from hub_server import TOKEN
from huggingface_hub import close_session, constants
from safetensors.torch import load, save
from timm.data import resolve_data_config

from convnext_ablation import UserError
from convnext_ablation.models.zoo import has_weights
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.distributed import Processes
from convnext_ablation.training.network import create_network
from convnext_ablation.weights import download, read_release

MODEL = "model_iv_atto"
NAME = f"lab/{MODEL}.cub"
CLASSES = ["ant", "bee", "cat"]
PREPROCESSING = {"input_size": [3, 64, 64], "crop_pct": 0.9, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
IMAGES = torch.linspace(-1, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64)


def randomized(model):
    """The model with every parameter and statistic away from its start: zeros and ones hide mistakes."""
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


def doubled(content):
    return save({key: value * 2 for key, value in load(content).items()})


def release(content, **changes):
    """The files of a release."""
    config = {
        "architecture": MODEL,
        "num_classes": len(CLASSES),
        "label_names": CLASSES,
        "pretrained_cfg": {**PREPROCESSING, "num_classes": len(CLASSES), "interpolation": "bilinear"}
        | {"first_conv": "stem.conv", "classifier": "head.fc", "license": "cc0-1.0"},
        "weights": {"file": "model.safetensors", "sha256": hashlib.sha256(content).hexdigest()},
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
    for name in ("CONVNEXT_ABLATION_HUB", "CONVNEXT_ABLATION_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def lab(hub, weights, monkeypatch):
    """A hub with a release, in the namespace that is set for all networks."""
    hub.add(NAME, release(weights))
    monkeypatch.setenv("CONVNEXT_ABLATION_HUB", "lab")
    return hub


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder of releases, which is set for all networks."""
    monkeypatch.setenv("CONVNEXT_ABLATION_WEIGHTS", str(tmp_path))
    return tmp_path


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


FIT = {
    "resnet50": ("model_i", "resnet_to_convnext_stage1", "roadmap_00_resnet50"),
    "convnext_tiny": ("model_v", "resnet_to_convnext_stage5", "roadmap_15_separate_downsampling"),
}


@pytest.mark.parametrize(("theirs", "ours"), FIT.items())
def test_weights_of_timm_that_fit_have_their_tags(theirs, ours):
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{theirs}.*")]
    for name in ours:
        assert timm.list_pretrained(f"{name}.*") == [f"{name}.{tag}" for tag in tags]
        assert timm.get_pretrained_cfg(name).tag == timm.get_pretrained_cfg(theirs).tag
    for tag in tags:
        cfg, timms = (timm.get_pretrained_cfg(f"{name}.{tag}").to_dict() for name in (ours[0], theirs))
        for key in timms.keys() - {"architecture", "url", "first_conv", "classifier", "origin_url"}:
            assert cfg[key] == timms[key], key
        assert cfg["hf_hub_id"] == f"timm/{theirs}.{tag}"
        assert cfg["origin_url"].startswith("https://")
        assert "url" not in cfg  # pickles


@pytest.mark.parametrize(
    ("ours", "theirs", "tag"), [("model_i", "resnet50", "tv_in1k"), ("model_v", "convnext_tiny", "fb_in1k")]
)
def test_public_weights_give_the_logits_of_timm(hub, ours, theirs, tag):
    expected = randomized(timm.create_model(theirs))
    hub.add(f"timm/{theirs}.{tag}", {"model.safetensors": save(expected.state_dict())})
    model = pretrained(f"{ours}.{tag}").eval()
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES), expected(IMAGES))
    cfg = timm.get_pretrained_cfg(f"{theirs}.{tag}").to_dict()
    assert resolve_data_config(model=model) == resolve_data_config(pretrained_cfg=cfg)
    other_head = pretrained(f"{ours}.{tag}", num_classes=10)
    assert other_head.head.fc.weight.shape[0] == 10
    assert torch.equal(other_head.stem.conv.weight, model.stem.conv.weight)
    assert len(hub.said("GET /storage")) == 1


def test_no_other_network_has_weights():
    with_weights = {name.partition(".")[0] for name in timm.list_pretrained("*")}
    assert with_weights & set(timm.list_models(module="zoo")) == {
        name for each in FIT.values() for name in each
    }
    assert "there are no public weights of it; train it with train.py" in refusal("model_iv")
    assert "(in12k_ft_in1k, " in refusal("model_v.in1k")


# releases on a hub


@pytest.mark.parametrize("loads", [False, True])
def test_a_release_brings_its_preprocessing_and_classes(lab, weights, loads):
    model = timm.create_model(f"{MODEL}.cub", pretrained=loads)
    config = resolve_data_config(model=model)
    assert (config["input_size"], config["crop_pct"]) == ((3, 64, 64), 0.9)
    assert (config["mean"], config["std"]) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    cfg = model.pretrained_cfg
    assert (cfg["label_names"], cfg["license"], model.num_classes) == (tuple(CLASSES), "cc0-1.0", 3)
    assert bool(lab.said("safetensors")) == loads
    if loads:
        assert_loaded(model, weights)


def test_another_head_channels_features_and_training_start_from_a_release(lab, weights):
    stem = load(weights)["stem.conv.weight"]
    torch.testing.assert_close(pretrained(in_chans=1).stem.conv.weight, stem.sum(1, keepdim=True))
    assert torch.equal(pretrained(features_only=True).stem.conv.weight, stem)
    arguments = TrainingArguments(data_dir="", model=f"{MODEL}.cub", pretrained=True, device="cpu")
    model = create_network(arguments, 7, Processes(torch.device("cpu")))
    assert torch.equal(model.stem.conv.weight, stem)
    assert (model.num_classes, resolve_data_config(model=model)["crop_pct"]) == (7, 0.9)


def test_a_commit_can_be_pinned_and_what_the_cache_has_needs_no_hub(lab, weights, monkeypatch):
    old = lab.repositories[NAME].head
    lab.add(NAME, release(doubled(weights)))
    pretrained()
    assert_loaded(pretrained(f"hf-hub:{NAME}@{old}"), weights)
    monkeypatch.setenv("CONVNEXT_ABLATION_HUB", f"lab@{old}")
    assert_loaded(pretrained(), weights)
    lab.close()
    close_session()  # and with it the connections that are still open
    assert_loaded(pretrained(), weights)
    monkeypatch.setenv("CONVNEXT_ABLATION_HUB", "lab")
    assert_loaded(pretrained(), doubled(weights))
    line = refusal(f"{MODEL}.dogs")
    assert f": {lab.url} can't be reached (" in line
    assert line.endswith("check the network and HF_ENDPOINT")


def test_the_only_release_needs_no_tag(lab, weights, monkeypatch):
    lab.add(f"lab/{MODEL}x.cub", {})
    assert_loaded(pretrained(MODEL), weights)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # then the cache says which there is
    assert_loaded(pretrained(MODEL), weights)
    assert "offline mode is enabled" in refusal("model_iii_atto")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    lab.add(f"lab/{MODEL}.dogs", {})
    assert refusal(MODEL) == f"lab has {MODEL}.cub, {MODEL}.dogs; name the one you want"
    assert "lab has no weights of model_iii_atto; publish a run there" in refusal("model_iii_atto")


# what is refused


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_file_that_differs_is_refused_and_a_second_try_works(lab, weights, file):
    lab.faults.append((f"GET .*{file}", "flip"))
    line = refusal()
    assert f": {file}: refused: its hash is" in line
    assert line.endswith("it was removed from the cache, so try again")
    assert_loaded(pretrained(), weights)


def test_public_weights_with_a_flipped_bit_are_refused_and_fetched_anew(hub, weights):
    overlay = {"hf_hub_id": "timm/convnext_pico.x", "num_classes": 3}  # as public tags have it, but small
    hub.add("timm/convnext_pico.x", {"model.safetensors": weights})
    hub.faults.append(("GET /storage", "flip"))
    line = refusal(MODEL, pretrained_cfg_overlay=overlay)
    assert line.startswith("timm/convnext_pico.x: model.safetensors: refused: its hash is ")
    assert_loaded(pretrained(MODEL, pretrained_cfg_overlay=overlay), weights)


def test_weights_other_than_those_the_config_was_published_with_are_refused(lab, tmp_path, weights):
    lab.add(NAME, {"model.safetensors": doubled(weights)})
    folder = write(tmp_path / f"{MODEL}.cub", {**release(weights), "model.safetensors": weights[:-1]})
    for name in (f"{MODEL}.cub", f"hf-hub:{NAME}", f"local-dir:{folder}"):
        assert "refused: its hash is" in refusal(name)
    assert (folder / "model.safetensors").exists()


class Malicious:
    def __reduce__(self):
        return os._exit, (3,)


def test_pickles_are_refused_unread(hub, tmp_path, weights):
    torch.save({"w": Malicious()}, tmp_path / "pickle")
    hub.add(NAME, release((tmp_path / "pickle").read_bytes()))
    assert "model.safetensors: refused: not a safetensors file" in refusal(f"hf-hub:{NAME}")
    config = release(weights, weights=None)["config.json"]
    hub.add("lab/old", {"config.json": config, "pytorch_model.bin": b"\x80\x04"})
    assert "Entry Not Found" in refusal("hf-hub:lab/old")
    overlay = {"hf_hub_id": "lab/old", "hf_hub_filename": "pytorch_model.bin"}
    assert "only safetensors is taken" in refusal(MODEL, pretrained_cfg_overlay=overlay)
    assert not hub.said("pytorch_model.bin")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_classes": 4, "label_names": None}, "has 3 classes, its config says 4"),
        ({"label_names": ["ant"]}, "has no valid label_names, one a class"),
        ({"architecture": "model_iii_atto"}, f"holds weights of model_iii_atto, not of {MODEL}; load it as"),
        ({"pretrained_cfg": None}, "has no valid pretrained_cfg"),
        ({"weights": {"file": "../model.safetensors", "sha256": "0" * 64}}, "has no valid weights"),
        ({"weights": {"sha256": "0"}}, "has no valid weights"),
    ],
)
def test_a_release_that_contradicts_itself_is_refused(folder, weights, changes, told):
    write(folder / f"{MODEL}.cub", release(weights, **changes))
    assert told in refusal()


def test_what_a_config_says_of_other_sources_is_not_heeded(folder, weights):
    cfg = {**PREPROCESSING, "file": "/etc/passwd", "url": "http://elsewhere", "of_a_newer_timm": 1}
    arguments = {"weights_from": "local-dir:/elsewhere"}
    write(folder / f"{MODEL}.cub", release(weights, pretrained_cfg=cfg, model_args=arguments))
    model = pretrained()
    assert_loaded(model, weights)
    assert model.pretrained_cfg["file"] == str(folder / f"{MODEL}.cub" / "model.safetensors")


def test_what_a_hub_says_is_limited(lab, weights, monkeypatch):
    config = release(weights)["config.json"].ljust(17 << 20)
    lab.add("lab/x", {"config.json": config})
    assert "config.json has more than 16 MiB; have it published again" in refusal("hf-hub:lab/x")
    lab.pages = True
    monkeypatch.setattr(download, "_MOST", 5)
    assert_loaded(pretrained(MODEL), weights)
    assert len(lab.said("GET /api/models$")) == 5


def test_a_hub_that_answers_a_byte_at_a_time_is_waited_for_no_longer_than_a_limit(lab, weights, monkeypatch):
    monkeypatch.setattr(download, "_SECONDS", 0.5)
    slow = "less than 1024 bytes a second"
    for what, name in (("GET /api/models", MODEL), ("GET /storage", f"hf-hub:{NAME}")):
        lab.faults[:] = [(what, "drip")]
        assert slow in refusal(name)


def test_a_private_repository_needs_a_token(hub, weights, monkeypatch):
    hub.add(NAME, release(weights), private=True)
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nowhere/token")
    monkeypatch.setenv("CONVNEXT_ABLATION_HUB", "lab")
    assert "make sure you are authenticated" in refusal()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert_loaded(pretrained(), weights)
    assert "404 Client Error. Repository" in refusal(f"{MODEL}.dogs")
    monkeypatch.setenv("CONVNEXT_ABLATION_HUB", "lab@v9")
    assert "Revision Not Found" in refusal()


def test_what_a_hub_refuses_is_told_with_the_way_out(lab, weights, monkeypatch, caplog):
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    for name in (f"{MODEL}.cub", MODEL):
        assert "refuses the token, which may have expired; log in again with `hf auth login`" in refusal(name)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    lab.gated.add(NAME)
    assert f"the repository is gated; ask for access on its page at {lab.url}" in refusal()
    lab.gated.clear()
    lab.renamed["lab/old"] = NAME
    assert_loaded(pretrained("hf-hub:lab/old"), weights)
    assert f"lab/old is called {NAME} now; use that name" in caplog.text
    lab.renamed.clear()
    assert_loaded(pretrained("hf-hub:lab/old"), weights)  # from the cache


@pytest.mark.parametrize("said", [{"Retry-After": "7"}, {"RateLimit": '"api";r=0;t=7'}])
@pytest.mark.parametrize(
    "request_",
    ["HEAD .*config.json", "GET /lab.*config.json", "GET /api/models/", "GET /api/models$", "GET /storage"],
)
def test_a_hub_that_asks_to_wait_is_waited_for(lab, weights, monkeypatch, request_, said):
    waited = []
    monkeypatch.setattr(download, "time", SimpleNamespace(sleep=waited.append))  # other threads sleep on
    lab.faults.append((request_, said))
    assert_loaded(pretrained(MODEL), weights)
    assert waited == [7]  # the client itself would sleep, for longer than it is waited for without a byte


def test_a_hub_that_asks_for_more_patience_than_there_is_says_when(lab, monkeypatch):
    waited = []
    monkeypatch.setattr(download, "time", SimpleNamespace(sleep=waited.append))
    lab.faults.append(("HEAD", {"Retry-After": "3600"}))
    assert f"{lab.url} has had too many requests; try again in 3600 seconds" in refusal()
    lab.faults.append(("HEAD", {}))
    assert "has had too many requests; try again later" in refusal()
    assert not waited


def test_a_namespace_is_found_in_any_case(lab, weights, monkeypatch):
    monkeypatch.setenv("CONVNEXT_ABLATION_HUB", "Lab")
    assert_loaded(pretrained(MODEL), weights)
    assert_loaded(pretrained(), weights)
    assert has_weights(MODEL)


def test_a_file_of_ones_own_is_loaded_into_a_backbone_by_its_overlay(tmp_path):
    state = timm.create_model(MODEL).state_dict()
    torch.save(state, tmp_path / "own.pth")
    options = {"features_only": True, "out_indices": (0, 3)}
    overlay = {"file": str(tmp_path / "own.pth")}
    backbone = timm.create_model(MODEL, pretrained=True, pretrained_cfg_overlay=overlay, **options)
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, state[name.replace("stages_", "stages.")]), name
    with pytest.raises(RuntimeError, match="Missing key"):  # as with any network of timm
        timm.create_model(MODEL, checkpoint_path=tmp_path / "own.pth", **options)


def test_training_says_which_pretrained_weights_it_starts_from(lab, weights):
    commit = lab.add(NAME, release(weights, trained={"weights": "ema"}))
    said: list[str] = []
    arguments = TrainingArguments(model=MODEL, pretrained=True, device="cpu")
    for classes in (3, 2):
        create_network(arguments, classes, Processes(torch.device("cpu")), say=said.append)
    loaded = f"{NAME}@{commit}: averaged weights, 3 classes"
    assert said == [loaded, f"{loaded}; the classifier is new"]


# folders


def test_a_folder_serves_a_release_with_its_tag_and_without(folder, weights, caplog):
    write(folder / f"{MODEL}.cub", release(weights, weights=None))
    assert_loaded(pretrained(), weights)
    assert "has no hash of the weights: not checked" in caplog.text
    assert_loaded(pretrained(MODEL), weights)
    model = pretrained(f"local-dir:{folder / f'{MODEL}.cub'}")
    assert_loaded(model, weights)
    assert model.pretrained_cfg["crop_pct"] == 0.9


def test_what_a_folder_lacks_is_told(folder, weights, monkeypatch):
    dogs = write(folder / f"{MODEL}.dogs", release(weights))
    assert refusal() == f"{folder} has no {MODEL}.cub; it has {MODEL}.dogs"
    (dogs / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    assert "this is a Git LFS pointer, not the checkpoint; run `git lfs pull`" in refusal(MODEL)
    (dogs / "model.safetensors").unlink()
    assert "model.safetensors: missing" in refusal(MODEL)
    (dogs / "config.json").write_text("{")
    assert f"{dogs}: config.json can't be read (" in refusal(MODEL)
    monkeypatch.setenv("CONVNEXT_ABLATION_WEIGHTS", f"{folder}/nowhere")
    assert "there is no such folder" in refusal(MODEL)
    monkeypatch.setenv("CONVNEXT_ABLATION_HUB", "lab")
    assert "are both set; unset one of them" in refusal(MODEL)
    monkeypatch.setenv("CONVNEXT_ABLATION_WEIGHTS", "")
    monkeypatch.setenv("CONVNEXT_ABLATION_HUB", "lab/model_iv")
    assert "write NAMESPACE or NAMESPACE@REVISION" in refusal(MODEL)


def test_a_release_can_be_read_without_its_weights(tmp_path, weights, lab):
    local, remote = read_release(write(tmp_path / "x", release(weights))), read_release(f"hf-hub:{NAME}")
    for found in (local, remote):
        assert (found.architecture, found.label_names) == (MODEL, tuple(CLASSES))
        assert (found.trained, found.sha256) == ({"top1": 90.0}, hashlib.sha256(weights).hexdigest())
    assert remote.name == f"{NAME}@{lab.repositories[NAME].head}"
    assert not lab.said("safetensors")


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("model_i", True),
        ("model_v.fb_in1k", True),
        ("model_v.cub", False),
        ("model_iv", False),
        ("model_i_atto", False),
        ("resnet50", True),
        ("resnet50.tv_in1k", True),
    ],
)
def test_public_weights_are_known_without_fetching_them(name, found):
    assert has_weights(name) is found


def test_weights_of_ones_own_are_known_without_fetching_them(lab, monkeypatch):
    assert has_weights(MODEL)
    assert has_weights(f"{MODEL}.cub")
    assert not has_weights(f"{MODEL}.dogs")
    assert not has_weights("model_iv")
    assert has_weights("model_i.tv_in1k")
    assert not has_weights("model_i")  # which then means the lab's
    assert has_weights("resnet50")
