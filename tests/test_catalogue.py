import argparse
import csv
import io
import json
import re
from pathlib import Path

import pytest
import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from convnext_ablation.cli import models as command
from convnext_ablation.errors import UserError
from convnext_ablation.models import catalogue, zoo
from convnext_ablation.models.catalogue import MEANING, component_lines, layer_lines
from convnext_ablation.models.components import RESNET_50, SWITCHES
from convnext_ablation.models.network import ResNetToConvNeXt


def _run(*arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    command.run(parser.parse_args(arguments))


def _rows(capsys, *arguments):
    _run(*arguments, "--format", "csv")
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_gmacs_follow_the_image_size(capsys):
    rows = [*_rows(capsys, "model_v", "--size", "112"), *_rows(capsys, "model_v_atto", "--size", "32")]
    assert [(row["parameters"], row["GMACs"]) for row in rows] == [
        ("28589128", "1.064"),
        ("2005504", "0.006"),
    ]


def test_the_table_is_for_people_and_for_markdown(capsys):
    _run("model_i*_atto")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == [f"model_{n}_atto" for n in ("i", "ii", "iii", "iv")]
    described = ["model_i_atto", "ResNet-50, a quarter of the width", "1,993,976", "0.278", "train it"]
    assert re.split(r"\s{2,}", lines[2]) == described
    _run("model_i_atto", "--format", "markdown")
    assert _cells(capsys.readouterr().out.splitlines()[2]) == described


def _cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_every_model_says_what_it_adds():
    adds = {name: catalogue.adds(name) for name in zoo.model_names()}
    assert all(adds.values())
    assert adds["resnet_to_convnext_stage3"] == adds["model_iii"] == "inverted bottleneck"
    assert adds["resnet_to_convnext"] == "any combination, by keyword arguments"
    assert adds["roadmap_08_kernel_7_atto"] == "kernel 7, a quarter of the width"


def test_weights_are_named_in_full_for_machines_and_counted_for_people(capsys):
    (row,) = _rows(capsys, "model_v")
    names = row["weights"].split(", ")
    assert names[0] == "model_v.in12k_ft_in1k"
    assert sorted(names) == sorted(timm.list_pretrained("model_v"))
    _run("model_i*")
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()[2:]}
    count = len(timm.list_pretrained("model_i"))
    assert lines["model_i"].endswith(f" a1_in1k and {count - 1} more")
    assert lines["model_iv"].endswith(" train it")


def test_the_documented_weights_are_those_that_there_are(capsys):
    text = (Path(__file__).parents[1] / "docs" / "weights.md").read_text(encoding="utf-8")
    documented = [_cells(line) for line in text.splitlines() if re.match(r"\| model_[iv]\.", line)]
    _run("model_[iv]", "--weights", "--format", "markdown")
    listed = [_cells(line) for line in capsys.readouterr().out.splitlines()[2:]]
    # an older timm has fewer, and says less of some
    version = re.search(r"\(of timm ([\d.]+)\)", text)[1]
    assert all(row in documented for row in listed) or timm.__version__ < version
    assert len(documented) >= 28
    cfgs = [timm.get_pretrained_cfg(row[0]) for row in listed]
    assert {(cfg.mean, cfg.std) for cfg in cfgs} == {(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)}
    assert {row[0] for row in listed} == set(timm.list_pretrained(["model_i", "model_v"]))


