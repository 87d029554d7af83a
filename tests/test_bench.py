"""`convnext-ablation bench`: what is asked of it, what it measures, and what it writes."""

import argparse
import csv
from pathlib import Path

import pytest
import timm_repo
import torch
from filelock import FileLock

from convnext_ablation.bench import contestants, roofline
from convnext_ablation.bench.arguments import OPTIONS, BenchArguments
from convnext_ablation.bench.contestants import Configuration, Result, configurations
from convnext_ablation.bench.roofline import Cost, checked_cost
from convnext_ablation.bench.rows import COLUMNS, TIMMS_COLUMNS, machine_of, rows_of
from convnext_ablation.cli import main as cli
from convnext_ablation.cli import parsers
from convnext_ablation.dataclass_options import given_options
from convnext_ablation.timing import Times

SMALL = "--img-size 32 --batch-size 2 --rounds 3 --threads 1 --device cpu".split()


def asked_for(*given: str) -> list[Configuration]:
    parser = argparse.ArgumentParser()
    parsers.add_bench(parser)
    args = parser.parse_args(given)
    return configurations(BenchArguments(models=tuple(args.models), **given_options(args, OPTIONS)))


def configuration(*given: str) -> Configuration:
    """The only one of these arguments, small."""
    (one,) = asked_for(*given, *SMALL)
    return one


@pytest.fixture
def small_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernels(device: str, dtypes: list[str]) -> dict:
        return {f"{each} 1000 kernel": lambda: None for each in dtypes}

    monkeypatch.setattr(contestants, "_AT_LEAST", 0.0)
    monkeypatch.setattr(contestants, "kernels", kernels)


@pytest.mark.usefixtures("small_kernels")
def test_contestants_are_measured_with_the_machine_and_against_float32():
    given = "model_v_atto test_convnext --forms plain channels-last --dtype bfloat16"
    one = configuration(*given.split(), "--baseline", "model_v_atto:plain:float32")
    results, peaks = contestants.measure(one, lambda name: None)
    assert list(results) == [str(each) for each in one.contestants]
    assert all(len(each.times.seconds) == 3 for each in results.values())
    assert peaks.keys() == {"float32", "bfloat16"}
    baseline, *others = [each.difference for each in results.values()]
    assert baseline == 0.0
    assert all(1e-4 < difference < 0.2 for difference in others)


@pytest.mark.usefixtures("small_kernels")
def test_who_raises_is_left_out_and_the_others_are_measured(monkeypatch: pytest.MonkeyPatch):
    def fails(*args: object, **kwargs: object) -> None:
        raise MemoryError("16 GiB\nand more")

    monkeypatch.setattr(torch, "compile", fails)
    turns: list[str] = []
    one = configuration("model_v_atto", "--forms", "compiled", "plain")
    failed, plain = contestants.measure(one, turns.append)[0].values()
    assert (failed.times, failed.error) == (None, "MemoryError: 16 GiB")
    assert (len(plain.times.seconds), plain.error) == (3, "")
    assert turns == [str(each) for each in one.contestants] + 4 * ["model_v_atto:plain:float32"]


@pytest.mark.usefixtures("small_kernels")
def test_outputs_that_are_not_finite_are_an_error(monkeypatch: pytest.MonkeyPatch):
    build = contestants._network

    def broken(name: str, one: Configuration) -> torch.nn.Module:
        torch.nn.init.constant_((model := build(name, one)).head.fc.bias, torch.nan)
        return model

    monkeypatch.setattr(contestants, "_network", broken)
    (result,) = contestants.measure(configuration("model_v_atto", "--forms", "plain"), lambda name: None)[
        0
    ].values()
    assert (result.times, result.error) == (None, "FloatingPointError: its outputs are not finite")


