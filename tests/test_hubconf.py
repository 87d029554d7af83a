import importlib.util
from pathlib import Path

import pytest
import torch

from convnext_ablation import UserError
from convnext_ablation.models import zoo

CHECKOUT = str(Path(__file__).parents[1])


def load(name, **kwargs):
    return torch.hub.load(CHECKOUT, name, source="local", **kwargs)


@pytest.fixture(scope="module")
def entry_points():
    """What `torch.hub.list` and `torch.hub.help` show of a repository, by the rule that they go by."""
    spec = importlib.util.spec_from_file_location("hubconf", f"{CHECKOUT}/hubconf.py")
    hubconf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hubconf)
    return {name: value for name, value in vars(hubconf).items() if callable(value) and name[0] != "_"}


def test_every_network_is_an_entry_point_and_nothing_else_is(entry_points):
    assert sorted(entry_points) == sorted(zoo.model_names())


def test_a_checkout_makes_networks_as_timm_does():
    model = load("model_iv_atto", num_classes=7, device="meta")
    assert model.pretrained_cfg["architecture"] == "model_iv_atto"
    assert model.num_classes == 7


def test_a_tag_names_weights():
    assert load("model_v", tag="fb_in22k", device="meta").num_classes == 21841


def test_weights_that_nobody_published_are_refused():
    with pytest.raises(UserError, match="nobody has published weights of it"):
        load("model_iii_atto", pretrained=True, device="meta")


def test_help_says_what_an_entry_point_is(entry_points):
    assert "kernel_size=7" in entry_points["model_iv"].__doc__
