"""A design of one's own, from a YAML file; `docs/studies.md` says what may stand in it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from convnext_ablation.console import counted
from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.study.designs.contrasts import (
    VARIANTS,
    Contrast,
    Design,
    Point,
    make_difference,
    make_point,
    words_of,
)
from convnext_ablation.study.designs.factorial import factorial
from convnext_ablation.yaml_files import mapping, read_yaml

T = TypeVar("T")

_KEYS = ("networks", "contrasts", "groups")
_NETWORK_KEYS = ("label", "components", "base", "key", "adds")
_DIFFERENCE_KEYS = ("network", "baseline", "label", "primary")
_WEIGHTED_KEYS = ("name", "weights", "label", "primary")
_KEY = re.compile(r"[A-Za-z0-9_]+")
_ABOVE = "Each network is compared with the one above it in the list."


def read_design(file: str, suffix: str) -> Design:
    """Reads a design from a YAML file; `suffix` is a value of `WIDTHS`.

    Raises:
        UserError: The file is missing or isn't a design.
    """
    path = Path(file)
    content = mapping(read_yaml(path), file, _KEYS)
    whole = Design("", (), ())
    if content.get("groups") is not None:
        where = f"{file}: groups"
        whole = factorial(suffix, mapping(content["groups"], where), where)
    named = _networks(content.get("networks") or [], file, suffix)
    points = [*whole.points, *named.values()]
    if len(points) < 2:
        raise UserError(
            f"{file}: {counted(len(points), 'network')}; list two or more under `networks`, or give `groups`"
        )
    by_name = {**{point.key.removesuffix(suffix): point for point in points}, **named}
    contrasts, notes = list(whole.contrasts), list(whole.notes)
    if content.get("contrasts") is not None:
        contrasts += _contrasts(content["contrasts"], file, by_name)
    elif not whole.points:
        contrasts = [_minus(point, above) for above, point in itertools.pairwise(points)]
        notes.append(_ABOVE)
    try:
        return Design(path.stem, tuple(points), tuple(contrasts), tuple(notes))
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def _networks(entries: Any, file: str, suffix: str) -> dict[str, Point]:
    points: dict[str, Point] = {}
    for number, entry in enumerate(_list(entries, f"{file}: networks"), start=1):
        where = f"{file}: networks, entry {number}"
        if isinstance(entry, str):
            name, variant = entry, _named(entry, where, VARIANTS)
            point = make_point(variant.components, suffix, name, variant.label, variant.adds)
        else:
            name, point = _free_network(mapping(entry, where, _NETWORK_KEYS), where, suffix)
        if name in points:
            raise UserError(f"{where}: {name!r} appears twice; leave one, or give one another key")
        points[name] = point
    return points


def _free_network(entry: Mapping[str, Any], where: str, suffix: str) -> tuple[str, Point]:
    label = _text(entry, "label", where)
    base = _named(_text(entry, "base", where, "model_i"), where, VARIANTS).components
    switches = mapping(entry.get("components"), f"{where}: components")
    try:
        components = base.with_(**switches)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    key = _text(entry, "key", where, re.sub(r"\W+", "_", label.lower()).strip("_"))
    if not _KEY.fullmatch(key):
        raise UserError(f"{where}: key {key!r}: write letters, digits and _ only")
    if key in VARIANTS and VARIANTS[key].components != components:
        raise UserError(f"{where}: key {key!r} is the name of another network; choose one of your own")
    adds = _text(entry, "adds", where, words_of(components))
    return key, make_point(components, suffix, key, label, adds)


def _contrasts(entries: Any, file: str, points: Mapping[str, Point]) -> list[Contrast]:
    contrasts = []
    for number, each in enumerate(_list(entries, f"{file}: contrasts"), start=1):
        where = f"{file}: contrasts, entry {number}"
        weighted = isinstance(each, Mapping) and "weights" in each
        entry = mapping(each, where, _WEIGHTED_KEYS if weighted else _DIFFERENCE_KEYS)
        if weighted:
            contrast = _weighted(entry, where, points)
        else:
            pair = [_named(_text(entry, key, where), where, points) for key in ("network", "baseline")]
            contrast = _minus(*pair)
        label = _text(entry, "label", where, contrast.label)
        primary = entry.get("primary", True)
        if not isinstance(primary, bool):
            raise UserError(f"{where}: primary is {primary!r}; it takes true or false")
        contrasts.append(replace(contrast, label=label, primary=primary))
    return contrasts


def _minus(treated: Point, baseline: Point) -> Contrast:
    return make_difference(treated, baseline, f"{treated.label} minus {baseline.label}")


def _weighted(entry: Mapping[str, Any], where: str, points: Mapping[str, Point]) -> Contrast:
    name = _text(entry, "name", where)
    weights: dict[str, Fraction] = {}
    for network, weight in mapping(entry["weights"], f"{where}: weights").items():
        key = _named(network, f"{where}: weights", points).key
        if key in weights:
            raise UserError(f"{where}: weights: {network!r} has two weights under two names; leave one")
        try:
            weights[key] = Fraction(str(weight))
        except (ValueError, ZeroDivisionError):
            hint = "it takes a number such as -1, 0.5 or 1/3"
            raise UserError(f"{where}: weights: {network} is {weight!r}; {hint}") from None
    if not any(weights.values()):
        raise UserError(f"{where}: weights: none differs from 0; weigh at least two networks")
    return Contrast(name, name, {key: float(weight) for key, weight in weights.items()}, "difference")


def _named(name: str, where: str, known: Mapping[str, T]) -> T:
    if name not in known:
        raise unknown_name(f"network in {where}:", name, known)
    return known[name]


def _text(entry: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    value = entry.get(key, default)
    if not isinstance(value, str) or not value.strip():
        raise UserError(
            f"{where}: {key} is {value!r}; give it a text" if key in entry else f"{where}: no {key}; add it"
        )
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise UserError(f"{where} is {value!r}; write a list, each entry behind a dash")
    return value
