"""Seeds that a benchmark trains together in one process."""

import importlib
from pathlib import Path

import pytest


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    module = importlib.import_module("seeds_at_once")
    monkeypatch.setattr(module, "BATCHES", {32: 4})
    return module


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # vmap has no rule for one operation
@pytest.mark.parametrize("way", ["vmap", "grouped"])
@pytest.mark.parametrize("network", ["model_i_atto", "model_v_atto"])
def test_seeds_trained_together_end_as_each_does_alone(benchmark, network, way):
    weights, losses = benchmark.differences(way, network, 32, "cpu", steps=2)
    assert weights < benchmark.LARGEST_DIFFERENCE
    assert losses < 1e-3
