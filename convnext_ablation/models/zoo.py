"""Registers the networks with timm: importing this module makes `timm.create_model` know them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import (
    PretrainedCfg,
    build_model_with_cfg,
    generate_default_cfgs,
    get_arch_pretrained_cfgs,
    get_pretrained_cfg,
    is_model_pretrained,
    register_model,
)
from torch import nn

from convnext_ablation.models.components import FREE, NETWORKS, SWITCHES, TIMM_NAMES, Components
from convnext_ablation.models.convert import checkpoint_filter_fn
from convnext_ablation.models.network import ResNetToConvNeXt
from convnext_ablation.weights.pretrained import resolve
from convnext_ablation.weights.release import place_from_environment

__all__: list[str] = []  # `register_model` adds every entry point


def _cfg(**kwargs: Any) -> dict[str, Any]:
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.conv",
        "classifier": "head.fc",
        "license": "apache-2.0",
        **kwargs,
    }


def _public_cfgs(timm_model: str) -> list[PretrainedCfg]:
    """The public weights of one of timm's networks, its default first; excludes pickles on no hub."""
    default = get_pretrained_cfg(timm_model).tag
    cfgs = get_arch_pretrained_cfgs(timm_model).values()
    ours = [_renamed(cfg) for cfg in cfgs if cfg.tag and cfg.hf_hub_id and not cfg.custom_load]
    return sorted(ours, key=lambda cfg: cfg.tag != default)


def _renamed(cfg: PretrainedCfg) -> PretrainedCfg:
    source = cfg.origin_url or cfg.url or f"https://huggingface.co/{cfg.hf_hub_id}"
    return replace(cfg, first_conv="stem.conv", classifier="head.fc", origin_url=source, url=None)


def _cfgs() -> dict[str, dict[str, Any] | PretrainedCfg]:
    """Configurations by name, and by name and tag where timm has weights of the same network."""
    public = {(components, 1.0): _public_cfgs(name) for components, name in TIMM_NAMES.items()}
    cfgs: dict[str, dict[str, Any] | PretrainedCfg] = {}
    for name, point in NETWORKS.items():
        tagged = [] if name == FREE else public.get(point, [])
        cfgs.update({f"{name}.{cfg.tag}": cfg for cfg in tagged} or {name: _cfg()})
    return cfgs


default_cfgs = generate_default_cfgs(_cfgs())  # `register_model` looks it up here


def _create(
    variant: str,
    components: Components,
    pretrained: bool = False,
    pretrained_cfg: str | dict[str, Any] | PretrainedCfg | None = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    cache_dir: str | Path | None = None,
    **kwargs: Any,
) -> ResNetToConvNeXt:
    cfg, model_args = resolve(
        variant, pretrained, pretrained_cfg or None, pretrained_cfg_overlay or {}, cache_dir, untrained=_cfg()
    )
    kwargs = {**model_args, **kwargs}
    switches = {name: kwargs.pop(name) for name in SWITCHES if name in kwargs}
    return build_model_with_cfg(
        ResNetToConvNeXt,
        variant,
        pretrained,
        pretrained_cfg=cfg,
        cache_dir=cache_dir,
        feature_cfg={"out_indices": (0, 1, 2, 3), "flatten_sequential": True},
        pretrained_filter_fn=_filter_fn,
        components=components.with_(**switches),
        **kwargs,
    )


def _filter_fn(state_dict: Mapping[str, Any], model: nn.Module) -> dict[str, Any]:
    leftover = ("projectors.", "norms.")  # left in some of timm's weights by distillation (EUPE)
    kept = {key: value for key, value in state_dict.items() if not key.startswith(leftover)}
    return checkpoint_filter_fn(kept, model)


def _entry_point(name: str, components: Components, width_factor: float) -> Callable[..., ResNetToConvNeXt]:
    def create(pretrained: bool = False, **kwargs: Any) -> ResNetToConvNeXt:
        return _create(name, components, pretrained, **{"width_factor": width_factor, **kwargs})

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"Creates {name}: {components}, width factor {width_factor:g}."
    return create


for _name, _point in NETWORKS.items():
    globals()[_name] = register_model(_entry_point(_name, *_point))


def components_of(name: str) -> Components:
    """Returns the components of a registered network."""
    return NETWORKS[name][0]


def model_names() -> list[str]:
    """Returns the names of all registered networks, without tags."""
    return list(NETWORKS)


def has_weights(name: str) -> bool:
    """Whether `pretrained=True` finds weights for a name, with or without a tag; downloads nothing.

    Raises:
        UserError: The configured hub for one's own weights can't be reached.
    """
    model, _, tag = name.partition(".")
    place = place_from_environment() if model in NETWORKS else None
    if place is None or (tag and is_model_pretrained(name)):
        return bool(is_model_pretrained(name))
    return any(held == name or not tag for held in place.names(model))
