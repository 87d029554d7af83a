"""Which weights and which preprocessing an entry point builds its network with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from timm.models import PretrainedCfg, get_arch_pretrained_cfgs, resolve_pretrained_cfg

from convnext_ablation.errors import UserError
from convnext_ablation.weights import hub
from convnext_ablation.weights.integrity import classes_in, refuse_pickle
from convnext_ablation.weights.place import (
    FOLDER_VARIABLE,
    HUB_VARIABLE,
    Place,
    find_release,
    place_from_environment,
)
from convnext_ablation.weights.release import FOLDER, HUB, WEIGHTS, Release, read_release

__all__ = ["Wish", "chosen"]

# `PretrainedCfg`, which has no types
Cfg = dict[str, Any] | Any


@dataclass(frozen=True)
class Wish:
    """What an entry point was asked for, in timm's words.

    Attributes:
        names: The network's name, and others of the same network.
        pretrained: Whether weights are to be loaded.
        cfg: A tag; all there is to know of the weights; or None.
        overlay: What replaces single values of it.
        cache_dir: Another cache than the hub's own.
        place: Where releases are looked for; None for the place that the environment names.
        untrained: Preprocessing of the network without weights.
    """

    names: Sequence[str]
    pretrained: bool
    cfg: str | Cfg | None
    overlay: Mapping[str, Any]
    cache_dir: str | Path | None
    place: Place | None
    untrained: Mapping[str, Any] = field(repr=False)

    @property
    def own_file(self) -> bool:
        """Whether the caller names a file, or has the weights: those are left to timm."""
        return any(self.overlay.get(source) for source in ("file", "url", "state_dict"))

    @property
    def loads(self) -> bool:
        """Whether weights are to be found."""
        return self.pretrained and not self.own_file


def chosen(wish: Wish) -> tuple[dict[str, Any], dict[str, Any]]:
    """Picks the weights that are asked for, fetches and checks them.

    Returns:
        timm's `pretrained_cfg`, with the path of the weights as its file, and arguments that the network was
        made with.

    Raises:
        UserError: There are none, or they can't be had or aren't what was published.
    """
    release = _release(wish)
    if release:
        base: str | Cfg = release.pretrained_cfg()
    elif wish.cfg is not None:
        base = wish.cfg
    elif wish.loads and not wish.overlay.get("hf_hub_id"):
        base = _default_tag(wish.names[0])
    else:
        base = dict(wish.untrained)
    cfg = resolve_pretrained_cfg(wish.names[0], base, dict(wish.overlay))
    if wish.loads:
        cfg = _with_weights(cfg, release, wish)
    return cfg.to_dict(), release.model_args if release else {}


def _release(wish: Wish) -> Release | None:
    """The release that is asked for, None if it isn't one."""
    if isinstance(wish.cfg, str):
        if wish.place is None and wish.cfg in _public_tags(wish.names[0]):
            return None
        return find_release(wish.names, wish.cfg, _place(wish, f"{wish.names[0]}.{wish.cfg}"), wish.cache_dir)
    if not wish.loads or wish.overlay.get("hf_hub_id"):
        return None
    if wish.cfg is not None:
        cfg = wish.cfg if isinstance(wish.cfg, PretrainedCfg) else PretrainedCfg(**wish.cfg)
        if cfg.source == "hf-hub":
            return read_release(f"{HUB}{cfg.hf_hub_id}", wish.cache_dir)
        if cfg.source == "local-dir":
            return read_release(f"{FOLDER}{cfg.file}")
        if cfg.has_weights or cfg.state_dict:
            return None
    place = wish.place or place_from_environment()
    return find_release(wish.names, "", place, wish.cache_dir) if place else None


def _place(wish: Wish, name: str) -> Place:
    place = wish.place or place_from_environment()
    if place is None:
        public = ", ".join(_public_tags(wish.names[0]))
        raise UserError(
            f"{name}: no public weights have this tag{f' ({public} have)' if public else ''}; {_hint()}"
        )
    return place


def _public_tags(name: str) -> list[str]:
    return [str(cfg.tag) for cfg in get_arch_pretrained_cfgs(name).values() if cfg.has_weights]


def _default_tag(name: str) -> str:
    """The tag of the public weights that are taken if none is named: timm's own default."""
    tags = _public_tags(name)
    if not tags:
        raise UserError(f"{name}: nobody has published weights of it; train it with train.py, and {_hint()}")
    return tags[0]


def _hint() -> str:
    return (
        f"set {FOLDER_VARIABLE}=FOLDER or {HUB_VARIABLE}=NAMESPACE to where your own are "
        "(public weights there are of model_i and model_v)"
    )


def _with_weights(cfg: PretrainedCfg, release: Release | None, wish: Wish) -> PretrainedCfg:
    if release:
        return replace(cfg, file=str(release.weights()), source=None)
    if cfg.file or cfg.state_dict:
        return cfg
    if cfg.hf_hub_id:
        return replace(cfg, file=str(_of_hub(cfg, wish.cache_dir)), source=None)
    if cfg.url:
        return cfg
    raise UserError(f"{wish.names[0]}: the pretrained_cfg names no weights; {_hint()}")


def _of_hub(cfg: PretrainedCfg, cache_dir: str | Path | None) -> Path:
    """The weights of a repository that isn't a release of ours, such as timm's."""
    file = cfg.hf_hub_filename or WEIGHTS
    name = f"{cfg.hf_hub_id}: {file}"
    if not file.endswith(".safetensors"):
        raise UserError(f"{name}: refused, unread: only safetensors is taken")
    path = hub.fetch(str(cfg.hf_hub_id), file, cache_dir)
    refuse_pickle(path, name)
    classes_in(path, name)
    return path
