"""Every layout of a checkpoint, by every command that reads one: the network gives the original's logits."""

import argparse
import itertools
import os
import re
import types
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from test_checkpoints import fgvc_state_dict
from test_weights import randomized
from timm.models.convnext import ConvNeXt
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.convnext import ConvNeXt as TorchvisionConvNeXt

from convnext_ablation.cli import convert, parsers
from convnext_ablation.errors import UserError
from convnext_ablation.hub.finished_run import DataFacts, FinishedRun
from convnext_ablation.models.checkpoint_files import read_checkpoint
from convnext_ablation.models.components import STAGES
from convnext_ablation.models.layouts import unwrapped
from convnext_ablation.study.designs.contrasts import Point
from convnext_ablation.study.pretrained import find_weights
from convnext_ablation.training import validation
from convnext_ablation.training.checkpoints import resume
from convnext_ablation.training.distributed import Processes
from convnext_ablation.training.history import BEST, Epoch
from convnext_ablation.training.network import create_network
from convnext_ablation.training.parts import Parts
from convnext_ablation.training.trained_arguments import ValidationArguments
from convnext_ablation.training.validation import Validation

IMAGES = torch.linspace(-1, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64)
CLASSES = 3
CPU = Processes(torch.device("cpu"))
Namespace = argparse.Namespace


def prefixed(prefix, state_dict):
    return {f"{prefix}{name}": value for name, value in state_dict.items()}


def ours(stage):
    model = randomized(timm.create_model(f"{stage}_atto", num_classes=CLASSES))
    return model, model.state_dict()


def fgvc(stage):
    """Our network, and its weights by the names of 11785-FGVC, which those of ResNet and ConvNeXt are."""
    theirs, weights = fgvc_state_dict(stage, CLASSES)
    model = timm.create_model(f"{stage}_atto", num_classes=CLASSES).eval()
    model.load_state_dict(weights)
    return model, theirs


def timms():
    model = randomized(ConvNeXt(num_classes=CLASSES, depths=(3, 3, 9, 3), dims=(24, 48, 96, 192)))
    return model, model.state_dict()


def torchvisions():
    blocks = [(24, 48, 3), (48, 96, 3), (96, 192, 9), (192, None, 3)]
    model = randomized(TorchvisionConvNeXt([CNBlockConfig(*block) for block in blocks], num_classes=CLASSES))
    return model, model.state_dict()


def noise(weights):
    return {name: value + 1 for name, value in weights.items()}


def bare(weights):
    return weights


def lightning(weights):
    settings = {"lr": 0.1, "norm": torch.nn.LayerNorm, "root": Path("/data"), "net": torch.nn.Identity()}
    content = {"state_dict": prefixed("model.", weights) | {"criterion.weight": torch.ones(3)}}
    return {**content, "hyper_parameters": types.SimpleNamespace(**settings), "callbacks": {"x": {1, 2}}}


def open_clip(weights):
    trunk = prefixed("module.visual.trunk.", weights)
    text = {"module.logit_scale": torch.ones(()), "module.transformer.resblocks.0.weight": torch.ones(2, 2)}
    return {"epoch": 3, "name": "run", "state_dict": {**trunk, **text}}


def mmpretrain(weights):
    head = {"head.fc.weight": weights["fc.weight"], "head.fc.bias": weights["fc.bias"]}
    trunk = {name: value for name, value in weights.items() if not name.startswith("fc.")}
    return {"meta": {"time": "now"}, "state_dict": prefixed("backbone.", trunk) | head}


def spark(weights):
    """With the decoder, and a dictionary among the weights, as SparK saves its pre-training."""
    inside = prefixed("sparse_encoder.sp_cnn.", weights) | {"dense_decoder.proj.weight": torch.ones(2, 2)}
    return {"args": "Namespace(lr=1)", "module": {**inside, "config": {"mask": 0.6}}, "optimizer": {}}


def renamed(weights, *rules):
    """The names by the first of the rules, pattern and replacement, that matches them."""

    def name(key):
        return next(re.sub(f"^{each}", to, key) for each, to in rules if re.match(each, key))

    return {name(key): value for key, value in weights.items()}


def transformers_convnext(weights):
    block = r"convnext.encoder.stages.\1.layers.\2."
    return renamed(
        weights,
        (r"downsample_layers\.0\.0\.", "convnext.embeddings.patch_embeddings."),
        (r"downsample_layers\.0\.1\.", "convnext.embeddings.layernorm."),
        (r"downsample_layers\.(\d)\.", r"convnext.encoder.stages.\1.downsampling_layer."),
        (r"stages\.(\d)\.(\d)\.norm\.", f"{block}layernorm."),
        (r"stages\.(\d)\.(\d)\.gamma", f"{block}layer_scale_parameter"),
        (r"stages\.(\d)\.(\d)\.", block),
        (r"norm\.", "convnext.layernorm."),
        (r"head\.", "classifier."),
    )