@pytest.mark.usefixtures("small_kernels")
def test_training_steps_change_weights_under_autocast(monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[torch.nn.Module, torch.dtype]] = []
    build = contestants._network

    def watched(name: str, one: Configuration) -> torch.nn.Module:
        model = build(name, one)
        model.register_forward_hook(lambda module, _, output: seen.append((module, output.dtype)))
        return model

    monkeypatch.setattr(contestants, "_network", watched)
    one = configuration(*"model_v_atto --mode training --dtype bfloat16 --forms channels-last".split())
    (result,) = contestants.measure(one, lambda name: None)[0].values()
    assert len(result.times.seconds) == 3
    assert result.difference is None
    model, dtype = seen[0]
    assert (dtype, model.training, len(seen)) == (torch.bfloat16, True, 1 + 2 + 3)
    assert not torch.equal(model.head.fc.weight, build("model_v_atto", one).head.fc.weight)
    assert model.head.fc.weight.dtype == torch.float32


def test_costs_are_those_that_timm_publishes():
    cost = checked_cost("swin_tiny_patch4_window7_224", 224)
    assert cost.gmacs == pytest.approx(4.51, rel=0.01)  # timm's count the additions of biases too
    assert cost.parameters / 1e6 == pytest.approx(28.29, abs=0.006)


def test_the_machines_best_is_the_fastest_kernel_of_a_type():
    kernels = roofline.kernels("cpu", ["float32", "bfloat16"])
    assert len(kernels) == 2 * 4
    times = {name: Times((1.0, 1.0, 1.0)) for name in kernels}
    fastest = next(name for name in kernels if name.startswith("float32 ") and "matrices of 2048" in name)
    times[fastest] = Times((0.5, 0.25, 0.1))
    assert roofline.peaks_of(times) == {"float32": 2 * 2048**3 / 0.25 / 1e9, "bfloat16": 2 * 2048**3 / 1e9}
    for name in (n for n in kernels if n.startswith("float32") and "1024" in n):
        kernels[name]()  # they run


def rows_for(one: Configuration, *seconds: tuple[float, ...], peaks: dict[str, float]) -> list:
    results = {
        str(contestant): Result(1.25, 0.00001234, Times(taken))
        for contestant, taken in zip(one.contestants, seconds, strict=True)
    }
    costs = {(each.model, 32): Cost(2_000_000, 4.0) for each in one.contestants}
    return rows_of(one, results, peaks, costs, machine_of("cpu"))


def test_rows_say_what_was_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "5000")
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.delenv("MKL_ENABLE_INSTRUCTIONS", raising=False)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    one = configuration("resnet50", "model_i_atto", "--forms", "plain")
    baseline, twice = rows_for(one, (1.0, 2.0, 3.0), (0.5, 1.0, 1.25), peaks={"float32": 200.0})
    assert tuple(twice) == COLUMNS
    expected = {
        "model": "model_i_atto",
        "param_count": "2.0",
        "infer_gmacs": "4.0",
        "infer_samples_per_sec": "2.0",
        "infer_step_time": "1000.0",
        "train_step_time": "",
        "allocator": "MALLOC_TRIM_THRESHOLD_=5000",
        "isa": f"{torch.backends.cpu.get_cpu_capability()} ONEDNN_MAX_CPU_ISA=AVX2",
        "baseline": "resnet50:plain:float32",
        "ratio": "2.0",
        "ratio_lowest": "2.0",
        "ratio_highest": "2.4",
        "share_of_peak": "0.08",  # 16 operations a second
        "difference": "1.2e-05",
        "configuration": one.identity(machine_of("cpu")),
    }
    assert {name: twice[name] for name in expected} == expected
    assert baseline["ratio"] == ""
    one = configuration("model_i_atto", "--mode", "training", "--forms", "plain")
    (row,) = rows_for(one, (0.5,) * 3, peaks={})
    assert (row["train_samples_per_sec"], row["train_step_time"]) == ("4.0", "500.0")
    assert {row["infer_step_time"], row["share_of_peak"]} == {""}


