"""Where releases of one's own lie: a namespace of a hub, or a folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from convnext_ablation.errors import UserError
from convnext_ablation.weights import hub
from convnext_ablation.weights.release import CONFIG, FOLDER, HUB, Release, read_release

__all__ = ["Place", "find_release", "own_tags", "place_from_environment"]

HUB_VARIABLE, FOLDER_VARIABLE = "CONVNEXT_ABLATION_HUB", "CONVNEXT_ABLATION_WEIGHTS"


@dataclass(frozen=True)
class Place:
    """Where releases lie.

    Attributes:
        text: ``hf-hub:NAMESPACE`` or ``hf-hub:NAMESPACE@REVISION``, or ``local-dir:FOLDER``.

    Raises:
        UserError: It is neither, or the folder is missing.
    """

    text: str

    def __post_init__(self) -> None:
        """Checks it."""
        if self.folder is not None:
            if not self.folder.is_dir():
                raise UserError(f"weights are to come from {self.folder}, and there is no such folder")
        elif not self.text.startswith(HUB) or "/" in self.text or not self.namespace:
            raise UserError(
                f"weights can't come from {self.text!r}; write {HUB}NAMESPACE (or {HUB}NAMESPACE@REVISION) "
                f"for a hub, {FOLDER}PATH for a folder"
            )

    @property
    def folder(self) -> Path | None:
        """The folder, None if it is a namespace."""
        is_folder = self.text.startswith(FOLDER)
        return Path(self.text.removeprefix(FOLDER)).expanduser() if is_folder else None

    @property
    def namespace(self) -> str:
        """The namespace."""
        return self.text.removeprefix(HUB).partition("@")[0]

    @property
    def revision(self) -> str:
        """``@`` and the revision, empty if none is pinned."""
        _, at, revision = self.text.partition("@")
        return f"{at}{revision}"

    def __str__(self) -> str:
        """Just the namespace or the folder."""
        return self.text.removeprefix(HUB).removeprefix(FOLDER)

    def names(self, models: Sequence[str], cache_dir: str | Path | None = None) -> list[str]:
        """The releases of networks, ``<model>.<tag>`` each.

        Raises:
            UserError: The hub can't be asked, and its cache has none.
        """
        if self.folder is None:
            names = hub.repositories(self.namespace, models, cache_dir)
            return [name.removeprefix(f"{self.namespace}/") for name in names]
        found = [path for model in models for path in self.folder.glob(f"{model}.*/{CONFIG}")]
        return sorted(path.parent.name for path in found)

    def read(self, name: str, cache_dir: str | Path | None = None) -> Release:
        """Reads the release of that name.

        Raises:
            NotThereError: There is none.
            UserError: It can't be had, or is damaged.
        """
        if self.folder is None:
            return read_release(f"{HUB}{self.namespace}/{name}{self.revision}", cache_dir)
        if not (self.folder / name / CONFIG).is_file():
            raise hub.NotThereError(f"{self.folder} has no {name}; {self._held(name)}")
        return read_release(self.folder / name)

    def _held(self, name: str) -> str:
        held = self.names([name.partition(".")[0]])
        return (
            f"it has {', '.join(held)}" if held else "publish a run into it with `convnext-ablation publish`"
        )


def place_from_environment() -> Place | None:
    """The place that is set for every network, None if none is.

    Raises:
        UserError: Two are.
    """
    namespace, folder = os.environ.get(HUB_VARIABLE), os.environ.get(FOLDER_VARIABLE)
    if namespace and folder:
        raise UserError(f"{HUB_VARIABLE} and {FOLDER_VARIABLE} are both set; unset one of them")
    if namespace:
        return Place(f"{HUB}{namespace.removeprefix(HUB)}")
    return Place(f"{FOLDER}{folder.removeprefix(FOLDER)}") if folder else None


def own_tags(model: str) -> list[str]:
    """Names a network's releases in the folder that is set for all, ``<model>.<tag>`` each; asks no hub."""
    place = place_from_environment()
    return place.names([model]) if place and place.folder else []


def find_release(
    names: Sequence[str], tag: str, place: Place, cache_dir: str | Path | None = None
) -> Release:
    """Finds a network's release.

    Args:
        names: The network's name, and others of the same network, which are looked for next.
        tag: Which of its releases; if empty, the only one there is.
        place: Where to look.
        cache_dir: Another cache than the hub's own.

    Raises:
        UserError: There is none, there are several, it is damaged or of another network.
    """
    release = _tagged(names, tag, place, cache_dir) if tag else _only(names, place, cache_dir)
    if release.architecture not in names:
        raise UserError(
            f"{release.name}: holds weights of {release.architecture}, not of {names[0]}; "
            f"load it as {release.architecture}"
        )
    return release


def _tagged(names: Sequence[str], tag: str, place: Place, cache_dir: str | Path | None) -> Release:
    try:
        return place.read(f"{names[0]}.{tag}", cache_dir)
    except hub.NotThereError:
        for name in names[1:]:
            with suppress(hub.NotThereError):
                return place.read(f"{name}.{tag}", cache_dir)
        raise


def _only(names: Sequence[str], place: Place, cache_dir: str | Path | None) -> Release:
    held = place.names(names, cache_dir)
    if len(held) > 1:
        raise UserError(f"{place} has {', '.join(held)}; name the one you want")
    if not held:
        raise UserError(
            f"{place} has no weights of {names[0]}; publish a run there: `convnext-ablation publish`"
        )
    return place.read(held[0], cache_dir)
