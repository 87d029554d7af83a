"""A disk that is full, and a reader that has seen enough: one line, or none, and never a traceback."""

import subprocess
import sys

import pytest

TRAIN = "import sys; from convnext_ablation.cli import train; sys.exit(train.guarded('train.py', print))"
COMMANDS = {
    "convnext-ablation": [sys.executable, "-m", "convnext_ablation.cli.main", "recipes"],
    "train.py": [sys.executable, "-c", TRAIN],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_output_to_a_full_disk_is_one_line(name):
    with open("/dev/full", "w") as full:
        done = subprocess.run(COMMANDS[name], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr.decode() == f"{name}: error: No space left on device, of disk or output\n"


def test_a_reader_that_has_seen_enough_ends_training_quietly():  # and the command: test_cli.py
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(COMMANDS["train.py"], **pipes) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
