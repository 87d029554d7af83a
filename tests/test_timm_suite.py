"""timm's own tests of its models, run on ours; under the oldest supported timm that version's tests."""

import os

import pytest
import timm
from timm_suite import run_timm_tests

from convnext_ablation.models import zoo
from convnext_ablation.models.components import FAMILIES

# 1.0.20, the oldest, has no test of pruning yet
TESTS_PER_MODEL = 10 if timm.__version__ == "1.0.20" else 11
IN_FAMILIES = {
    family: [f"{name}_atto" for name in variants]
    for family, variants in FAMILIES.items()
    if family != "stages"
}
GROUPS = {} if timm.__version__ == "1.0.20" else dict(IN_FAMILIES)
ELSEWHERE = {name for names in IN_FAMILIES.values() for name in names}
GROUPS["atto stages"] = [
    name for name in zoo.model_names() if name.endswith("_atto") and name not in ELSEWHERE
]
if "CONVNEXT_ABLATION_SLOW_TESTS" in os.environ:
    GROUPS["full stages"] = [f"model_{number}" for number in ("i", "ii", "iii", "iv", "v")]


@pytest.mark.parametrize("group", GROUPS)
def test_timm_tests_pass(group):
    # pytest-xdist already runs one group a process
    outcome = run_timm_tests(GROUPS[group], processes=0 if "PYTEST_XDIST_WORKER" in os.environ else 2)
    assert set(outcome.tests) == set(GROUPS[group])
    assert min(outcome.tests.values()) >= TESTS_PER_MODEL, outcome.tests
    assert outcome.not_passed == [], outcome.output[-4000:]
