import argparse
import json
import re
from pathlib import Path

import pytest
import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from convnext_ablation.cli import models as command
from convnext_ablation.errors import UserError
from convnext_ablation.models import zoo


def _run(*arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    command.run(parser.parse_args(arguments))


def _rows(capsys, *arguments):
    _run(*arguments, "--format", "markdown")
    return [_cells(line) for line in capsys.readouterr().out.splitlines()[2:]]


def _cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_is_for_people_and_for_markdown(capsys):
    _run("model_i*_atto")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == [f"model_{n}_atto" for n in ("i", "ii", "iii", "iv")]
    described = ["model_i_atto", "ResNet-50, a quarter of the width", "1,993,976", "0.278", "train it"]
    assert re.split(r"\s{2,}", lines[2]) == described
    assert _rows(capsys, "model_i_atto") == [described]
    assert _rows(capsys, "model_v_atto", "--size", "32")[0][3] == "0.006"


def test_every_model_says_what_it_adds():
    adds = {name: command.adds(name) for name in zoo.model_names()}
    assert all(adds.values())
    assert adds["resnet_to_convnext_stage3"] == adds["model_iii"] == "inverted bottleneck"
    assert adds["resnet_to_convnext"] == "any combination, by keyword arguments"
    assert adds["roadmap_08_kernel_7_atto"] == "kernel 7, a quarter of the width"


def test_the_documented_weights_are_those_that_there_are(capsys):
    text = (Path(__file__).parents[1] / "docs" / "weights.md").read_text(encoding="utf-8")
    documented = [_cells(line) for line in text.splitlines() if re.match(r"\| model_[iv]\.", line)]
    listed = _rows(capsys, "model_[iv]", "--weights")
    # an older timm has fewer, and says less of some
    version = re.search(r"\(of timm ([\d.]+)\)", text)[1]
    assert all(row in documented for row in listed) or timm.__version__ < version
    assert len(documented) >= 28
    cfgs = [timm.get_pretrained_cfg(row[0]) for row in listed]
    assert {(cfg.mean, cfg.std) for cfg in cfgs} == {(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)}
    names = timm.list_pretrained(["model_i", "model_v"])
    assert {row[0] for row in listed} == set(names)
    count = sum(name.startswith("model_v.") for name in names)
    assert _rows(capsys, "model_v")[0][-1] == f"in12k_ft_in1k and {count - 1} more"


def test_releases_in_the_folder_that_is_set_are_listed(tmp_path, monkeypatch, capsys):
    described = {"input_size": [3, 448, 448], "license": "cc-by-4.0"}
    config = {"architecture": "model_iv", "num_classes": 200, "pretrained_cfg": described}
    (tmp_path / "model_iv.cub200_448").mkdir()
    (tmp_path / "model_iv.cub200_448" / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("CONVNEXT_ABLATION_WEIGHTS", str(tmp_path))
    row = ["model_iv.cub200_448", "200", "448", "0.875", "bicubic", "cc-by-4.0", "not stated"]
    assert _rows(capsys, "model_iv", "--weights") == [row]
    assert _rows(capsys, "model_iv")[0][-1] == "cub200_448"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["modell_iii"], "unknown model 'modell_iii'; did you mean 'model_iii'?"),
        (["--size", "16"], "--size is 16; the networks need images of 32 or more a side"),
        (["model_iv", "--weights"], "nobody has published weights of these models; train it"),
    ],
)
def test_what_is_not_there_is_refused(arguments, message):
    with pytest.raises(UserError) as caught:
        _run(*arguments)
    assert str(caught.value) == message
