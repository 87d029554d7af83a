"""Registers the networks with timm: at once if timm is there, else as soon as it is imported.

timm and torch take seconds to import, which a command that needs neither, such as `convnext-ablation study
status`, shouldn't cost. timm has no list of plugins that it would look at, hence the import hook.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

__all__ = ["register_with_timm"]


def register_with_timm() -> None:
    """Makes `timm.create_model` know the networks, now or when timm is imported."""
    if "timm" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _TimmFinder())


def _register() -> None:
    importlib.import_module("convnext_ablation.models.zoo")


class _TimmFinder(MetaPathFinder):
    """Finds timm as it would be found anyway, once, and hears of its import."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Finds timm, and nothing else."""
        if fullname != "timm":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _RegisteringLoader(spec.loader)
        return spec


class _RegisteringLoader(Loader):
    """Loads a module as another loader does, whose place it takes until then, and registers the networks."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Makes the module, as the other loader does."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Runs the module, as the other loader does, and then registers the networks."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _register()
