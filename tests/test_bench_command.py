"""`convnext-ablation bench`: what is asked of it, what it writes, and the processes that measure."""

from __future__ import annotations

import argparse
import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from convnext_ablation.bench import configuration, processes, rendering
from convnext_ablation.bench.configuration import Configuration
from convnext_ablation.cli import bench as command
from convnext_ablation.cli import main as cli

SMALL = "--img-size 32 --batch-size 2 --rounds 3 --threads 1 --device cpu".split()
on_glibc = pytest.mark.skipif(
    not configuration.has_tunable_allocator(), reason="the C library has no such setting"
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Configuration]:
    """What would be measured; a form is the slower the shorter its name, and the compiled one fails."""
    configurations: list[Configuration] = []

    def measured(one: Configuration, turn) -> dict:
        configurations.append(one)
        turn("someone")
        contestants = {
            str(each): {"error": "RuntimeError: no compiler"}
            if each.form == "compiled"
            else {"seconds": [1 / len(each.form)] * one.rounds, "preparation": 1.0}
            for each in one.contestants
        }
        return {
            "contestants": contestants,
            "peaks": {one.dtype: 100.0},
            "bandwidth": 10.0,
            "allocator": one.allocator,
            "threads": one.threads,
        }

    monkeypatch.setattr(processes, "measured", measured)
    return configurations


def bench(folder: Path, *given: str) -> int:
    return cli.main(["bench", *given, *SMALL, "--output", str(folder)])


