"""`convnext-ablation models`: what there is, what it costs, and how two networks differ."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import timm

from convnext_ablation import zoo
from convnext_ablation.components import FAMILIES, STAGES
from convnext_ablation.cost import count_gmacs, count_parameters
from convnext_ablation.difference import component_lines, layer_lines
from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.network import ResNetToConvNeXt

HEADER = ("model", "adds", "parameters", "GMACs", "weights")
NO_WEIGHTS = "train it"


@dataclass(frozen=True)
class Entry:
    """A network in the list.

    Attributes:
        name: Name that `timm.create_model` takes.
        adds: What it adds to its baseline, in a few words.
        parameters: Number of parameters with 1000 classes.
        gmacs: Billions of multiply-accumulates for one image.
        weights: Tags of the weights that there are, or that there are none.
    """

    name: str
    adds: str
    parameters: int
    gmacs: float
    weights: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("pattern", nargs="?", default="*", help="which models, e.g. 'roadmap_*'; default all")
    parser.add_argument("--size", type=int, default=224, help="side of the images that GMACs are for")
    parser.add_argument("--format", choices=("table", "csv", "markdown"), default="table")
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
    write_table([entry(name, args.size) for name in names], args.format)


def entry(name: str, size: int = 224) -> Entry:
    """Builds a model without memory for its weights, and says what it is and costs.

    Args:
        name: Name of a registered network.
        size: Side of the images in pixels.
    """
    model = _build(name)
    return Entry(
        name, adds(name), count_parameters(model), count_gmacs(model, (3, size, size)), _weights(name)
    )


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
    if form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(HEADER)
        writer.writerows((e.name, e.adds, e.parameters, f"{e.gmacs:.3f}", e.weights) for e in entries)
        return
    rows = [(e.name, e.adds, f"{e.parameters:,}", f"{e.gmacs:.3f}", e.weights) for e in entries]
    print("\n".join(markdown(HEADER, rows) if form == "markdown" else _aligned([HEADER, *rows])))


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The rows as a Markdown table; columns of numbers are right-aligned."""
    rows = list(rows)
    rules = ["---:" if _is_number(cell) else "---" for cell in rows[0]]
    return [f"| {' | '.join(row)} |" for row in (header, rules, *rows)]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
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


def _weights(name: str) -> str:
    """Names of the weights that timm knows for the model."""
    names = [
        pretrained for pretrained in timm.list_pretrained(f"{name}*") if pretrained.split(".")[0] == name
    ]
    return ", ".join(names) or NO_WEIGHTS