@timm_repo.needs_timm_repo
def test_columns_are_those_of_timms_results():
    tables = (timm_repo.FOLDER / "results").glob("benchmark-*.csv")
    columns = {column for path in tables for column in next(csv.reader(path.open(encoding="utf-8")))}
    assert columns == {*TIMMS_COLUMNS, "infer_macts"}


def test_all_combinations_are_measured_once_with_the_forms_of_their_mode():
    given = "resnet50 resnet50 --mode inference training --batch-size 1 16 1 --img-size 64 96 --device cpu"
    found = asked_for(*given.split(), "--dtype", "float32", "bfloat16")
    machine = {"processor": "one"}
    assert len(found) == len({one.identity(machine) for one in found}) == 2**4
    assert found[0].identity(machine) != found[0].identity({"processor": "other"})
    for one in found:
        forms = ["plain", "channels-last", *(["optimized"] if one.mode == "inference" else []), "compiled"]
        assert [contestant.form for contestant in one.contestants] == forms
        assert str(one.baseline) == f"resnet50:plain:{one.contestants[-1].dtype}"


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
        assert "inference, batch 2 at 32, cpu, 1 thread" in text
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
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert bench(tmp_path, *given) == 0  # other instructions too
    assert len({row["configuration"] for row in rows_in(tmp_path)}) == 6


def test_a_second_command_does_not_write_to_the_same_folder(tmp_path, asked, capsys):
    with FileLock(tmp_path / ".lock"):
        assert bench(tmp_path, "model_i_atto", "--forms", "plain") == 2
    assert "another command writes there; give another --output" in capsys.readouterr().err
    assert asked == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("resnet51", "unknown model 'resnet51'; did you mean 'resnet5"),
        ("model_i.nowhere", "model_i.nowhere doesn't run on images of 32 x 32 pixels: "),
        ("model_i_atto --device meta", "device meta can't be used here; give --device cpu"),
        ("model_i_atto --rounds 2", "rounds is 2; it must be at least 3"),
        ("model_i_atto --threads 99999999999", "threads is 99999999999; it must be at most 1024"),
        ("model_i --baseline a:b:c:d", "is 'a:b:c:d'; in inference it takes MODEL[:FORM[:DTYPE]]"),
        ("model_i_atto --mode training --forms optimized", "--forms has none that there is in training"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_measured(tmp_path, asked, capsys, given, told):
    assert cli.main(["bench", *SMALL, "--output", str(tmp_path / "new"), *given.split()]) == 2
    captured = capsys.readouterr()
    assert told in captured.err
    assert captured.err.count("\n") == 1
    assert (captured.out, asked, (tmp_path / "new").exists()) == ("", [], False)


@pytest.mark.parametrize("content", [b"model,speed\nresnet50,1\n", b"\xff\xfe\0"])
def test_a_file_of_others_is_left_as_it_is(tmp_path, asked, capsys, content):
    (tmp_path / "bench.csv").write_bytes(content)
    assert bench(tmp_path, "model_i_atto", "--forms", "plain") == 2
    assert "has other columns than this version writes; give another --output" in capsys.readouterr().err
    assert (tmp_path / "bench.csv").read_bytes() == content
    (tmp_path / "dir" / "bench.csv").mkdir(parents=True)
    assert bench(tmp_path / "dir", "model_i_atto", "--forms", "plain") == 2
    assert capsys.readouterr().err.endswith("bench.csv: Is a directory\n")


def test_measures_what_the_command_asks_for(tmp_path, capfd):
    """The whole of it, once."""
    assert bench(tmp_path, "model_v_atto", "--forms", "plain") == 0
    (row,) = rows_in(tmp_path)
    assert (row["threads"], row["error"]) == ("1", "")
    for column in ("infer_samples_per_sec", "share_of_peak", "preparation_sec"):
        assert float(row[column]) > 0
    noise = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("measuring: ")]
    assert noise == []
