"""A disk that is full, and a reader that has seen enough: one line, or none, and never a traceback."""

import subprocess
import sys

import pytest

COMMANDS = {
    "convnext-ablation": "from convnext_ablation.cli.main import main; sys.exit(main(['recipes']))",
    "train.py": "from convnext_ablation.cli import train; sys.exit(train.guarded('train.py', print))",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_output_to_a_full_disk_is_one_line(name):
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; {COMMANDS[name]}"], stdout=full, stderr=subprocess.PIPE
        )
    assert done.returncode == 2
    assert done.stderr.decode() == f"{name}: error: No space left on device, of disk or output\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_reader_that_has_seen_enough_ends_the_command_quietly(name):
    with subprocess.Popen(
        [sys.executable, "-c", f"import sys; {COMMANDS[name]}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141
