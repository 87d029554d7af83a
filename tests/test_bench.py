"""`convnext-ablation bench`: what it measures, in this process."""

from __future__ import annotations

import argparse
import csv

import pytest
import timm_repo
import torch

from convnext_ablation.bench import contestants, processes, roofline
from convnext_ablation.bench.configuration import Configuration, configurations
from convnext_ablation.bench.roofline import Cost, cost_of
from convnext_ablation.bench.rows import COLUMNS, TIMMS_COLUMNS, machine_of, rows_of
from convnext_ablation.bench.timing import Times
from convnext_ablation.cli import bench as command


def arguments(*given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(given)


def configuration(*given: str) -> Configuration:
    """The only one of these arguments, small."""
    small = "--img-size 32 --batch-size 2 --rounds 3 --threads 1 --device cpu".split()
    (one,) = configurations(arguments(*given, *small))
    return one


@pytest.fixture
def small_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernels(device: str, dtypes: list[str]) -> dict:
        return {name: lambda: None for name in [roofline.COPY, *(f"{each} 1000 kernel" for each in dtypes)]}

    monkeypatch.setattr(processes, "_AT_LEAST", 0.0)
    monkeypatch.setattr(roofline, "kernels", kernels)


def measured(given: str) -> tuple[Configuration, dict]:
    one = configuration(*given.split())
    return one, processes.measure(one, lambda name: None)


@pytest.mark.usefixtures("small_kernels")
def test_contestants_are_measured_with_the_machine_and_against_float32():
    one, found = measured(
        "model_v_atto test_convnext --forms plain channels-last --dtype bfloat16 "
        "--baseline model_v_atto:plain:float32"
    )
    assert list(found["contestants"]) == [str(each) for each in one.contestants]
    assert all(len(each["seconds"]) == 3 for each in found["contestants"].values())
    assert found["peaks"].keys() == {"float32", "bfloat16"}
    baseline, *others = [each["difference"] for each in found["contestants"].values()]
    assert baseline == 0.0
    assert all(1e-4 < difference < 0.2 for difference in others)


@pytest.mark.usefixtures("small_kernels")
def test_training_steps_change_weights_under_autocast(monkeypatch: pytest.MonkeyPatch):
    seen: list[tuple[torch.nn.Module, torch.dtype]] = []
    build = contestants._network

    def watched(name: str, one: Configuration) -> torch.nn.Module:
        model = build(name, one)
        model.register_forward_hook(lambda module, _, output: seen.append((module, output.dtype)))
        return model

    monkeypatch.setattr(contestants, "_network", watched)
    one, found = measured("model_v_atto --mode training --dtype bfloat16 --forms channels-last")
    (result,) = found["contestants"].values()
    assert len(result["seconds"]) == 3
    assert "difference" not in result
    model, dtype = seen[0]
    assert (dtype, model.training, len(seen)) == (torch.bfloat16, True, 1 + 2 + 3)
    assert not torch.equal(model.head.fc.weight, build("model_v_atto", one).head.fc.weight)
    assert model.head.fc.weight.dtype == torch.float32


def test_costs_are_those_that_timm_publishes():
    cost = cost_of("swin_tiny_patch4_window7_224", 224)
    assert cost.gmacs == pytest.approx(4.51, rel=0.01)  # timm's count the additions of biases too
    assert cost.macts == pytest.approx(17.06, abs=0.006)
    assert cost.parameters / 1e6 == pytest.approx(28.29, abs=0.006)


def test_traffic_is_what_goes_into_and_out_of_products_without_weights(monkeypatch: pytest.MonkeyPatch):
    class Small(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 4, 2, stride=2)
            self.fc = torch.nn.Linear(4, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.conv(x).relu().mean((2, 3)))

    monkeypatch.setattr(roofline.timm, "create_model", lambda name: Small())
    cost = cost_of("small", 8)
    put_out = 4 * 4 * 4 + 10
    assert cost.macts == put_out / 1e6
    assert cost.moved == put_out + 3 * 8 * 8 + 4
    assert cost.gigabytes("inference", 2, "bfloat16") == 2 * (cost.parameters + 2 * cost.moved) / 1e9
    assert cost.gigabytes("training", 2, "float32") == 6 * cost.gigabytes("inference", 2, "bfloat16")
    assert cost.gflop("training", 2) == 3 * cost.gflop("inference", 2) == 12 * cost.gmacs


def test_the_machines_best_is_the_fastest_kernel_of_a_type():
    kernels = roofline.kernels("cpu", ["float32", "bfloat16"])
    assert len(kernels) == 1 + 2 * 4
    times = {name: Times((1.0, 1.0, 1.0)) for name in kernels}
    fastest = next(name for name in kernels if name.startswith("float32 ") and "matrices of 2048" in name)
    times[fastest] = Times((0.5, 0.25, 0.1))
    peaks, bandwidth = roofline.best_of(times)
    assert peaks == {"float32": 2 * 2048**3 / 0.25 / 1e9, "bfloat16": 2 * 2048**3 / 1e9}
    assert bandwidth == pytest.approx(2 * 2**28 / 1e9)
    for name in (roofline.COPY, *(n for n in kernels if n.startswith("float32") and "1024" in n)):
        kernels[name]()  # they run


def rows_for(one: Configuration, *seconds: tuple[float, ...], peaks: dict[str, float]) -> list:
    common = {"preparation": 1.25, "difference": 0.00001234, "peak": 9e8, "idle": 5e8}
    found = {
        "contestants": {
            str(contestant): {"seconds": taken, **common}
            for contestant, taken in zip(one.contestants, seconds, strict=True)
        },
        "peaks": peaks,
        "bandwidth": 10.0 if peaks else 0.0,
    }
    costs = {(each.model, 32): Cost(2_000_000, 4.0, 3.5, 8e6) for each in one.contestants}
    return rows_of(one, found, costs, machine_of("cpu"))


def test_rows_say_what_was_found():
    one = configuration("resnet50", "model_i_atto", "--forms", "plain", "--allocator", "tuned")
    baseline, twice = rows_for(one, (1.0, 2.0, 3.0), (0.5, 1.0, 1.25), peaks={"float32": 200.0})
    assert tuple(twice) == COLUMNS
    expected = {
        "model": "model_i_atto",
        "param_count": "2.0",
        "infer_gmacs": "4.0",
        "infer_samples_per_sec": "2.0",
        "infer_step_time": "1000.0",
        "train_step_time": "",
        "allocator": "tuned",
        "baseline": "resnet50:plain:float32",
        "ratio": "2.0",
        "ratio_lowest": "2.0",
        "ratio_highest": "2.4",
        "share_of_peak": "0.08",  # 16 operations a second
        "bandwidth_step_time": "7.2",  # of 72 MB
        "difference": "1.2e-05",
        "peak_memory_mb": "900.0",
        "configuration": one.identity(machine_of("cpu")),
        **machine_of("cpu"),
    }
    assert {name: twice[name] for name in expected} == expected
    assert baseline["ratio"] == ""
    one = configuration("model_i_atto", "--mode", "training", "--forms", "plain")
    (row,) = rows_for(one, (0.5,) * 3, peaks={})
    assert (row["train_samples_per_sec"], row["train_step_time"]) == ("4.0", "500.0")
    assert {row["infer_step_time"], row["share_of_peak"], row["bandwidth_step_time"]} == {""}


@timm_repo.needs_timm_repo
def test_columns_are_those_of_timms_results():
    headers = [
        next(csv.reader(path.open(encoding="utf-8")))
        for path in (timm_repo.FOLDER / "results").glob("benchmark-*.csv")
    ]
    assert {column for header in headers for column in header} == set(TIMMS_COLUMNS)


def test_all_combinations_are_measured_once_with_the_forms_of_their_mode():
    given = "resnet50 resnet50 --mode inference training --batch-size 1 16 1 --img-size 64 96 --device cpu"
    found = configurations(arguments(*given.split(), "--dtype", "float32", "bfloat16"))
    machine = {"processor": "one"}
    assert len(found) == len({one.identity(machine) for one in found}) == 2**4
    assert found[0].identity(machine) != found[0].identity({"processor": "other"})
    for one in found:
        forms = ["plain", "channels-last", *(["optimized"] if one.mode == "inference" else []), "compiled"]
        assert [contestant.form for contestant in one.contestants] == forms
        assert str(one.baseline) == f"resnet50:plain:{one.dtype}"
