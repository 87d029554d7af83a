"""Entry points for `torch.hub`, from a checkout of this repository.

torch.hub.load("path/to/checkout", "model_iv", source="local", num_classes=200)
torch.hub.load("path/to/checkout", "model_v", source="local", pretrained=True, tag="fb_in1k")
"""

from collections.abc import Callable as _Callable
from typing import Any as _Any

import timm as _timm

from convnext_ablation.models import zoo as _zoo

dependencies = ["huggingface_hub", "safetensors", "timm", "torch", "torchvision"]


def _entry_point(name: str) -> _Callable[..., _Any]:
    def create(pretrained: bool = False, tag: str = "", **kwargs: _Any) -> _Any:
        return _timm.create_model(f"{name}.{tag}" if tag else name, pretrained=pretrained, **kwargs)

    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"""Creates {name} by `timm.create_model`: {_zoo.components_of(name)}.

    `tag` says which weights, such as ``fb_in1k``; docs/weights.md says where they come from.
    """
    return create


globals().update({_name: _entry_point(_name) for _name in _zoo.model_names()})
