import runpy
from pathlib import Path

import pytest
import torch

from convnext_ablation import UserError
from convnext_ablation.models import zoo

CHECKOUT = str(Path(__file__).parents[1])


def load(name, **kwargs):
    return torch.hub.load(CHECKOUT, name, source="local", **kwargs)


def test_every_network_is_an_entry_point_and_nothing_else_is():
    # the rule that `torch.hub.list` goes by, which takes no local folder
    hubconf = runpy.run_path(f"{CHECKOUT}/hubconf.py")
    entries = {name: entry for name, entry in hubconf.items() if callable(entry) and name[0] != "_"}
    assert sorted(entries) == sorted(zoo.model_names())
    assert "kernel_size=7" in entries["model_iv"].__doc__


def test_a_checkout_makes_networks_as_timm_does():
    model = load("model_iv_atto", num_classes=7, device="meta")
    assert model.pretrained_cfg["architecture"] == "model_iv_atto"
    assert model.num_classes == 7
    assert load("model_v", tag="fb_in22k", device="meta").num_classes == 21841
    with pytest.raises(UserError, match="there are no public weights of it"):
        load("model_iii_atto", pretrained=True, device="meta")