def transformers_resnet(weights):
    rules = [(r"conv1\.", "resnet.embedder.embedder.convolution.")]
    rules += [(r"bn1\.", "resnet.embedder.embedder.normalization."), (r"fc\.", "classifier.1.")]
    for stage, number in itertools.product((1, 2, 3, 4), (0, 1, 2)):
        theirs, block = rf"layer{stage}\.(\d)\.", rf"resnet.encoder.stages.{stage - 1}.layers.\1."
        rules += [(rf"{theirs}conv{number + 1}\.", rf"{block}layer.{number}.convolution.")]
        rules += [(rf"{theirs}bn{number + 1}\.", rf"{block}layer.{number}.normalization.")]
        rules += [(rf"{theirs}downsample\.0\.", rf"{block}shortcut.convolution.")]
        rules += [(rf"{theirs}downsample\.1\.", rf"{block}shortcut.normalization.")]
    return renamed(weights, *rules)


def mmpretrain_convnext(weights):
    return renamed(
        weights,
        (r"(stages\.\d\.\d\.)dw(conv\.)", r"backbone.\1depthwise_\2"),
        (r"(stages\.\d\.\d\.)pw(conv\d\.)", r"backbone.\1pointwise_\2"),
        (r"norm\.", "backbone.norm3."),
        (r"head\.", "head.fc."),
        ("", "backbone."),
    )


def in_wrapped_parts(weights):
    """As FSDP, activation checkpoints and torch.compile put their own names into those of a network."""
    part = r"\1._fsdp_wrapped_module._checkpoint_wrapped_module.\2"
    return renamed(
        weights, (r"(stages\.\d\.blocks\.\d)\.(.*)", part), (r"stem\.", "stem._orig_mod."), ("", "")
    )


def mmengine(weights):
    state = {"state_dict": weights, "ema_state_dict": averaged_model(noise(weights))}
    return {"meta": {}, "message_hub": {"log_scalars": {}}, **state, "optimizer": {"state": {}}}


def averaged_model(weights):
    return {"n_averaged": torch.tensor(5), **prefixed("module.", weights)}


# how the weights are named, in what they are kept, and what is said of them
LAYOUTS = {
    "ours": (lambda: ours("model_iii"), bare, "convnext_ablation layout"),
    "ours, averaged": (
        lambda: ours("model_iv"),
        lambda weights: {"state_dict": noise(weights), "state_dict_ema": prefixed("module.", weights)},
        "averaged weights",
    ),
    "timm's or torchvision's ResNet": (lambda: fgvc("model_i"), bare, "resnet layout"),
    "its export by timm's script": (
        lambda: fgvc("model_i"),
        lambda weights: {"arch": "model_i_atto", "args": Namespace(lr=1.0), "state_dict": weights},
        "resnet layout",
    ),
    "11785-FGVC": (lambda: fgvc("model_iii"), lambda weights: prefixed("module.", weights), "11785-fgvc"),
    "official ConvNeXt": (lambda: fgvc("model_v"), lambda weights: {"model": weights}, "convnext layout"),
    "official ConvNeXt, averaged": (
        lambda: fgvc("model_v"),
        lambda weights: {"model": noise(weights), "model_ema": weights, "args": Namespace(model="x")},
        "averaged weights",
    ),
    "timm's ConvNeXt": (timms, bare, "timm-convnext layout"),
    "torchvision's ConvNeXt": (torchvisions, bare, "torchvision-convnext layout"),
    "torchvision's reference": (
        torchvisions,
        lambda weights: {"model": noise(weights), "model_ema": averaged_model(weights), "epoch": 1},
        "averaged weights",
    ),
    "Lightning": (timms, lightning, "prefix 'model.' cut, left out: criterion.weight"),
    "open_clip": (timms, open_clip, "left out: module.logit_scale and 1 more tensors"),
    "transformers": (
        lambda: ours("model_ii"),
        lambda weights: prefixed("timm_model.", weights),
        "prefix 'timm_model.' cut",
    ),
    "mmpretrain": (lambda: fgvc("model_i"), mmpretrain, "prefix 'backbone.' cut"),
    "compiled under DDP": (
        lambda: ours("model_v"),
        lambda weights: {"network": prefixed("_orig_mod.module.", weights)},
        "prefix '_orig_mod.module.' cut",
    ),
    "SparK": (lambda: fgvc("model_i"), spark, "left out: dense_decoder.proj.weight"),
    "an average by torch": (lambda: ours("model_iii"), averaged_model, "left out: n_averaged"),
}


