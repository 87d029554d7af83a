"""`convnext-ablation bench`: what is asked of it, and what it writes."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from convnext_ablation.bench import contestants
from convnext_ablation.bench.contestants import Configuration, Result
from convnext_ablation.bench.timing import Times
from convnext_ablation.cli import main as cli

SMALL = "--img-size 32 --batch-size 2 --rounds 3 --threads 1 --device cpu".split()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Configuration]:
    """What would be measured; a form is the slower the shorter its name, and the compiled one fails."""
    configurations: list[Configuration] = []

    def measure(one: Configuration, turn) -> tuple[dict, dict]:
        configurations.append(one)
        turn(str(one.baseline))
        results = {
            str(each): Result(error="RuntimeError: no compiler")
            if each.form == "compiled"
            else Result(1.0, times=Times((1 / len(each.form),) * one.rounds))
            for each in one.contestants
        }
        return results, {"float32": 100.0}

    monkeypatch.setattr(contestants, "measure", measure)
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
        assert "inference, batch 2 at 32, cpu, 1 threads" in text
        assert "2.60 [2.60, 2.60]" in text
        assert "model_i_atto compiled float32: RuntimeError: no compiler" in text
    assert page.startswith("# Speed\n\n## inference")
    assert "\n\n\n" not in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bench.csv", "bench.md"]


def test_the_same_command_resumes_after_an_interruption(tmp_path, asked, capsys, monkeypatch):
    given = ("model_i_atto", "--dtype", "float32", "bfloat16", "--forms", "plain")
    measure = contestants.measure

    def interrupted(one: Configuration, turn) -> tuple[dict, dict]:
        if one.baseline.dtype == "bfloat16":
            raise KeyboardInterrupt
        return measure(one, turn)

    monkeypatch.setattr(contestants, "measure", interrupted)
    assert bench(tmp_path, *given) == 130
    kept = (tmp_path / "bench.csv").read_text()
    assert [row["dtype"] for row in rows_in(tmp_path)] == ["float32"]
    monkeypatch.setattr(contestants, "measure", measure)
    assert bench(tmp_path, *given) == 0
    assert [one.baseline.dtype for one in asked] == ["float32", "bfloat16"]
    assert (tmp_path / "bench.csv").read_text().startswith(kept)
    assert "1 of 2 are in" in capsys.readouterr().out
    assert bench(tmp_path, *given) == 0  # all there: shown again, not measured
    assert len(asked) == 2
    assert capsys.readouterr().out.count("inference, batch 2 at 32") == 2
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "5000")
    assert bench(tmp_path, *given) == 0  # other settings are measured beside these
    assert len({row["configuration"] for row in rows_in(tmp_path)}) == 4


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


def test_measures_what_the_command_asks_for(tmp_path, capfd):
    """The whole of it, once."""
    assert bench(tmp_path, "model_v_atto", "--forms", "plain") == 0
    (row,) = rows_in(tmp_path)
    assert (row["threads"], row["error"]) == ("1", "")
    for column in ("infer_samples_per_sec", "share_of_peak", "preparation_sec"):
        assert float(row[column]) > 0
    noise = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("measuring: ")]
    assert noise == []
