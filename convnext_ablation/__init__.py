"""From ResNet-50 to ConvNeXt-T one component at a time: timm models, and studies of each component's effect.

Importing the package registers its networks with timm: `timm.create_model("model_iv")`.
"""

import gc
import importlib
import sys
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convnext_ablation.errors import UserError
from convnext_ablation.models.components import Components
from convnext_ablation.version import __version__

if TYPE_CHECKING:
    from convnext_ablation.inference import optimize_for_inference
    from convnext_ablation.models import zoo
    from convnext_ablation.models.network import ResNetToConvNeXt

__all__ = ["Components", "ResNetToConvNeXt", "UserError", "__version__", "optimize_for_inference", "zoo"]

_LATER = {"ResNetToConvNeXt": "models.network", "optimize_for_inference": "inference", "zoo": "models"}


def __getattr__(name: str) -> Any:
    """Imports the attributes that need torch on first access."""
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "zoo":
        register_networks()
    return getattr(importlib.import_module(f"convnext_ablation.{_LATER[name]}"), name)


def register_networks() -> None:
    """Imports torch and timm, and registers the networks with timm.

    Garbage collection is paused meanwhile, and then skips what was imported until it looks at all objects; it
    would take a third of the import time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        importlib.import_module("convnext_ablation.models.zoo")
    finally:
        if collects:
            gc.freeze()
            gc.unfreeze()  # moves all objects to the oldest generation
            gc.enable()


def _is_command_line() -> bool:
    """Whether this process itself, not its parent, was started as our command or script."""
    script, checkout = Path(sys.argv[0]), Path(__file__).resolve().parents[1]
    scripts = (checkout / "train.py", checkout / "validate.py")  # full paths: timm's have the same names
    is_script = script.stem == "convnext-ablation" or script.resolve() in scripts
    modules = {("-m", f"convnext_ablation.{name}") for name in ("cli.main", "cli.launch", "stock")}
    return (is_script and sys.argv[0] in sys.orig_argv) or not modules.isdisjoint(pairwise(sys.orig_argv))


# Commands import the networks only if needed, because importing torch would delay `--help` and `study status`
# by seconds.
if not _is_command_line():
    register_networks()
