"""The command line itself: versions, missing packages, interruptions."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from convnext_ablation import __version__
from convnext_ablation.cli import main as cli


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "COMMAND"),
        (["studi"], "did you mean 'study'?"),
        (["study"], "--data"),
        (["prepare", "typeface", "out"], "did you mean 'typefaces'?"),
    ],
)
def test_what_is_not_understood_is_one_line(capsys, arguments, says):
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("convnext-ablation: error: ")
    assert captured.err.count("\n") == 1
    assert says in captured.err
    assert captured.out == ""


def test_commands_are_listed_with_what_they_do(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    out = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert name in out


def test_a_missing_package_names_the_extra(monkeypatch, capsys):
    def missing(name):
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")

    monkeypatch.setattr(cli.importlib, "import_module", missing)
    assert cli.main(["study"]) == 2
    assert capsys.readouterr().err == (
        "convnext-ablation: error: matplotlib is missing; pip install 'convnext_ablation[study]'\n"
    )


def test_a_fault_of_ours_is_no_missing_package(monkeypatch):
    def broken(name):
        raise ImportError("cannot import name 'x'", name="convnext_ablation.study")

    monkeypatch.setattr(cli.importlib, "import_module", broken)
    with pytest.raises(ImportError):
        cli.main(["study"])


def test_an_interruption_says_how_to_go_on(monkeypatch, capsys, tmp_path):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("convnext_ablation.cli.study_run.run", interrupted)
    assert cli.main(["study", "--data=typefaces", f"--output={tmp_path}"]) == 130
    assert "run the same command again to resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "unbuffered", "code"),
    [("recipes", "", 141), ("recipes", "1", 141), ("--help", "", 141), ("--help", "1", 0)],
)
def test_a_reader_that_has_seen_enough_is_no_error(command, unbuffered, code):
    installed = Path(sys.executable).with_name("convnext-ablation")
    with subprocess.Popen(
        [installed, command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == code
