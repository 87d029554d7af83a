"""`convnext-ablation models`: what networks there are, what they cost, and which weights exist."""

from __future__ import annotations

import argparse
from fnmatch import fnmatchcase

import timm
from timm.models import PretrainedCfg, get_arch_pretrained_cfgs

from convnext_ablation.console import table
from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.models import zoo
from convnext_ablation.models.components import FAMILIES, STAGES
from convnext_ablation.models.cost import count_gmacs, count_parameters
from convnext_ablation.weights import place_from_environment

HEADER = ("model", "adds", "parameters", "GMACs", "weights")
WEIGHTS_HEADER = ("weights", "classes", "pixels", "crop", "interpolation", "licence", "from")
NO_WEIGHTS = "train it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("pattern", nargs="?", default="*", help="which models, e.g. 'roadmap_*'; default all")
    parser.add_argument("--size", type=int, default=224, help="side of the images that GMACs are for")
    parser.add_argument("--weights", action="store_true", help="list the weights that there are instead")


def run(args: argparse.Namespace) -> None:
    """Runs the command.

    Raises:
        UserError: No model matches, or the images are too small.
    """
    if args.size < 32:
        raise UserError(f"--size is {args.size}; the networks need images of 32 or more a side")
    if args.size > 16384:
        raise UserError(f"--size is {args.size}; it must be at most 16384")
    names = [name for name in zoo.model_names() if fnmatchcase(name, args.pattern)]
    if not names:
        raise unknown_name("model", args.pattern, zoo.model_names())
    if not args.weights:
        print(table(HEADER, [_row(name, args.size) for name in names], (0, 1, 4)))
        return
    rows = [_weights_row(*found) for name in names for found in _known_weights(name).items()]
    if not rows:
        raise UserError(f"nobody has published weights of these models; {NO_WEIGHTS}")
    print(table(WEIGHTS_HEADER, rows, (0, 4, 5, 6)))


def _row(name: str, size: int) -> tuple[str, ...]:
    model, tags = timm.create_model(name, device="meta"), list(_known_weights(name))
    more = f" and {len(tags) - 1} more" if len(tags) > 1 else ""  # `--weights` lists them
    weights = tags[0].partition(".")[2] + more if tags else NO_WEIGHTS
    gmacs = count_gmacs(model, (3, size, size))
    return name, adds(name), f"{count_parameters(model):,}", f"{gmacs:.3f}", weights


def adds(name: str) -> str:
    """What a registered network adds to its baseline, in a few words."""
    base = name.removesuffix("_atto")
    variants = {key: variant for family in FAMILIES.values() for key, variant in family.items()}
    for number, variant in enumerate(STAGES.values(), start=1):
        variants[f"resnet_to_convnext_stage{number}"] = variant
    if base not in variants:
        return "any combination, by keyword arguments"
    return variants[base].adds + (", a quarter of the width" if base != name else "")


def _weights_row(name: str, cfg: PretrainedCfg) -> tuple[str, ...]:
    size, crop = str(cfg.input_size[-1]), f"{cfg.crop_pct:g}"
    source = (cfg.license or "not stated", cfg.origin_url or "not stated")
    return name, str(cfg.num_classes), size, crop, cfg.interpolation, *source


def _known_weights(name: str) -> dict[str, PretrainedCfg]:
    """By name: the public ones, timm's default first, then those in the folder that is set for one's own."""
    public = {key: cfg for key, cfg in get_arch_pretrained_cfgs(name).items() if cfg.has_weights}
    place = place_from_environment()
    if place is None or place.folder is None:
        return public
    own = {key: PretrainedCfg(**place.read(key).pretrained_cfg()) for key in place.names(name)}
    return {**public, **own}
