"""Chooses the weights and preprocessing of a network created by an entry point."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
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
    Release,
    find_release,
    place_from_environment,
    read_release,
)

_HINT = (
    f"set {FOLDER_VARIABLE}=FOLDER or {HUB_VARIABLE}=NAMESPACE to where your own are "
    "(public weights there are of model_i and model_v)"
)


def resolve(
    name: str,
    pretrained: bool,
    cfg: str | dict[str, Any] | Any | None,  # a tag, or a `PretrainedCfg`, which is untyped
    overlay: Mapping[str, Any],
    cache_dir: str | Path | None,
    untrained: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Chooses, downloads and verifies the weights requested from an entry point.

    Args:
        name: Name of the network.
        pretrained: Whether to load weights.
        cfg: timm's `pretrained_cfg`, whose fields `overlay` replaces.
        overlay: timm's `pretrained_cfg_overlay`.
        cache_dir: Cache folder; by default the hub's.
        untrained: Preprocessing of the network without weights.

    Returns:
        timm's `pretrained_cfg` with the path of the weights as `file`, and the arguments that the network was
        created with.
    """
    # timm handles files and state dicts passed by the caller
    loads = pretrained and not any(overlay.get(key) for key in ("file", "url", "state_dict"))
    picks = loads and not overlay.get("hf_hub_id")  # the weights are still to be chosen
    release = _release(name, cfg, picks, cache_dir)
    if release:
        base: Any = release.pretrained_cfg()
    elif cfg is not None:
        base = cfg
    elif not picks:
        base = dict(untrained)
    elif tags := _public_tags(name):
        base = tags[0]
    else:
        raise UserError(f"{name}: there are no public weights of it; train it with train.py, and {_HINT}")
    chosen = resolve_pretrained_cfg(name, base, dict(overlay))
    if loads and release:
        chosen = replace(chosen, file=str(release.weights()), source=None)
    elif loads and not (chosen.file or chosen.state_dict):
        chosen = _with_public_weights(name, chosen, cache_dir)
    return chosen.to_dict(), dict(release.model_args) if release else {}


def _public_tags(name: str) -> list[str]:
    """Tags of the public weights, timm's default first."""
    return [str(cfg.tag) for cfg in get_arch_pretrained_cfgs(name).values() if cfg.has_weights]


def _release(name: str, cfg: Any, picks: bool, cache_dir: str | Path | None) -> Release | None:
    """The requested release; None if other weights, or none, are requested."""
    if isinstance(cfg, str):
        public = _public_tags(name)
        if cfg in public:
            return None
        place = place_from_environment()
        if place is None:
            others = f" ({', '.join(public)} have)" if public else ""
            raise UserError(f"{name}.{cfg}: no public weights have this tag{others}; {_HINT}")
        return find_release(name, cfg, place, cache_dir)
    if not picks:
        return None
    if cfg is not None:
        cfg = cfg if isinstance(cfg, PretrainedCfg) else PretrainedCfg(**cfg)
        if cfg.source == "hf-hub":
            return read_release(f"{HUB}{cfg.hf_hub_id}", cache_dir)
        if cfg.source == "local-dir":
            return read_release(f"{FOLDER}{cfg.file}")
        if cfg.has_weights or cfg.state_dict:
            return None
    place = place_from_environment()
    return find_release(name, "", place, cache_dir) if place else None


def _with_public_weights(name: str, cfg: PretrainedCfg, cache_dir: str | Path | None) -> PretrainedCfg:
    """Downloads weights from a repository that isn't our release, such as timm's; returns `cfg` with them."""
    if not cfg.hf_hub_id:
        if cfg.url:
            return cfg
        raise UserError(f"{name}: the pretrained_cfg names no weights; {_HINT}")
    file = cfg.hf_hub_filename or WEIGHTS
    if not file.endswith(".safetensors"):
        raise UserError(f"{cfg.hf_hub_id}: {file}: refused, unread: only safetensors is taken")
    path = fetch(str(cfg.hf_hub_id), file, cache_dir)
    check_safetensors(path, f"{cfg.hf_hub_id}: {file}")
    return replace(cfg, file=str(path), source=None)
