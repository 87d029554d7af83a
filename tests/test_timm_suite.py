"""timm's own tests of its models, run on ours; under the oldest supported timm that version's tests."""

import os

import pytest
import timm
from timm_suite import run_timm_tests

from convnext_ablation.models import zoo
from convnext_ablation.models.components import STAGES

ATTO = [name for name in zoo.model_names() if name.endswith("_atto")]
# a network with several names is tested under one of them
DISTINCT = list({zoo.components_of(name): name for name in ATTO}.values())
if timm.__version__ == "1.0.20":  # the oldest; it has no test of pruning yet
    TESTS_PER_MODEL, GROUPS = 10, {"stages": [f"{name}_atto" for name in STAGES]}
else:
    TESTS_PER_MODEL, GROUPS = 11, {"atto": DISTINCT}
if "CONVNEXT_ABLATION_SLOW_TESTS" in os.environ:
    GROUPS["full"] = list(STAGES)


@pytest.mark.parametrize("group", GROUPS)
def test_timm_tests_pass(group):
    outcome = run_timm_tests(GROUPS[group])
    assert set(outcome.tests) == set(GROUPS[group])
    assert min(outcome.tests.values()) >= TESTS_PER_MODEL, outcome.tests
    assert outcome.not_passed == [], outcome.output[-4000:]
