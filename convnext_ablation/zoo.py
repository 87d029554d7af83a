"""Registers the networks with timm: importing this module makes `timm.create_model` know them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from convnext_ablation.components import FAMILIES, RESNET_50, STAGES, SWITCHES, Components

if TYPE_CHECKING:
    from convnext_ablation.network import ResNetToConvNeXt

__all__: list[str] = []  # `register_model` adds every entry point

ATTO_WIDTH_FACTOR = 0.25


def _named_points() -> dict[str, Components]:
    """Every registered network at full width, by name."""
    points = {"resnet_to_convnext": RESNET_50}  # free: its switches are model kwargs
    for number, stage in enumerate(STAGES.values(), start=1):
        points[f"resnet_to_convnext_stage{number}"] = stage.components
    for variants in FAMILIES.values():
        points.update({name: variant.components for name, variant in variants.items()})
    return points


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


def _create(
    variant: str, components: Components, pretrained: bool = False, **kwargs: Any
) -> ResNetToConvNeXt:
    # Not above: both import timm, and when that is imported, this module is (see `registration`).
    from convnext_ablation.checkpoints import checkpoint_filter_fn
    from convnext_ablation.network import ResNetToConvNeXt

    switches = {name: kwargs.pop(name) for name in SWITCHES if name in kwargs}
    return build_model_with_cfg(
        ResNetToConvNeXt,
        variant,
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2, 3), "flatten_sequential": True},
        pretrained_filter_fn=checkpoint_filter_fn,
        components=components.with_(**switches),
        **kwargs,
    )


def _entry_point(name: str, components: Components, width_factor: float) -> Callable[..., ResNetToConvNeXt]:
    def create(pretrained: bool = False, **kwargs: Any) -> ResNetToConvNeXt:
        return _create(name, components, pretrained, **{"width_factor": width_factor, **kwargs})

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"Creates {name}: {components}, width factor {width_factor:g}."
    return create


_POINTS = {
    f"{name}{suffix}": (components, width_factor)
    for suffix, width_factor in (("", 1.0), ("_atto", ATTO_WIDTH_FACTOR))
    for name, components in _named_points().items()
}
default_cfgs = generate_default_cfgs({name: _cfg() for name in _POINTS})  # `register_model` looks it up here
for _name, (_components, _width_factor) in _POINTS.items():
    globals()[_name] = register_model(_entry_point(_name, _components, _width_factor))


def components_of(name: str) -> Components:
    """Returns the components of a registered network.

    Args:
        name: Its name, without a tag.

    Raises:
        KeyError: It isn't one of ours.
    """
    return _POINTS[name][0]


def model_names() -> list[str]:
    """Returns the names of all registered networks, without tags."""
    return list(_POINTS)