# what else projects write; read by the same reader
FURTHER = {
    "transformers' ConvNeXt": (lambda: fgvc("model_v"), transformers_convnext, "prefix 'convnext.' cut"),
    "transformers' ResNet": (lambda: fgvc("model_i"), transformers_resnet, "transformers-resnet layout"),
    "mmpretrain's ConvNeXt": (
        lambda: fgvc("model_v"),
        lambda weights: {"state_dict": prefixed("data.", mmpretrain_convnext(weights))},
        "plain weights, 3 classes, convnext layout, prefix 'data.backbone.' cut",
    ),
    "mmengine with an average": (lambda: fgvc("model_i"), mmengine, "averaged weights"),
    "parts wrapped": (lambda: ours("model_iii"), in_wrapped_parts, "convnext_ablation layout"),
    "PyTorch's tutorial": (
        lambda: ours("model_iii"),
        lambda weights: {"epoch": 5, "model_state_dict": weights, "optimizer_state_dict": {"state": {}}},
        "plain weights",
    ),
    "under a name of one's own": (
        timms,
        lambda weights: {"classifier": weights, "scheduler": {"a.b": torch.ones(2)}, "best": {}},
        "plain weights",
    ),
    "DeepSpeed": (
        timms,
        lambda weights: {"module": weights, "param_shapes": [{"a.b": torch.Size([2])}], "ds_config": {}},
        "plain weights",
    ),
    "an average within a module of Lightning": (
        timms,
        lambda weights: {
            "state_dict": prefixed("model.", noise(weights)) | prefixed("ema_model.module.", weights)
        },
        "averaged weights, 3 classes, timm-convnext layout, prefix 'ema_model.module.' cut",
    ),
    "an average by Lightning": (
        lambda: ours("model_iv"),
        lambda weights: {
            "state_dict": prefixed("net.", weights),
            "current_model_state": prefixed("net.", noise(weights)),
            "averaging_state": {"n_averaged": torch.tensor(1)},
        },
        "averaged weights",
    ),
}


@pytest.mark.parametrize("layout", FURTHER)
def test_layouts_of_further_projects_are_read(layout, tmp_path):
    network, kept_in, said = FURTHER[layout]
    original, weights = network()
    torch.save(kept_in(weights), tmp_path / "a.ckpt")
    checkpoint, name = read_checkpoint(tmp_path / "a.ckpt"), name_of(original)
    model = timm.create_model(name, num_classes=CLASSES)
    assert said in checkpoint.load(model)
    torch.testing.assert_close(model.eval()(IMAGES), original(IMAGES), atol=1e-6, rtol=1e-6)
    if said.startswith("averaged"):
        checkpoint.load(model, "plain")
        assert not torch.allclose(model(IMAGES), original(IMAGES))
    fresh = {"state_dict": unwrapped(checkpoint.weights()), "num_classes": -1}
    start = timm.create_model(name, num_classes=2, pretrained=True, pretrained_cfg_overlay=fresh)
    checkpoint.load(model)
    assert torch.equal(start.stages[3].blocks[0].conv2.weight, model.stages[3].blocks[0].conv2.weight)


