"""`convnext-ablation models`: what there is, what it costs, and how two networks differ."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase

from timm.models import PretrainedCfg, get_arch_pretrained_cfgs

from convnext_ablation.console import table
from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.models import zoo
from convnext_ablation.models.catalogue import adds, build, difference
from convnext_ablation.models.cost import count_gmacs, count_parameters
from convnext_ablation.weights import place_from_environment

HEADER = ("model", "adds", "parameters", "GMACs", "weights")
WEIGHTS_HEADER = ("weights", "classes", "pixels", "crop", "interpolation", "licence", "from")
NO_WEIGHTS = "train it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("pattern", nargs="?", default="*", help="which models, e.g. 'roadmap_*'; default all")
    parser.add_argument("--size", type=int, default=224, help="side of the images that GMACs are for")
    parser.add_argument("--format", choices=("table", "csv", "markdown"), default="table")
    parser.add_argument("--weights", action="store_true", help="list the weights that there are instead")
    parser.add_argument("--diff", nargs=2, metavar=("OLD", "NEW"), help="show how two models differ instead")


def run(args: argparse.Namespace) -> None:
    """Runs the command.

    Raises:
        UserError: No model matches, a name is unknown, or the images are too small.
    """
    if args.size < 32:
        raise UserError(f"--size is {args.size}; the networks need images of 32 or more a side")
    if args.diff:
        old, new = args.diff
        print(difference(old, new, args.size))
        return
    names = [name for name in zoo.model_names() if fnmatchcase(name, args.pattern)]
    if not names:
        raise unknown_name("model", args.pattern, zoo.model_names())
    if args.weights:
        rows = [_weights_row(*found) for name in names for found in _known_weights(name).items()]
        if not rows:
            raise UserError(f"nobody has published weights of these models; {NO_WEIGHTS}")
        _print(WEIGHTS_HEADER, rows, (0, 4, 5, 6), args.format)
    else:
        _print(HEADER, [_row(name, args.size, args.format) for name in names], (0, 1, 4), args.format)


def _row(name: str, size: int, form: str) -> tuple[str, ...]:
    model, tags = build(name), list(_known_weights(name))
    parameters, gmacs = count_parameters(model), f"{count_gmacs(model, (3, size, size)):.3f}"
    if form == "csv":
        return name, adds(name), str(parameters), gmacs, ", ".join(tags) or NO_WEIGHTS
    more = f" and {len(tags) - 1} more" if len(tags) > 1 else ""  # `--weights` lists them
    weights = tags[0].partition(".")[2] + more if tags else NO_WEIGHTS
    return name, adds(name), f"{parameters:,}", gmacs, weights


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
    own = {key: PretrainedCfg(**place.read(key).pretrained_cfg()) for key in place.names([name])}
    return {**public, **own}


def _print(header: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[int], form: str) -> None:
    if form == "csv":
        csv.writer(sys.stdout, lineterminator="\n").writerows([header, *rows])
    else:
        print(table(header, rows, words, markdown=form == "markdown"))