def test_releases_in_the_folder_that_is_set_are_listed(tmp_path, monkeypatch, capsys):
    config = {
        "architecture": "model_iv",
        "num_classes": 200,
        "pretrained_cfg": {"input_size": [3, 448, 448], "license": "cc-by-4.0"},
    }
    (tmp_path / "model_iv.cub200_448").mkdir()
    (tmp_path / "model_iv.cub200_448" / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("CONVNEXT_ABLATION_WEIGHTS", str(tmp_path))
    _run("model_iv", "--weights", "--format", "markdown")
    row = ["model_iv.cub200_448", "200", "448", "0.875", "bicubic", "cc-by-4.0", "not stated"]
    assert _cells(capsys.readouterr().out.splitlines()[2]) == row
    assert [row["weights"] for row in _rows(capsys, "model_iv")] == ["model_iv.cub200_448"]


def _refusal(*arguments):
    with pytest.raises(UserError) as caught:
        _run(*arguments)
    return str(caught.value)


def test_what_is_not_there_is_told():
    assert _refusal("modell_iii") == "unknown model 'modell_iii'; did you mean 'model_iii'?"
    assert _refusal("--diff", "model_i", "model_vi") == "unknown model 'model_vi'; did you mean 'model_v'?"
    assert "--size is 16; the networks need images of 32 or more" in _refusal("--size", "16")
    assert _refusal("model_iv", "--weights") == "nobody has published weights of these models; train it"


def test_model_iv_is_told_from_model_iii_in_words(capsys):
    _run("--diff", "model_iii", "model_iv")
    assert capsys.readouterr().out.splitlines() == [
        "model_iii -> model_iv",
        "",
        "components:",
        "  moved_up: spatial convolution in the middle -> spatial convolution moved up "
        "(where in the block the spatial convolution stands)",
        "  kernel_size: kernel 3 -> kernel 7 (how far the spatial convolution sees)",
        "cost:",
        "  parameters: 28,183,432 -> 28,229,800",
        "  GMACs at 224: 5.584 -> 4.571",
        "layers (d is a stage's width):",
        "  d: 96, 192, 384, 768",
        "  stages.0.blocks.*.conv1, stages.1-3.blocks.1+.conv1: 1x1 d->4d becomes 7x7 depthwise d",
        "  stages.*.blocks.*.norm1: BatchNorm 4d becomes BatchNorm d",
        "  stages.0.blocks.*.conv2, stages.1-3.blocks.1+.conv2: 3x3 depthwise 4d becomes 1x1 d->4d",
        "  stages.1-3.blocks.0.conv1: 1x1 d->4d becomes 7x7 depthwise d, stride 2",
        "  stages.1-3.blocks.0.conv2: 3x3 depthwise 4d, stride 2 becomes 1x1 d->4d",
    ]


def test_stem_width_and_depth_are_told():
    lines = catalogue.difference("model_i", "model_ii")
    for line in (
        "  d: 64, 128, 256, 512 becomes 96, 192, 384, 768",
        "  stages.1.blocks.3: gone",
        "  stages.2.blocks.6-8: new",
        "  stem.conv: 7x7 3->64, stride 2 becomes 4x4 3->96, stride 4, bias",
        "  stem.pool: 3x3 max pool, stride 2 is gone",
        "  head.fc: linear 2048->1000 becomes linear 3072->1000",
    ):
        assert line in lines
    assert not any("blocks.1+.conv1" in line for line in lines)  # the same in terms of d


def test_what_is_new_in_model_v_is_told():
    lines = catalogue.difference("model_iv", "model_v")
    for line in (
        "  stages.*.blocks.*.scale: new: layer scale d",
        "  stages.1-3.downsample.0: 1x1 d/2->d becomes LayerNorm d/2",
        "  stages.1-3.downsample.1: new: 2x2 d/2->d, stride 2, bias",
        "  stages.*.blocks.*.act2: ReLU becomes GELU",
        "  head.norm: new: LayerNorm 768",
        "  downsampling: a 1x1 convolution widens, then the next block strides -> separate downsampling "
        "(how resolution changes between stages)",
    ):
        assert line in lines


def test_networks_of_the_same_components_differ_in_no_component():
    lines = catalogue.difference("model_i", "roadmap_00_resnet50")
    assert lines[3] == "  none differs"
    assert lines[-1] == "  d: 64, 128, 256, 512"


def test_values_off_the_way_have_words_too():
    assert component_lines(RESNET_50, RESNET_50.with_(kernel_size=5)) == [
        "kernel_size: kernel 3 -> kernel 5 (how far the spatial convolution sees)"
    ]
    assert list(MEANING) == list(SWITCHES)


def test_a_layer_of_another_kind_has_its_own_name():
    old, new = (ResNetToConvNeXt(RESNET_50, width_factor=0.25, device="meta") for _ in range(2))
    new.stages[2].blocks[1].act1 = torch.nn.SiLU()
    new.stages[2].blocks[3].act1 = torch.nn.SiLU()
    new.stages[2].blocks[4].act1 = torch.nn.SiLU()
    assert layer_lines(old, new)[1:] == ["stages.2.blocks.1,3-4.act1: ReLU becomes SiLU"]
