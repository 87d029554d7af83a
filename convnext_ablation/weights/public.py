"""Weights that timm publishes and that fit networks of ours, as timm's registry lists them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from timm.models import PretrainedCfg

__all__ = ["public_cfgs"]


def public_cfgs(timm_model: str) -> dict[str, PretrainedCfg]:
    """Finds the weights of one of timm's networks that load into the same network of ours.

    Each keeps its own preprocessing, classes, licence and source. Left out is what lies on no hub: those are
    pickles.

    Args:
        timm_model: timm's name of the network, such as ``resnet50``.

    Returns:
        By tag, timm's own default first.
    """
    # not above: when timm is imported, the zoo is, and it needs this module
    from timm.models import get_arch_pretrained_cfgs, get_pretrained_cfg

    default = get_pretrained_cfg(timm_model).tag
    cfgs = [cfg for cfg in get_arch_pretrained_cfgs(timm_model).values() if _fits(cfg)]
    return {cfg.tag: _ours(cfg) for cfg in sorted(cfgs, key=lambda cfg: cfg.tag != default)}


def _fits(cfg: PretrainedCfg) -> bool:
    return bool(cfg.tag and cfg.hf_hub_id) and not cfg.custom_load


def _ours(cfg: PretrainedCfg) -> PretrainedCfg:
    """The same under the names that our networks give to their first and last layer."""
    source = cfg.origin_url or cfg.url or f"https://huggingface.co/{cfg.hf_hub_id}"
    return replace(cfg, first_conv="stem.conv", classifier="head.fc", origin_url=source, url=None)
