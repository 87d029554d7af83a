import argparse
import csv
import io
import json
import re
from pathlib import Path

import pytest
import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from convnext_ablation.cli import models as command
from convnext_ablation.errors import UserError
from convnext_ablation.models import catalogue, zoo


def _run(*arguments):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    command.run(parser.parse_args(arguments))


def _rows(capsys, *arguments):
    _run(*arguments, "--format", "csv")
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_gmacs_follow_the_image_size(capsys):
    rows = [*_rows(capsys, "model_v", "--size", "112"), *_rows(capsys, "model_v_atto", "--size", "32")]
    costs = [(row["parameters"], row["GMACs"]) for row in rows]
    assert costs == [("28589128", "1.064"), ("2005504", "0.006")]


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
    _run("model_v")
    assert capsys.readouterr().out.endswith(f" in12k_ft_in1k and {len(names) - 1} more\n")


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
    described = {"input_size": [3, 448, 448], "license": "cc-by-4.0"}
    config = {"architecture": "model_iv", "num_classes": 200, "pretrained_cfg": described}
    (tmp_path / "model_iv.cub200_448").mkdir()
    (tmp_path / "model_iv.cub200_448" / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("CONVNEXT_ABLATION_WEIGHTS", str(tmp_path))
    _run("model_iv", "--weights", "--format", "markdown")
    row = ["model_iv.cub200_448", "200", "448", "0.875", "bicubic", "cc-by-4.0", "not stated"]
    assert _cells(capsys.readouterr().out.splitlines()[2]) == row
    assert [row["weights"] for row in _rows(capsys, "model_iv")] == ["model_iv.cub200_448"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["modell_iii"], "unknown model 'modell_iii'; did you mean 'model_iii'?"),
        (["--diff", "model_i", "model_vi"], "unknown model 'model_vi'; did you mean 'model_v'?"),
        (["--size", "16"], "--size is 16; the networks need images of 32 or more a side"),
        (["model_iv", "--weights"], "nobody has published weights of these models; train it"),
    ],
)
def test_what_is_not_there_is_refused(arguments, message):
    with pytest.raises(UserError) as caught:
        _run(*arguments)
    assert str(caught.value) == message


def test_two_networks_differ_in_components_and_in_the_cost_of_each_part(capsys):
    _run("--diff", "model_iv", "model_v")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["model_iv -> model_v", "", "gelu: ReLU -> GELU"]
    assert "downsampling: a 1x1 convolution, then a strided block -> separate downsampling" in lines
    parts = {line[:9].strip(): line[9:].split() for line in lines[-7:]}
    assert list(parts) == ["stem", "stage 1", "stage 2", "stage 3", "stage 4", "head", "all"]
    assert parts["head"][:2] == ["769,000", "770,536"]  # with a norm
    assert parts["all"] == ["28,229,800", "28,589,128", "4.571", "4.456"]
    for column in range(4):
        numbers = [float(cells[column].replace(",", "")) for cells in parts.values()]
        assert sum(numbers[:-1]) == pytest.approx(numbers[-1], abs=0.003)  # GMACs are rounded


def test_the_same_network_differs_in_nothing_and_other_values_have_words():
    assert "\nthe same components\n" in catalogue.difference("model_i", "roadmap_00_resnet50")
    assert "kernel_size: kernel 3 -> kernel 5" in catalogue.difference("model_i", "roadmap_07_kernel_5")