def rows_in(folder: Path) -> list[dict[str, str]]:
    with open(folder / "bench.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_writes_rows_page_and_figure(tmp_path, asked, capsys):
    assert bench(tmp_path, "model_i_atto", "--allocator", "default") == 0
    rows = rows_in(tmp_path)
    assert [row["form"] for row in rows] == ["plain", "channels-last", "optimized", "compiled"]
    assert [row["ratio"] for row in rows] == ["", "2.6", "1.8", ""]
    assert rows[3]["error"] == "RuntimeError: no compiler"
    page = (tmp_path / "bench.md").read_text(encoding="utf-8")
    out = capsys.readouterr().out
    for text in (page, out):
        assert "inference, batch 2 at 32, cpu, 1 threads, default allocator" in text
        assert "2.60 [2.60, 2.60]" in text
        assert "model_i_atto compiled float32: RuntimeError: no compiler" in text
    assert '"inconclusive"' in page  # how to read it
    assert page.startswith("# Speed\n\n## inference")
    assert "\n\n\n" not in page
    svg = (tmp_path / "bench.svg").read_text(encoding="utf-8")
    assert "model_i_atto, optimized, float32" in svg
    assert "failed" in svg
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.csv", "bench.md", "bench.svg"]
    kept = svg
    assert bench(tmp_path, "model_i_atto", "--allocator", "default") == 0
    assert (tmp_path / "bench.svg").read_text(encoding="utf-8") == kept  # the same rows, the same bytes


def test_a_terminal_gets_a_bar_with_the_time_left(tmp_path, asked, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert bench(tmp_path, "model_i_atto", "--allocator", "default", "--dtype", "float32", "bfloat16") == 0
    captured = capsys.readouterr()
    assert re.search(r"measuring:  50%\|.* 58/116 ", captured.err)
    assert captured.out.count("inference, batch 2 at 32") == 2


def test_the_same_command_resumes_after_an_interruption(tmp_path, asked, capsys, monkeypatch):
    given = ("model_i_atto", "--dtype", "float32", "bfloat16", "--allocator", "default", "--forms", "plain")
    measured = processes.measured

    def interrupted(one: Configuration, turn) -> dict:
        if one.dtype == "bfloat16":
            raise KeyboardInterrupt
        return measured(one, turn)

    monkeypatch.setattr(processes, "measured", interrupted)
    assert bench(tmp_path, *given) == 130
    kept = (tmp_path / "bench.csv").read_text()
    assert [row["dtype"] for row in rows_in(tmp_path)] == ["float32"]
    monkeypatch.setattr(processes, "measured", measured)
    assert bench(tmp_path, *given) == 0
    assert [one.dtype for one in asked] == ["float32", "bfloat16"]
    assert (tmp_path / "bench.csv").read_text().startswith(kept)
    assert [row["dtype"] for row in rows_in(tmp_path)] == ["float32", "bfloat16"]
    assert "1 of 2 are in" in capsys.readouterr().out
    assert bench(tmp_path, *given) == 0  # all there: shown again, not measured
    assert len(asked) == 2
    assert capsys.readouterr().out.count("inference, batch 2 at 32") == 2


def test_other_settings_are_measured_beside_what_is_there(tmp_path, asked):
    given = ("model_i_atto", "--forms", "plain", "--allocator", "default")
    bench(tmp_path, *given)
    bench(tmp_path, *given, "--no-memory")
    bench(tmp_path, *given, "--baseline", "model_ii_atto")
    assert [row["model"] for row in rows_in(tmp_path)] == [
        *("model_i_atto", "model_i_atto", "model_ii_atto", "model_i_atto")
    ]
    assert len({row["configuration"] for row in rows_in(tmp_path)}) == 3


@on_glibc
def test_both_allocators_are_measured_on_a_cpu_if_none_is_named(tmp_path, asked):
    bench(tmp_path, "model_i_atto", "--forms", "plain")
    assert [one.allocator for one in asked] == ["default", "tuned"]
    assert [row["allocator"] for row in rows_in(tmp_path)] == ["default", "tuned"]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["resnet51"], "unknown model 'resnet51'; did you mean 'resnet5"),
        (["model_i.nowhere"], "unknown model 'model_i.nowhere'; did you mean 'model_i"),
        (["zzzzzzzzzz"], "unknown model 'zzzzzzzzzz'; `timm.list_models()` has them"),
        (["model_v_atto", "--img-size", "8"], "model_v_atto doesn't take images of 8 x 8 pixels: "),
        (["vit_tiny_patch16_224", "--img-size", "32"], "vit_tiny_patch16_224 doesn't take images of 32 x 32"),
        (["model_i_atto", "--device", "cuda:99"], "--device is 'cuda:99', which torch can't use here ("),
        (["model_i_atto", "--device", "meta"], "--device is 'meta', on which nothing is computed; take cpu"),
        (["model_i_atto", "--dtype", "float13"], "invalid choice: 'float13'"),
        (["model_i_atto", "--threads", "0"], "--threads is 0; it has to be 1 or more"),
        (["model_i_atto", "--rounds", "2"], "--rounds is 2; it has to be 3 or more"),
        (["model_i_atto", "--baseline", "resnet51"], "unknown model 'resnet51'; did you mean"),
        (
            ["model_i_atto", "--baseline", "resnet50:fast"],
            "--baseline is 'resnet50:fast'; in inference it takes",
        ),
        (
            ["model_i_atto", "--baseline", "resnet50:plain:float32:x"],
            "--baseline is 'resnet50:plain:float32:x'",
        ),
        (
            ["model_i_atto", "--mode", "training", "--forms", "optimized"],
            "--forms has none that there is in training",
        ),
        (
            ["model_i_atto", "--mode", "training", "--baseline", "model_i:optimized"],
            "in training it takes MODEL[",
        ),
    ],
)
def test_bad_input_is_one_line_before_anything_is_measured(tmp_path, asked, capsys, given, told):
    code = 0
    try:
        code = cli.main(["bench", *SMALL, "--output", str(tmp_path / "new"), *given])
    except SystemExit as end:
        code = end.code
    captured = capsys.readouterr()
    assert code == 2
    assert told in captured.err
    assert captured.err.count("\n") == 1
    assert (captured.out, asked, (tmp_path / "new").exists()) == ("", [], False)


def test_a_dtype_that_the_device_lacks_is_told(tmp_path, asked, capsys, monkeypatch):
    def missing(*args):
        raise RuntimeError("\"slow_conv2d\" not implemented for 'Half'")

    monkeypatch.setattr("torch.nn.functional.conv2d", missing)
    assert bench(tmp_path, "model_i_atto", "--dtype", "float16") == 2
    assert "--dtype is float16, which cpu doesn't have here (" in capsys.readouterr().err


def test_tuned_allocator_needs_glibc(tmp_path, asked, capsys, monkeypatch):
    monkeypatch.setattr(configuration, "has_tunable_allocator", lambda: False)
    assert bench(tmp_path, "model_i_atto", "--allocator", "tuned") == 2
    assert "--allocator tuned needs glibc" in capsys.readouterr().err
    assert bench(tmp_path, "model_i_atto", "--forms", "plain") == 0
    assert [one.allocator for one in asked] == ["default"]


