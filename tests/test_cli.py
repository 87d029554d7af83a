"""The command line itself: versions, missing packages, interruptions."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from convnext_ablation import __version__
from convnext_ablation.cli import main as cli
from convnext_ablation.errors import KEPT


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
        (["study", "--desing", "stages"], "unknown argument '--desing'; did you mean '--design'?"),
        (["study", "--seeds", "0,1,2"], "separate numbers by spaces, as in 0 1 2"),
        (["study", "statsu", "X"], "did you mean 'status'?"),
        (["study", "minni"], "did you mean 'mini'?"),
        (["study", "X"], "known: fgvc_11785, "),
        (["study", "--recipe", "cub20_224"], "unknown recipe 'cub20_224'; did you mean 'cub200_224'?"),
        (["study", "plan", "--width", "ful"], "did you mean 'full'?"),
        (["study", "report", "X", "--design", "stage"], "did you mean 'stages'?"),
        (["convert", "a", "b", "--modle", "model_i"], "unknown argument '--modle'; did you mean '--model'?"),
        (["prepare", "cub200", "out", "--vall", "3"], "unknown argument '--vall'; did you mean '--val'?"),
    ],
)
def test_what_is_not_understood_is_one_line(capsys, arguments, says):
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("convnext-ablation: error: ")
    assert captured.err.count("\n") == 1
    assert says in captured.err
    assert captured.out == ""


def leaves():
    """Each command's words, and what it is."""
    for name, what in cli.COMMANDS.items():
        if isinstance(what, Mapping):
            yield from (([name, sub], command) for sub, command in what.items())
        else:
            yield [name], what


HELP_OF_ALL = """
import json, sys
sys.orig_argv += ["-m", "convnext_ablation.cli.main"]
from convnext_ablation.cli.main import main
for command in json.loads(sys.argv[1]):
    try:
        main([*command, "--help"])
    except SystemExit:
        print("END")
print([name for name in ("torch", "timm", "matplotlib", "pandas") if name in sys.modules])
"""


def test_help_imports_no_torch_fits_80_columns_and_has_two_examples():
    # `predict` says what its device is, which torch knows
    commands = [[], *(words for words, _ in leaves() if words != ["predict"]), ["prepare", "cub200"]]
    process = subprocess.run(
        [sys.executable, "-c", HELP_OF_ALL, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "80"},
    )
    *texts, imported = process.stdout.split("END\n")
    assert imported == "[]\n"
    assert len(texts) == len(commands)
    assert [line for line in process.stdout.splitlines() if len(line) > 80] == []
    for words, text in zip(commands, texts, strict=True):
        if len(words) and words[0] != "prepare":
            assert text.count("\n  convnext-ablation ") == 2, words


@pytest.mark.parametrize(("words", "command"), list(leaves()))
def test_examples_are_understood(words, command):
    for example in command.examples:
        argv = cli._with_default_command(shlex.split(example))
        args, unknown = cli._parser(argv).parse_known_args(argv)
        assert (args.command, unknown) == (command, [])
        assert argv[: len(words)] == words


def test_commands_are_listed_with_what_they_do(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    out = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert name in out


def test_a_missing_package_names_the_extra(monkeypatch, capsys):
    def missing(name, *package, found=cli.importlib.import_module):
        if name == "convnext_ablation.cli.study_run":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
        return found(name, *package)

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


@pytest.mark.parametrize(
    ("command", "module", "signals", "line"),
    [
        (["study", "--data=typefaces", "--output=x"], "study_run", (), f"stopped; {KEPT}"),
        (["study", "--data=typefaces", "--output=x"], "study_run", (signal.SIGTERM,), f"stopped; {KEPT}"),
        (["models"], "models", (), "stopped; nothing was kept"),
    ],
)
def test_an_interruption_says_truly_what_is_kept(monkeypatch, capsys, command, module, signals, line):
    def interrupted(args):
        raise KeyboardInterrupt(*signals)

    monkeypatch.setattr(f"convnext_ablation.cli.{module}.run", interrupted)
    assert cli.main(command) == 128 + (signals or (signal.SIGINT,))[0]
    assert capsys.readouterr().err == f"convnext-ablation: {line}\n"


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


@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("st", "study"),
        ("study ", "plan"),
        ("study --des", "--design"),
        ("study --design add", "add-one-in"),
        ("study --data typefaces-", "typefaces-64"),
        ("study plan --recipe cub200_2", "cub200_224"),
        ("models roadmap_03", "roadmap_03_depthwise"),
    ],
)
def test_a_shell_completes_commands_options_and_names(tmp_path, line, offers):
    typed = f"convnext-ablation {line}"
    asked = {
        "_ARGCOMPLETE": "1",
        "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "offers"),
        "COMP_LINE": typed,
        "COMP_POINT": str(len(typed)),
    }
    command = [sys.executable, "-m", "convnext_ablation.cli.main"]
    subprocess.run(command, env={**os.environ, **asked}, check=True)
    assert offers in [each.strip() for each in (tmp_path / "offers").read_text().split("\v")]
