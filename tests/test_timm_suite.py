"""timm's own tests of its models, run on ours; under the oldest supported timm that version's tests."""

import os
import re

import pytest
import timm
from timm_suite import run_timm_tests

from convnext_ablation.models import zoo
from convnext_ablation.models.components import STAGES

ATTO = [name for name in zoo.model_names() if name.endswith("_atto")]
# a network with several names is tested under one of them
DISTINCT = list({zoo.components_of(name): name for name in ATTO}.values())
OLDEST = timm.__version__ == "1.0.20"
KINDS = ["model_i_atto", "model_iv_atto", "model_v_atto"]  # all layers that the others are made of
GROUPS = {"kinds": KINDS} if OLDEST else {"atto": DISTINCT}
# a second block of the first stage keeps the shape; each takes time, and more do the same
FEW_BLOCKS = (2, 1, 1, 1)
if "CONVNEXT_ABLATION_SLOW_TESTS" in os.environ:
    GROUPS["full"] = list(STAGES)


@pytest.mark.parametrize("group", GROUPS)
def test_timm_tests_pass(group):
    output = run_timm_tests(GROUPS[group], () if group == "full" else FEW_BLOCKS)
    # none failed or was skipped
    assert re.search(r"\n\d+ passed, \d+ deselected(, \d+ warnings?)? in [^\n]*\n$", output), output[-4000:]