def test_a_checkpoint_of_several_networks_is_refused(tmp_path):
    _, weights = ours("model_iii")
    torch.save({"teacher": weights, "student": weights}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth: holds 2 networks, under student, teacher; save one alone"):
        read_checkpoint(tmp_path / "a.pth")
    torch.save({**prefixed("student.", weights), **prefixed("teacher.", weights)}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"holds 2 networks, under 'student\.', 'teacher\.'; save one alone"):
        read_checkpoint(tmp_path / "a.pth").load(timm.create_model("model_iii_atto", num_classes=CLASSES))


@pytest.fixture
def given(arguments, monkeypatch):
    """Arguments of a training of a network on images in colour; trying them beforehand takes too long."""
    monkeypatch.setattr(validation, "dry_run", lambda *_, **__: None)
    return lambda **changes: arguments(
        input_size=[3, 64, 64], mean=[0.5], std=[0.5], num_classes=CLASSES, **changes
    )


def by_convert(path, name, given):
    parser = argparse.ArgumentParser()
    parsers.add_convert(parser)
    output = path.with_name("converted.safetensors")
    kind = ["--ema"] if "averaged" in path.name else []
    convert.run(parser.parse_args([str(path), str(output), "--model", name, "--force", *kind]))
    return timm.create_model(name, num_classes=CLASSES, checkpoint_path=output)


def by_validate(path, name, given):
    run = given(model=name)
    asked = {"checkpoint": str(path), "use_ema": "averaged" in path.name, "split": "test"}
    validated = Validation(ValidationArguments(run=run, **asked), CPU)
    print(validated.loaded)
    return validated.model


def by_initial_checkpoint(path, name, given):
    return create_network(given(model=name, initial_checkpoint=str(path)), CLASSES, CPU, say=print)


def by_study_init(path, name, given):
    """Makes a new classifier."""
    point = Point(name, name, name, "", STAGES[name.removesuffix("_atto")].components)
    [weights] = find_weights(str(path), [point], [])
    return create_network(given(model=name, pretrained_path=weights.path), CLASSES, CPU, say=print)


PARTS = {}


def by_resume(path, name, given):
    if name not in PARTS:
        PARTS[name] = Parts(given(model=name, model_ema=True), path.parent)
    run = PARTS[name]
    run.arguments = replace(run.arguments, resume=str(path), no_resume_opt=True)
    run.log.line = print
    resume(run)
    return run.average.module if "averaged" in path.name else run.model


def by_publish(path, name, given):
    (path.parent / BEST).unlink(missing_ok=True)
    os.link(path, path.parent / BEST)
    run, best = given(model=name, model_ema="averaged" in path.name), Epoch(0, 0.1, 0.1, 1.0, 1.0, 0.1)
    model = timm.create_model(name, num_classes=CLASSES)
    print(FinishedRun(path.parent, run, {}, DataFacts("x"), best, 1, (), {}, 1, False).load(model))
    return model


READERS = [by_convert, by_validate, by_initial_checkpoint, by_study_init, by_resume, by_publish]


def name_of(model):
    stage = {each.components: name for name, each in STAGES.items()}
    return f"{stage[model.components]}_atto" if hasattr(model, "components") else "model_v_atto"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_read_by_every_command(layout, given, tmp_path, capsys):
    network, kept_in, said = LAYOUTS[layout]
    original, weights = network()
    path = tmp_path / f"{'averaged' if 'averaged weights' in said else 'plain'}.pth"
    torch.save(kept_in(weights), path)
    expected, head = original(IMAGES), list(original.parameters())[-2:]
    for reader in READERS:
        capsys.readouterr()
        model = reader(path, name_of(original), given).eval()
        if reader is by_study_init:
            assert not torch.allclose(model(IMAGES), expected)
            model.head.fc.load_state_dict(dict(zip(("weight", "bias"), head, strict=True)))
        torch.testing.assert_close(model(IMAGES), expected, atol=1e-6, rtol=1e-6)
        out = capsys.readouterr().out
        assert said in out, reader
        assert f"{path.name}: " in out or BEST in out


class Runs:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


EVIL = {
    "system": (lambda trace: Runs(os.system, f"touch {trace}"), f"{os.system.__module__}.system"),
    "eval": (lambda trace: Runs(eval, f"open({str(trace)!r}, 'w')"), "builtins.eval"),
    "within a tensor": (
        lambda trace: Runs(torch._tensor._rebuild_from_type_v2, open, torch.Tensor, (str(trace), "w"), {}),
        "(_?io|builtins).open",
    ),
    "by partial": (lambda trace: Runs(map, partial(os.mkdir, trace), ["x"]), "itertools.imap"),
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("evil", EVIL)
def test_no_command_runs_what_a_file_names_whatever_its_ending(evil, zipped, given, tmp_path):
    make, named = EVIL[evil]
    content = {"state_dict": ours("model_i")[1], "args": Namespace(x=[make(tmp_path / "trace")])}
    refused = f"refused, nothing was run: the file names {named},"
    endings = ("pth", "pt", "bin", "ckpt", "pth.tar", "safetensors", "npz", "pkl", "pickle", "tar", "")
    for ending, reader in itertools.zip_longest(endings, READERS, fillvalue=by_validate):
        path = tmp_path / f"evil.{ending}"
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(UserError, match=refused):
            reader(path, "model_i_atto", given)
    assert not (tmp_path / "trace").exists()


def test_names_that_are_not_of_python_stand_for_nothing_and_the_weights_are_read(tmp_path):
    trace, model = tmp_path / "trace", ours("model_i")[1]
    torch.save(
        {"model": model, "x": Runs(np.testing.runstring, f"open({str(trace)!r}, 'w')", {})}, tmp_path / "a"
    )
    checkpoint = read_checkpoint(tmp_path / "a")
    assert not trace.exists()
    assert checkpoint.content["x"] == {}
    torch.load(tmp_path / "a", weights_only=False)  # the trap is a real one
    assert trace.exists()
