import argparse
import json
import re
from pathlib import Path

import pytest
import timm
from test_progress import on_a_terminal, screen
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from convnext_ablation.cli import models as command
from convnext_ablation.cli import parsers
from convnext_ablation.errors import UserError
from convnext_ablation.models import zoo
from convnext_ablation.models.components import NETWORKS


def _run(*arguments):
    parser = argparse.ArgumentParser()
    parsers.add_models(parser)
    command.run(parser.parse_args(arguments))


def _rows(capsys, *arguments):
    _run(*arguments)
    return [re.split(r"\s{2,}", line) for line in capsys.readouterr().out.splitlines()[2:]]


def test_the_table_says_what_a_network_adds_and_costs(capsys):
    rows = _rows(capsys, "model_i*_atto")
    assert [row[0] for row in rows] == [f"model_{number}_atto" for number in ("i", "ii", "iii", "iv")]
    assert rows[0][1:] == ["ResNet-50, a quarter of the width", "1.994", "0.278", "none"]
    assert _rows(capsys, "model_v_atto", "--size", "32")[0][3] == "0.00633"


def test_every_model_says_what_it_adds():
    adds = {name: command.adds(name) for name in zoo.model_names()}
    assert all(adds.values())
    assert adds["resnet_to_convnext_stage3"] == adds["model_iii"] == "inverted bottleneck"
    assert adds["resnet_to_convnext"] == "any combination, by keyword arguments"
    assert adds["roadmap_08_kernel_7_atto"] == "kernel 7, a quarter of the width"


def test_the_documented_weights_are_those_that_there_are(capsys):
    text = (Path(__file__).parents[1] / "docs" / "weights.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith(("| model_i.", "| model_v."))]
    documented = [line[2:-2].split(" | ") for line in lines]
    listed = _rows(capsys, "model_[iv]", "--weights")
    # an older timm has fewer, and says less of some
    version = re.search(r"\(of timm ([\d.]+)\)", text)[1]
    assert all(row in documented for row in listed) or timm.__version__ < version
    assert len(documented) >= 28
    cfgs = [timm.get_pretrained_cfg(row[0]) for row in listed]
    assert {(cfg.mean, cfg.std) for cfg in cfgs} == {(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)}
    names = timm.list_pretrained(["model_i", "model_v"])
    assert {row[0] for row in listed} == set(names)
    assert _rows(capsys, "model_v")[0][-1] == "timm's"


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
        (["--size", "99999"], "--size is 99999; it must be at most 16384"),
        (["model_iv", "--weights"], "there are no public weights of these models; train one"),
    ],
)
def test_what_is_not_there_is_refused(arguments, message):
    with pytest.raises(UserError) as caught:
        _run(*arguments)
    assert str(caught.value) == message


def test_which_networks_there_are_and_what_they_cost_needs_no_torch_and_fits_the_terminal():
    program = """
    import os, sys
    sys.orig_argv += ["-m", "convnext_ablation.cli.main"]
    from convnext_ablation.cli.main import main
    main(["models", "--size", "225"])
    assert "torch" not in sys.modules
    """
    bold, *lines = screen(on_a_terminal(program, columns=80))[0]
    assert max(map(len, lines)) <= 80
    assert bold.startswith("\x1b[1mmodel ")
    names = [line.split()[0] for line in lines[1:] if line and not line.startswith(" ")]
    assert names == list(NETWORKS)
    rows = screen(on_a_terminal(program, columns=40))[0]
    assert max(len(row.replace("\x1b[1m", "").replace("\x1b[0m", "")) for row in rows) <= 44
    assert [row for row in rows if row and not row.startswith(" ")] == [
        f"\x1b[1m{name}\x1b[0m" for name in names
    ]
