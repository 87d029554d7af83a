"""`convnext-ablation models`: lists networks, their cost and their weights."""

from __future__ import annotations

import argparse
import os
from fnmatch import fnmatchcase
from typing import Any

from convnext_ablation.cli import load_networks
from convnext_ablation.console import table
from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.models.components import FAMILIES, FREE, NETWORKS, STAGES, TIMM_NAMES
from convnext_ablation.models.expected_cost import expected_cost

HEADER = ("model", "adds", "M par.", "GMACs", "weights")
FOLDER = "CONVNEXT_ABLATION_WEIGHTS"  # environment variable with a folder of own weights
WEIGHTS_HEADER = ("weights", "classes", "pixels", "crop", "interpolation", "licence", "from")


def run(args: argparse.Namespace) -> None:
    """Runs the command; only listing weights needs torch.

    Raises:
        UserError: No model matches, or the image size is out of range.
    """
    if args.size < 32:
        raise UserError(f"--size is {args.size}; the networks need images of 32 or more a side")
    if args.size > 16384:
        raise UserError(f"--size is {args.size}; it must be at most 16384")
    names = [name for name in NETWORKS if fnmatchcase(name, args.pattern)]
    if not names:
        raise unknown_name("model", args.pattern, NETWORKS)
    if args.weights or os.environ.get(FOLDER):
        load_networks("convnext-ablation models")
    if not args.weights:
        print(table(HEADER, [_row(name, args.size) for name in names], (0, 1, 4), fit=1))
        return
    rows = [_weights_row(*found) for name in names for found in _known_weights(name).items()]
    if not rows:
        raise UserError("there are no public weights of these models; train one")
    print(table(WEIGHTS_HEADER, rows, (0, 4, 5, 6), fit=6))


def _row(name: str, size: int) -> tuple[str, ...]:
    components, factor = NETWORKS[name]
    cost = expected_cost(components, round(components.width * factor), size)
    found = ["timm's"] if factor == 1 and name != FREE and components in TIMM_NAMES else []
    if os.environ.get(FOLDER):  # otherwise torch isn't imported
        found += [key.partition(".")[2] for key in _own_weights(name)]
    weights = ", ".join(found) or "none"  # --weights shows details
    return name, adds(name), f"{cost.parameters / 1e6:.3f}", f"{cost.macs / 1e9:.3g}", weights


def adds(name: str) -> str:
    """The short label of what a registered network adds to its baseline."""
    base = name.removesuffix("_atto")
    variants = {key: variant for family in FAMILIES.values() for key, variant in family.items()}
    for number, variant in enumerate(STAGES.values(), start=1):
        variants[f"{FREE}_stage{number}"] = variant
    if base not in variants:
        return "any combination, by keyword arguments"
    return variants[base].adds + (", a quarter of the width" if base != name else "")


def _weights_row(name: str, cfg: Any) -> tuple[str, ...]:
    size, crop = str(cfg.input_size[-1]), f"{cfg.crop_pct:g}"
    source = (cfg.license or "not stated", cfg.origin_url or "not stated")
    return name, str(cfg.num_classes), size, crop, cfg.interpolation, *source


def _known_weights(name: str) -> dict[str, Any]:
    """Maps tags to timm's `PretrainedCfg`: public weights, the default first, then the user's own."""
    from timm.models import get_arch_pretrained_cfgs

    public = {key: cfg for key, cfg in get_arch_pretrained_cfgs(name).items() if cfg.has_weights}
    return {**public, **_own_weights(name)}


def _own_weights(name: str) -> dict[str, Any]:
    from timm.models import PretrainedCfg

    from convnext_ablation.weights.release import place_from_environment

    place = place_from_environment()
    if place is None or place.folder is None:
        return {}
    return {key: PretrainedCfg(**place.read(key).pretrained_cfg()) for key in place.names(name)}
