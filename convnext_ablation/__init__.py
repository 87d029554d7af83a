"""From ResNet-50 to ConvNeXt-T one component at a time: timm models, and studies of what each is worth.

Importing the package registers its networks with timm: `timm.create_model("model_iv")`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from convnext_ablation.errors import UserError
from convnext_ablation.models.components import Components
from convnext_ablation.registration import register_with_timm
from convnext_ablation.version import __version__

if TYPE_CHECKING:
    from convnext_ablation.inference import optimize_for_inference
    from convnext_ablation.models import zoo
    from convnext_ablation.models.network import ResNetToConvNeXt

__all__ = [
    "Components",
    "ResNetToConvNeXt",
    "UserError",
    "__version__",
    "optimize_for_inference",
    "zoo",
]

_LATER = {
    "ResNetToConvNeXt": "convnext_ablation.models.network",
    "optimize_for_inference": "convnext_ablation.inference",
}


def __getattr__(name: str) -> Any:
    """Imports what needs torch and timm when it is first asked for."""
    if name in _LATER:
        return getattr(importlib.import_module(_LATER[name]), name)
    if name == "zoo":
        return importlib.import_module("convnext_ablation.models.zoo")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


register_with_timm()
