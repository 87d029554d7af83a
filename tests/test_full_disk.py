"""What the system refuses: one line and exit code 2, from every kind of command that writes."""

import io
import os
import re
import resource
import shlex
import subprocess
import sys

import pytest
import timm
import torch

from convnext_ablation.cli import train, validate
from convnext_ablation.cli.main import main
from convnext_ablation.errors import exit_code_of

CPU = ("--device", "cpu", "--workers", "0")
REFUSALS = {
    "too large": "File too large",
    "below a file": "Not a directory|can't be written; give a file in|to a folder that exists",
    "fifo": "is no file, and is not replaced|is no prepared data set|Not a directory",
    "links in a circle": "symbolic links|is no file, and is not replaced",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "a.pth.tar"
    torch.save(timm.create_model("model_i_atto", num_classes=3, in_chans=1).state_dict(), path)
    return path


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("name", ["train", "validate", "convert", "prepare", "data-report"])
def test_an_output_that_cannot_be_written_is_one_line(
    image_folder, recipe_file, checkpoint, tmp_path, capsys, name, refusal
):
    (tmp_path / "file").write_text("mine")
    output = tmp_path / ("file/out.safetensors" if refusal == "below a file" else "out.safetensors")
    if refusal == "fifo":
        os.mkfifo(output)
    if refusal == "links in a circle":
        output.symlink_to(output)
    network = ("--model", "model_i_atto", "--num-classes", "3", *CPU)
    trained = ("-c", recipe_file, *network, "--experiment", "run", "--output", output)
    tested = ("--split", "val", *network, "--img-size", "32", "--in-chans", "1", "--checkpoint", checkpoint)
    command, *words = {
        "train": (train.main, image_folder, *trained),
        "validate": (validate.main, image_folder, *tested, "--results-file", output),
        "convert": (main, "convert", checkpoint, output, "--model", "model_i_atto", "--force"),
        "prepare": (main, "prepare", "folder", output, "--images", image_folder, "--size", "none"),
        "data-report": (main, "data-report", image_folder, "--output", output),
    }[name]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 if refusal == "too large" else limits[0], limits[1]))
    try:
        assert command([*map(str, words)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err
    assert re.fullmatch(rf"[\w.-]+: error: .*({REFUSALS[refusal]}).*\n", error)
    assert (tmp_path / "file").read_text() == "mine"
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("output", "code", "error"),
    [
        (">/dev/full", 2, "error: disk or output: No space left on device; make room and run the same"),
        (">&-", 0, ""),
        (">&- 2>&-", 0, ""),
    ],
)
def test_output_that_is_full_or_closed(output, code, error):
    recipes = shlex.join([sys.executable, "-m", "convnext_ablation.cli.main", "recipes"])
    script = f"({recipes}; echo $? >&3) 3>&2 {output}"
    done = subprocess.run(["bash", "-c", script], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    *lines, last = done.stderr.splitlines()
    assert last == str(code)
    assert len(lines) == bool(error)
    assert error in done.stderr


def test_a_name_that_is_not_utf_8_is_printed_with_escapes(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert exit_code_of("x", lambda: print("\udcff.jpg")) == 0
    assert sys.stdout.buffer.getvalue() == b"\\udcff.jpg\n"
