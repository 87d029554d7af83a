"""The command line: help, typing errors and first lines without torch, missing packages, interruptions."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm

from convnext_ablation import __version__
from convnext_ablation.cli import main as cli
from convnext_ablation.cli.asked import check_spelling
from convnext_ablation.errors import KEPT
from convnext_ablation.models.components import NETWORKS

ROOT = Path(__file__).parents[1]


def leaves():
    """Each command's words, and what it is."""
    for name, what in cli.COMMANDS.items():
        if isinstance(what, Mapping):
            yield from (([name, sub], command) for sub, command in what.items())
        else:
            yield [name], what


SCRIPTS = ("train.py", "validate.py")
HELP = [("", words) for words, _ in leaves()] + [(script, []) for script in SCRIPTS]
WRONG = [
    ("", "", "COMMAND"),
    ("", "studi", "did you mean 'study'?"),
    ("", "study", "--data"),
    ("", "study --data typefaces", "name the study's folder with --output"),
    ("", "prepare typeface out", "did you mean 'typefaces'?"),
    ("", "study --desing stages", "unknown argument '--desing'; did you mean '--design'?"),
    ("", "study --seeds 0,1,2", "separate numbers by spaces, as in 0 1 2"),
    ("", "study statsu X", "did you mean 'status'?"),
    ("", "study minni", "did you mean 'mini'?"),
    ("", "study X", "known: fgvc_11785, "),
    ("", "study --recipe cub20_224", "unknown recipe 'cub20_224'; did you mean 'cub200_224'?"),
    ("", "study --data typeface --output x", "'typeface'; did you mean 'typefaces'?"),
    ("", "study --data typefaces --output x --set epoch=3", "'epoch'; did you mean 'epochs'?"),
    ("", "study --data typefaces --output x --models model_ivv", "'model_ivv'; did you mean 'model_iv'?"),
    ("", "study plan mini --without typefaces_64", "'typefaces_64'; did you mean 'typefaces-64'?"),
    (
        "",
        "study plan --data cub200 --no-timing",
        "--data cub200: no recipe has its name; give one with --recipe",
    ),
    ("", "study typefaces", "'typefaces' is a data set; give it with --data"),
    ("", "study plan --width ful", "did you mean 'full'?"),
    ("", "study report X --design stage", "did you mean 'stages'?"),
    ("", "study report gone", "gone: "),
    ("", "convert a b --modle model_i", "unknown argument '--modle'; did you mean '--model'?"),
    ("", "convert a b --model Model_IVV", "did you mean 'model_iv'?"),
    ("", "bench modle_iv", "unknown model 'modle_iv'; did you mean 'model_iv'?"),
    ("", "bench model_iv --mode trainning", "did you mean 'training'?"),
    ("", "predict x --model modle_iv", "unknown model 'modle_iv'; did you mean 'model_iv'?"),
    ("", "export modle_iv --to onnx", "unknown model 'modle_iv'; did you mean 'model_iv'?"),
    ("", "export model_iv --to onx", "did you mean 'onnx'?"),
    ("", "export model_iv", "the following arguments are required: --to"),
    ("", "recipes minni", "unknown recipe 'minni'; did you mean 'mini'?"),
    ("", "prepare cub200 out --vall 3", "unknown argument '--vall'; did you mean '--val'?"),
    ("", "train --model modle_iv", "unknown model 'modle_iv'; did you mean 'model_iv'?"),
    ("train.py", "--model modle_iv", "unknown model 'modle_iv'; did you mean 'model_iv'?"),
    ("train.py", "--model-kwargs a=1 --modle x", "unknown argument '--modle'; did you mean '--model'?"),
    ("train.py", "-c cub20_224", "unknown recipe 'cub20_224'; did you mean 'cub200_224'?"),
    ("validate.py", "--model roadmap_08_kernel7", "did you mean 'roadmap_08_kernel_7'?"),
    ("validate.py", "--clip-mode x", "unknown argument '--clip-mode'; did you mean '--crop-mode'?"),
]
BEGUN = [
    ("", "predict photos --model model_iv", "convnext-ablation predict"),
    ("", "export model_iv --to torchscript", "convnext-ablation export"),
    ("", "models --weights", "convnext-ablation models"),
    ("", "study plan --data typefaces", "convnext-ablation study plan"),
    ("", "study --data typefaces --output x", "convnext-ablation study"),
    ("train.py", "x --model model_iv", "train.py"),
    ("validate.py", "x --model resnet50", "validate.py"),
]
LONG = [
    ("prepare cub200 out", "out: preparing cub200 ..."),
    ("prepare --verify gone", "gone: comparing with its manifest ..."),
    ("data-report gone", "gone: reading ..."),
]
PROGRAM = """
import contextlib, io, json, os, sys
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
sys.orig_argv += ["-m", "convnext_ablation.cli.main"]
from convnext_ablation.cli.main import main
found = []
for script, words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(words, script)
        except SystemExit as end:
            code = end.code
    found.append((code, out.getvalue(), err.getvalue()))
slow = ("timm", "matplotlib", "pandas", "scipy")
print(json.dumps([found, [name for name in slow if name in sys.modules]]))
"""


