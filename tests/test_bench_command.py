"""`convnext-ablation bench`: what is asked of it, what it writes, and the processes that measure."""

from __future__ import annotations

import argparse
import csv
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from convnext_ablation.bench import configuration, processes
from convnext_ablation.bench.configuration import Configuration
from convnext_ablation.cli import bench as command
from convnext_ablation.cli import main as cli

SMALL = "--img-size 32 --batch-size 2 --rounds 3 --threads 1 --device cpu".split()
on_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Configuration]:
    """What would be measured; a form is the slower the shorter its name, and the compiled one fails."""
    configurations: list[Configuration] = []

    def measured(one: Configuration, turn) -> dict:
        configurations.append(one)
        turn(str(one.baseline))
        contestants = {
            str(each): {"error": "RuntimeError: no compiler"}
            if each.form == "compiled"
            else {"seconds": [1 / len(each.form)] * one.rounds, "preparation": 1.0}
            for each in one.contestants
        }
        return {"contestants": contestants, "peaks": {one.dtype: 100.0}, "bandwidth": 10.0}

    monkeypatch.setattr(processes, "measured", measured)
    return configurations


def bench(folder: Path, *given: str) -> int:
    return cli.main(["bench", *given, *SMALL, "--output", str(folder)])


def rows_in(folder: Path) -> list[dict[str, str]]:
    with open(folder / "bench.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_writes_rows_and_page(tmp_path, asked, capsys):
    assert bench(tmp_path, "model_i_atto") == 0
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
    assert page.startswith("# Speed\n\n## inference")
    assert "\n\n\n" not in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.csv", "bench.md"]


def test_the_same_command_resumes_after_an_interruption(tmp_path, asked, capsys, monkeypatch):
    given = ("model_i_atto", "--dtype", "float32", "bfloat16", "--forms", "plain")
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
    assert "1 of 2 are in" in capsys.readouterr().out
    assert bench(tmp_path, *given) == 0  # all there: shown again, not measured
    assert len(asked) == 2
    assert capsys.readouterr().out.count("inference, batch 2 at 32") == 2
    assert bench(tmp_path, *given, "--no-memory") == 0  # other settings are measured beside these
    assert len({row["configuration"] for row in rows_in(tmp_path)}) == 4


def test_rows_of_earlier_versions_stay_as_they_are(tmp_path, asked):
    bench(tmp_path, "model_i_atto", "--forms", "plain", "channels-last")
    path = tmp_path / "bench.csv"
    path.write_text(path.read_text().replace(",2.6,2.6,2.6,", ",inconclusive,0.9,2.6,"))
    bench(tmp_path, "model_i_atto", "--forms", "plain")
    assert rows_in(tmp_path)[1]["ratio"] == "inconclusive"
    assert "inconclusive" in (tmp_path / "bench.md").read_text()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["resnet51"], "unknown model 'resnet51'; did you mean 'resnet5"),
        (["model_i.nowhere"], "model_i.nowhere doesn't run on images of 32 x 32 pixels: "),
        (["model_i_atto", "--device", "meta"], "--device meta can't compute in float32 here ("),
        (["model_i_atto", "--rounds", "2"], "--rounds is 2; it has to be 3 or more"),
        (
            ["model_i_atto", "--baseline", "resnet50:plain:float32:x"],
            "--baseline is 'resnet50:plain:float32:x'; in inference it takes MODEL[:FORM[:DTYPE]]",
        ),
        (
            ["model_i_atto", "--mode", "training", "--forms", "optimized"],
            "--forms has none that there is in training",
        ),
    ],
)
def test_bad_input_is_one_line_before_anything_is_measured(tmp_path, asked, capsys, given, told):
    assert cli.main(["bench", *SMALL, "--output", str(tmp_path / "new"), *given]) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert captured.err.count("\n") == 1
    assert (captured.out, asked, (tmp_path / "new").exists()) == ("", [], False)


def test_a_file_of_others_is_left_as_it_is(tmp_path, asked, capsys):
    (tmp_path / "bench.csv").write_text("model,speed\nresnet50,1\n")
    assert bench(tmp_path, "model_i_atto", "--forms", "plain") == 2
    assert "has other columns than this version writes; give another --output" in capsys.readouterr().err
    assert (tmp_path / "bench.csv").read_text() == "model,speed\nresnet50,1\n"


def test_who_ends_the_process_fails_and_the_others_are_measured(monkeypatch):
    monkeypatch.setattr(processes, "_WORKER", "faulty_worker")
    folders = (str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, folders)))
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    given = ["resnet10t", "resnet18", "resnet34", *SMALL, "--forms", "plain", "--threads", "3"]
    (one,) = configuration.configurations(parser.parse_args(given))
    turns: list[str] = []
    found = processes.measured(one, turns.append)
    assert found == {
        "threads": "3",
        "contestants": {
            "resnet10t:plain:float32": {"seconds": [1.0], "peak": 2.0, "idle": 1.0},
            "resnet18:plain:float32": {
                "error": "its process was killed by the system, which most often means that memory ran out"
            },
            "resnet34:plain:float32": {"seconds": [1.0]},  # whose memory can't be measured
        },
    }
    assert list(found["contestants"]) == [str(each) for each in one.contestants]
    assert turns.count("resnet10t:plain:float32") == 3


FAULTS_OF_REUSE = """
import resource
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = b"x" * (64 << 20)
    del block
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@on_glibc
def test_allocators_are_set_in_the_process_whatever_this_one_has(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "5000")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=1000000000")
    faults = {}
    for allocator in configuration.ALLOCATORS:
        variables = processes.environment(allocator, threads=1)
        answer = subprocess.check_output([sys.executable, "-c", FAULTS_OF_REUSE], env=variables, text=True)
        faults[allocator] = int(answer)
    pages = (64 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert faults["default"] >= pages / 2
    assert faults["tuned"] < pages / 50


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
