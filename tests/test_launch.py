"""`distributed_train.sh`: a process that fails says why in a line, and no traceback of torchrun follows."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FAILS = "import os, sys\nif os.environ['RANK'] == '0':\n    {}\nimport time\ntime.sleep(60)"


def launched(tmp_path, work, processes="2"):
    """Starts `distributed_train.sh` in a checkout whose train.py does some work."""
    (tmp_path / "distributed_train.sh").symlink_to(ROOT / "distributed_train.sh")
    (tmp_path / "convnext_ablation").symlink_to(ROOT / "convnext_ablation")
    (tmp_path / "train.py").write_text(work)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.Popen(
        [tmp_path / "distributed_train.sh", processes],
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("processes", "work", "code", "error"),
    [
        (
            "2",
            "sys.exit(print('train.py: error: bad data', file=sys.stderr) or 2)",
            2,
            "train.py: error: bad data",
        ),
        ("2", "os.kill(os.getpid(), 9)", 137, "distributed_train.sh: process 0 was ended by SIGKILL"),
        ("two", "", 2, "'two' is no number of processes"),
    ],
)
def test_a_failure_is_one_line(tmp_path, processes, work, code, error):
    process = launched(tmp_path, FAILS.format(work), processes)
    _, said = process.communicate()
    assert process.returncode == code
    loading = "distributed_train.sh: loading PyTorch ...\n" * processes.isdigit()
    assert said.startswith(loading)
    assert error in said
    assert said.removeprefix(loading).count("\n") == 1


def test_ctrl_c_ends_all_processes_without_a_word_of_its_own(tmp_path):
    process = launched(tmp_path, "import time\nprint('begun', flush=True)\ntime.sleep(60)", "1")
    assert process.stdout.readline() == "begun\n"
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert "elastic" not in said
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