def test_a_file_of_others_is_left_as_it_is(tmp_path, asked, capsys):
    (tmp_path / "bench.csv").write_text("model,speed\nresnet50,1\n")
    assert bench(tmp_path, "model_i_atto") == 2
    assert "has other columns than this version writes; give another --output" in capsys.readouterr().err
    assert (tmp_path / "bench.csv").read_text() == "model,speed\nresnet50,1\n"
    assert bench(tmp_path / "bench.csv", "model_i_atto") == 2
    assert "can't be made" in capsys.readouterr().err


def test_without_matplotlib_a_line_says_that_the_figure_is_missing(tmp_path, asked, capsys, monkeypatch):
    def missing(*args):
        raise ModuleNotFoundError("No module named 'matplotlib'")

    monkeypatch.setattr(rendering, "plot", missing)
    assert bench(tmp_path, "model_i_atto", "--forms", "plain") == 0
    assert capsys.readouterr().out.endswith("bench.csv, bench.md; matplotlib is missing, hence no figure\n")


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that run `faulty_worker.py`."""
    monkeypatch.setattr(processes, "_WORKER", "faulty_worker")
    folders = (str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, folders)))


@pytest.mark.usefixtures("faulty")
def test_who_ends_the_process_fails_and_the_others_are_measured():
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    given = ["resnet10t", "resnet18", "resnet26", "resnet34", *SMALL, "--forms", "plain", "--threads", "3"]
    one = configuration.configurations(parser.parse_args([*given, "--allocator", "default"]))[0]
    turns: list[str] = []
    found = processes.measured(one, turns.append)
    assert found == {
        "threads": "3",
        "contestants": {
            "resnet10t:plain:float32": {"seconds": [1.0], "peak": 2.0, "idle": 1.0},
            "resnet18:plain:float32": {
                "error": "its process was killed by the system, which most often means that memory ran out"
            },
            "resnet26:plain:float32": {"error": "its process ended with exit code 1: handles"},
            "resnet34:plain:float32": {"seconds": [1.0]},  # whose memory can't be measured
        },
    }
    assert list(found["contestants"]) == [str(each) for each in one.contestants]
    assert turns.count("resnet10t:plain:float32") == 4


@pytest.mark.usefixtures("faulty")
def test_a_process_that_ends_at_nobodys_turn_ends_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DIES_AT_THE_MACHINES_TURN", "1")
    assert bench(tmp_path, "model_i_atto", "--allocator", "default", "--forms", "plain") == 2
    assert "default allocator: its process ended by SIGABRT\n" in capsys.readouterr().err


FAULTS_OF_REUSE = """
import os, resource
from convnext_ablation.bench.processes import allocator_setting
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = b"x" * (64 << 20)
    del block
print(allocator_setting(os.environ), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@on_glibc
def test_allocators_are_set_in_the_process_whatever_this_one_has(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "5000")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=1000000000")
    faults = {}
    for allocator in configuration.ALLOCATORS:
        answer = subprocess.run(
            [sys.executable, "-c", FAULTS_OF_REUSE],
            env=processes.environment(allocator, threads=1),
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        assert answer[0] == allocator
        faults[allocator] = int(answer[1])
    pages = (64 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert faults["default"] >= pages / 2
    assert faults["tuned"] < pages / 50


@pytest.mark.parametrize(
    ("variables", "setting"),
    [
        ({"LD_PRELOAD": "/usr/lib/libfaster.so"}, "default"),
        ({"LD_PRELOAD": "/usr/lib/libjemalloc.so"}, "other"),
        ({"MALLOC_ARENA_MAX": "1"}, "other"),
        ({"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1"}, "other"),
    ],
)
def test_setting_is_read_from_the_environment(variables, setting):
    assert processes.allocator_setting(variables) == setting


@on_glibc
def test_processes_measure_what_the_command_asks_for(tmp_path, capfd):
    """The whole of it, once."""
    assert bench(tmp_path, "model_v_atto", "--forms", "plain", "--allocator", "tuned") == 0
    (row,) = rows_in(tmp_path)
    assert (row["allocator"], row["threads"], row["error"]) == ("tuned", "1", "")
    for column in ("infer_samples_per_sec", "share_of_peak", "bandwidth_step_time", "preparation_sec"):
        assert float(row[column]) > 0
    assert float(row["peak_memory_mb"]) > float(row["idle_memory_mb"]) > 50
    noise = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("measuring: ")]
    assert noise == []
