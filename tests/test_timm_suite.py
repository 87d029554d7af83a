"""timm's own tests of its models, run on ours; under the oldest supported timm that version's tests."""

import os
from importlib.metadata import requires

import pytest
import timm
from timm_suite import SuiteError, run_timm_tests, timm_tests

from convnext_ablation.models import zoo  # noqa: F401
from convnext_ablation.models.components import FAMILIES, STAGES

OLDEST_TIMM = next(line for line in requires("convnext_ablation") if line.startswith("timm")).partition(">=")[
    2
]
# 1.0.20 has no test of pruning yet
TESTS_PER_MODEL = 10 if timm.__version__ == OLDEST_TIMM else 11
FULL = [f"resnet_to_convnext_stage{number}" for number in range(1, 6)]
GROUPS = {
    "full stages": FULL,
    "atto stages": [f"{name}_atto" for name in (*STAGES, *FULL, "resnet_to_convnext")],
    **{
        family: [f"{name}_atto" for name in variants]
        for family, variants in FAMILIES.items()
        if family != "stages"
    },
}


def test_groups_hold_every_atto_network():
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(name for name in grouped if name.endswith("_atto")) == sorted(
        name for name in timm.list_models(module="zoo") if name.endswith("_atto")
    )


@pytest.mark.parametrize("group", ["atto stages"] if timm.__version__ == OLDEST_TIMM else GROUPS)
def test_timm_tests_pass(group):
    # pytest-xdist already runs one group a process
    processes = 0 if "PYTEST_XDIST_WORKER" in os.environ else 2
    try:
        outcome = run_timm_tests(GROUPS[group], processes)
    except SuiteError as error:
        pytest.fail(str(error), pytrace=False)
    assert set(outcome.tests) == set(GROUPS[group])
    assert min(outcome.tests.values()) >= TESTS_PER_MODEL, outcome.tests
    assert outcome.skipped == []
    assert outcome.failed == [], outcome.output[-4000:]


def test_missing_timm_tests_are_one_clear_line(tmp_path):
    with pytest.raises(SuiteError) as raised:
        timm_tests("0.0.0", cache=tmp_path)
    assert str(raised.value).startswith("can't download the source of timm 0.0.0")
    assert "\n" not in str(raised.value)
