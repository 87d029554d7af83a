"""`convnext-ablation models`: what there is, what it costs, and how two networks differ."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import timm
from timm.models import PretrainedCfg, get_arch_pretrained_cfgs

from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.models import zoo
from convnext_ablation.models.components import FAMILIES, STAGES
from convnext_ablation.models.cost import count_gmacs, count_parameters
from convnext_ablation.models.difference import component_lines, layer_lines
from convnext_ablation.models.network import ResNetToConvNeXt
from convnext_ablation.weights import place_from_environment

HEADER = ("model", "adds", "parameters", "GMACs", "weights")
WEIGHTS_HEADER = ("weights", "classes", "pixels", "crop", "interpolation", "licence", "from")
NO_WEIGHTS = "train it"


@dataclass(frozen=True)
class Entry:
    """A network in the list.

    Attributes:
        name: Name that `timm.create_model` takes.
        adds: What it adds to its baseline, in a few words.
        parameters: Number of parameters with 1000 classes.
        gmacs: Billions of multiply-accumulates for one image.
        weights: Names of the weights that there are, ``<model>.<tag>``, what is taken without a tag first.
    """

    name: str
    adds: str
    parameters: int
    gmacs: float
    weights: Sequence[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("pattern", nargs="?", default="*", help="which models, e.g. 'roadmap_*'; default all")
    parser.add_argument("--size", type=int, default=224, help="side of the images that GMACs are for")
    parser.add_argument("--format", choices=("table", "csv", "markdown"), default="table")
    parser.add_argument("--weights", action="store_true", help="list the weights that there are instead")
    parser.add_argument("--diff", nargs=2, metavar=("OLD", "NEW"), help="say how two models differ instead")


def run(args: argparse.Namespace) -> None:
    """Runs the command.

    Raises:
        UserError: No model matches, a name is unknown, or the images are too small.
    """
    if args.size < 32:
        raise UserError(f"--size is {args.size}; the networks need images of 32 or more a side")
    if args.diff:
        old, new = args.diff
        print("\n".join(difference(old, new, args.size)))
        return
    names = [name for name in zoo.model_names() if fnmatchcase(name, args.pattern)]
    if not names:
        raise unknown_name("model", args.pattern, zoo.model_names())
    if args.weights:
        _write(WEIGHTS_HEADER, weights_rows(names), args.format)
        return
    write_table([entry(name, args.size) for name in names], args.format)


def entry(name: str, size: int = 224) -> Entry:
    """Builds a model without memory for its weights, and says what it is and costs.

    Args:
        name: Name of a registered network.
        size: Side of the images in pixels.
    """
    model = _build(name)
    gmacs = count_gmacs(model, (3, size, size))
    return Entry(name, adds(name), count_parameters(model), gmacs, list(_known_weights(name)))


def adds(name: str) -> str:
    """What a registered network adds to its baseline, in a few words."""
    base = name.removesuffix("_atto")
    variants = {key: variant for family in FAMILIES.values() for key, variant in family.items()}
    for number, variant in enumerate(STAGES.values(), start=1):
        variants[f"resnet_to_convnext_stage{number}"] = variant
    if base not in variants:
        return "any combination, by keyword arguments"
    return variants[base].adds + (", a quarter of the width" if base != name else "")


def difference(old: str, new: str, size: int = 224) -> list[str]:
    """Says in lines how two registered networks differ.

    Args:
        old: Name of the network to start from.
        new: Name of the network to compare.
        size: Side of the images in pixels.

    Raises:
        UserError: A name is unknown.
    """
    for name in (old, new):
        if name not in zoo.model_names():
            raise unknown_name("model", name, zoo.model_names())
    models = _build(old), _build(new)
    components = component_lines(zoo.components_of(old), zoo.components_of(new))
    parameters = [f"{count_parameters(model):,}" for model in models]
    gmacs = [f"{count_gmacs(model, (3, size, size)):.3f}" for model in models]
    return [
        f"{old} -> {new}",
        "",
        "components:",
        *(f"  {line}" for line in components or ["none differs"]),
        "cost:",
        f"  parameters: {' -> '.join(parameters)}",
        f"  GMACs at {size}: {' -> '.join(gmacs)}",
        "layers (d is a stage's width):",
        *(f"  {line}" for line in layer_lines(*models)),
    ]


def write_table(entries: Sequence[Entry], form: str) -> None:
    """Prints the list as a ``table``, ``csv`` or ``markdown``."""
    told = ", ".join if form == "csv" else _shortened
    _write(
        HEADER,
        [
            (e.name, e.adds, _number(e.parameters, form), f"{e.gmacs:.3f}", told(e.weights) or NO_WEIGHTS)
            for e in entries
        ],
        form,
    )


def _number(value: int, form: str) -> str:
    return str(value) if form == "csv" else f"{value:,}"


def _shortened(names: Sequence[str]) -> str:
    """The first tag, and how many others there are: `--weights` lists them."""
    tags = [name.partition(".")[2] for name in names]
    return f"{tags[0]} and {len(tags) - 1} more" if len(tags) > 1 else "".join(tags)


def weights_rows(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Says of each of the networks' weights what they expect, under which licence, and where they are from.

    Args:
        names: Names of registered networks.

    Raises:
        UserError: There are none, or what is said of them can't be read.
    """
    rows = [_weights_row(*found) for name in names for found in _known_weights(name).items()]
    if not rows:
        raise UserError(f"nobody has published weights of these models; {NO_WEIGHTS}")
    return rows


def _weights_row(name: str, cfg: PretrainedCfg) -> tuple[str, ...]:
    return (
        name,
        str(cfg.num_classes),
        str(cfg.input_size[-1]),
        f"{cfg.crop_pct:g}",
        cfg.interpolation,
        cfg.license or "not stated",
        cfg.origin_url or "not stated",
    )


def _known_weights(name: str) -> dict[str, PretrainedCfg]:
    """By name: the public ones, timm's default first, then those in the folder that is set for one's own."""
    public = {key: cfg for key, cfg in get_arch_pretrained_cfgs(name).items() if cfg.has_weights}
    place = place_from_environment()
    if place is None or place.folder is None:
        return public
    own = {key: PretrainedCfg(**place.read(key).pretrained_cfg()) for key in place.names([name])}
    return {**public, **own}


def _write(header: Sequence[str], rows: Sequence[Sequence[str]], form: str) -> None:
    if form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
        return
    print("\n".join(markdown(header, rows) if form == "markdown" else aligned([header, *rows])))


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The rows as a Markdown table; columns of numbers are right-aligned."""
    rows = list(rows)
    rules = ["---:" if _is_number(cell) else "---" for cell in rows[0]]
    return [f"| {' | '.join(row)} |" for row in (header, rules, *rows)]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A heading and rows in columns for a terminal; columns of numbers are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numeric = [_is_number(cell) for cell in rows[1]]
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in rows
    ]


def _is_number(cell: str) -> bool:
    return cell.replace(",", "").replace(".", "").isdigit()


def _build(name: str) -> ResNetToConvNeXt:
    return timm.create_model(name, device="meta")  # no memory, no random numbers
