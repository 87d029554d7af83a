"""Which weights and which preprocessing an entry point builds its network with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from timm.models import PretrainedCfg, get_arch_pretrained_cfgs, resolve_pretrained_cfg

from convnext_ablation.errors import UserError
from convnext_ablation.weights.download import check_safetensors, fetch
from convnext_ablation.weights.release import (
    FOLDER,
    FOLDER_VARIABLE,
    HUB,
    HUB_VARIABLE,
    WEIGHTS,
    Place,
    Release,
    find_release,
    place_from_environment,
    read_release,
)

__all__ = ["Request", "resolve"]

_HINT = (
    f"set {FOLDER_VARIABLE}=FOLDER or {HUB_VARIABLE}=NAMESPACE to where your own are "
    "(public weights there are of model_i and model_v)"
)


@dataclass(frozen=True)
class Request:
    """What an entry point was asked for, in timm's words."""

    names: Sequence[str]  # the network's, then others of the same network
    pretrained: bool
    cfg: str | dict[str, Any] | Any | None  # a tag, or a `PretrainedCfg`, which has no types
    overlay: Mapping[str, Any]
    cache_dir: str | Path | None
    place: Place | None  # of releases; None for the place that the environment names
    untrained: Mapping[str, Any] = field(repr=False)  # preprocessing of the network without weights

    @property
    def loads(self) -> bool:
        """Whether weights are to be found: a file or a state dict that the caller gives is left to timm."""
        return self.pretrained and not any(self.overlay.get(key) for key in ("file", "url", "state_dict"))


def resolve(request: Request) -> tuple[dict[str, Any], dict[str, Any]]:
    """Picks the weights that are asked for, fetches and checks them.

    Returns:
        timm's `pretrained_cfg`, with the path of the weights as its file, and arguments that the network was
        made with.
    """
    name, tags = request.names[0], _public_tags(request.names[0])
    release = _release(request)
    if release:
        base: Any = release.pretrained_cfg()
    elif request.cfg is not None:
        base = request.cfg
    elif not request.loads or request.overlay.get("hf_hub_id"):
        base = dict(request.untrained)
    elif tags:
        base = tags[0]
    else:
        raise UserError(f"{name}: nobody has published weights of it; train it with train.py, and {_HINT}")
    cfg = resolve_pretrained_cfg(name, base, dict(request.overlay))
    if request.loads and release:
        cfg = replace(cfg, file=str(release.weights()), source=None)
    elif request.loads and not (cfg.file or cfg.state_dict):
        cfg = _with_public_weights(cfg, request)
    return cfg.to_dict(), dict(release.model_args) if release else {}


def _public_tags(name: str) -> list[str]:
    """Tags of the public weights, timm's own default first."""
    return [str(cfg.tag) for cfg in get_arch_pretrained_cfgs(name).values() if cfg.has_weights]


def _release(request: Request) -> Release | None:
    """The release that is asked for, None if it isn't one."""
    name, cfg, place = request.names[0], request.cfg, request.place
    if isinstance(cfg, str):
        public = _public_tags(name)
        if place is None and cfg in public:
            return None
        place = place or place_from_environment()
        if place is None:
            others = f" ({', '.join(public)} have)" if public else ""
            raise UserError(f"{name}.{cfg}: no public weights have this tag{others}; {_HINT}")
        return find_release(request.names, cfg, place, request.cache_dir)
    if not request.loads or request.overlay.get("hf_hub_id"):
        return None
    if cfg is not None:
        cfg = cfg if isinstance(cfg, PretrainedCfg) else PretrainedCfg(**cfg)
        if cfg.source == "hf-hub":
            return read_release(f"{HUB}{cfg.hf_hub_id}", request.cache_dir)
        if cfg.source == "local-dir":
            return read_release(f"{FOLDER}{cfg.file}")
        if cfg.has_weights or cfg.state_dict:
            return None
    place = place or place_from_environment()
    return find_release(request.names, "", place, request.cache_dir) if place else None


def _with_public_weights(cfg: PretrainedCfg, request: Request) -> PretrainedCfg:
    """The same with the path of the weights of a repository that isn't a release of ours, such as timm's."""
    if not cfg.hf_hub_id:
        if cfg.url:
            return cfg
        raise UserError(f"{request.names[0]}: the pretrained_cfg names no weights; {_HINT}")
    file = cfg.hf_hub_filename or WEIGHTS
    name = f"{cfg.hf_hub_id}: {file}"
    if not file.endswith(".safetensors"):
        raise UserError(f"{name}: refused, unread: only safetensors is taken")
    path = fetch(str(cfg.hf_hub_id), file, request.cache_dir)
    check_safetensors(path, name)
    return replace(cfg, file=str(path), source=None)