@pytest.fixture(scope="module")
def no_torch(tmp_path_factory):
    """An environment in which a program that imports torch ends with the word torch."""
    folder = tmp_path_factory.mktemp("no_torch")
    (folder / "torch.py").write_text("raise SystemExit('torch')")
    path = os.pathsep.join([str(folder), str(ROOT)])
    return {**os.environ, "COLUMNS": "80", "PYTHONPATH": path}


@pytest.fixture(scope="module")
def said(no_torch):
    """What each command prints, and its exit code, all in one process."""
    lines = [(script, [*words, "--help"]) for script, words in [("", []), *HELP, ("", ["prepare", "cub200"])]]
    lines += [(script, shlex.split(words)) for script, words, _ in (*WRONG, *BEGUN)]
    lines += [("", shlex.split(words)) for words, _ in LONG]
    program = [sys.executable, "-c", PROGRAM, json.dumps(lines)]
    process = subprocess.run(program, capture_output=True, text=True, env=no_torch)
    assert process.returncode == 0, process.stderr
    found, imported = json.loads(process.stdout)
    assert imported == []
    return {(script, shlex.join(words)): answer for (script, words), answer in zip(lines, found, strict=True)}


@pytest.mark.parametrize(("script", "words"), [("", []), *HELP, ("", ["prepare", "cub200"])])
def test_help_needs_no_torch_fits_80_columns_and_has_two_examples(said, script, words):
    code, out, err = said[script, shlex.join([*words, "--help"])]
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    if words[1:] != ["cub200"] and (script or words):
        assert out.count(f"\n  python {script} " if script else "\n  convnext-ablation ") == 2


@pytest.mark.parametrize("command", ["train", "validate", "predict", "verify"])
def test_no_more_processes_load_images_than_there_are_cores(said, command):
    _, out, _ = said["", f"{command} --help"]
    assert "(default: 1" in out.partition("--workers")[2].partition("\n  --")[0]


@pytest.mark.parametrize(("script", "words", "says"), WRONG)
def test_what_is_not_understood_is_one_line_without_torch(said, script, words, says):
    code, out, err = said[script, words]
    assert (code, out) == (2, "")
    assert err.startswith(f"{script or 'convnext-ablation'}: error: ")
    assert err.count("\n") == 1
    assert says in err


@pytest.mark.parametrize(("script", "words", "program"), BEGUN)
def test_a_line_is_printed_before_torch_is_imported(said, script, words, program):
    assert said[script, words] == ["torch", "", f"{program}: loading PyTorch ...\n"]


@pytest.mark.parametrize(("words", "line"), LONG)
def test_long_work_without_torch_begins_with_a_line(said, words, line):
    assert said["", words][1] == f"{line}\n"


@pytest.mark.parametrize("script", [*SCRIPTS, "distributed_train.sh"])
def test_scripts_help_without_torch(no_torch, script):
    program = [ROOT / script] if script.endswith(".sh") else [sys.executable, ROOT / script]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**no_torch, "PATH": path}
    process = subprocess.run([*program, "--help"], capture_output=True, text=True, env=env)
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.startswith(f"usage: {'./' * script.endswith('.sh')}{script} ")
    assert "\nexamples:\n" in process.stdout


def test_of_several_processes_the_first_alone_says_what_is_wrong(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, lines in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        assert cli.main(["--modle", "x"], "train.py") == 2
        assert capsys.readouterr().err.count("\n") == lines


def test_no_model_of_timm_is_taken_for_a_misspelt_one_of_ours():
    names = {name for name in timm.list_models() if name not in NETWORKS}
    check_spelling([*names, *timm.list_pretrained("resnet50*")])
    assert len(names) > 1000


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize(("words", "command"), list(leaves()))
def test_examples_are_understood(words, command):
    for example in command.examples:
        argv = cli._with_default_command(shlex.split(example))
        assert cli.parsed(argv).command == command
        assert argv[: len(words)] == words


def test_commands_are_listed_with_what_they_do(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    out = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert name in out


STUDY = ["study", "--data=typefaces", "--output=x"]


@pytest.mark.parametrize("late", [False, True])
def test_a_missing_package_names_the_extra(monkeypatch, capsys, late):
    def missing(_):
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")

    def imported(name, *package, found=cli.importlib.import_module):
        if name != "convnext_ablation.cli.study_run":
            return found(name, *package)
        return SimpleNamespace(run=missing) if late else missing(name)

    monkeypatch.setattr(cli.importlib, "import_module", imported)
    assert cli.main(STUDY) == 2
    assert capsys.readouterr().err == (
        "convnext-ablation: error: matplotlib is missing; pip install 'convnext_ablation[study]'\n"
    )


def test_a_fault_of_ours_is_no_missing_package(monkeypatch):
    def broken(name):
        raise ImportError("cannot import name 'x'", name="convnext_ablation.study")

    monkeypatch.setattr(cli.importlib, "import_module", broken)
    with pytest.raises(ImportError):
        cli.main(STUDY)


@pytest.mark.parametrize(
    ("command", "module", "signals", "line"),
    [
        (STUDY, "study_run", (), f"stopped; {KEPT}"),
        (STUDY, "study_run", (signal.SIGTERM,), f"stopped; {KEPT}"),
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
