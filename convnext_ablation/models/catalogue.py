"""What networks there are, what they add, and how two differ: components, and cost of each stage."""

from __future__ import annotations

from typing import Any

import timm

from convnext_ablation.console import table
from convnext_ablation.errors import unknown_name
from convnext_ablation.models import zoo
from convnext_ablation.models.components import CONVNEXT_TINY, FAMILIES, RESNET_50, STAGES, WORDS
from convnext_ablation.models.cost import count_gmacs_by_part, count_parameters
from convnext_ablation.models.network import ResNetToConvNeXt


def build(name: str) -> ResNetToConvNeXt:
    """Builds a registered network without memory for its weights.

    Raises:
        UserError: There is no network of that name.
    """
    if name not in zoo.model_names():
        raise unknown_name("model", name, zoo.model_names())
    return timm.create_model(name, device="meta")


def adds(name: str) -> str:
    """What a registered network adds to its baseline, in a few words."""
    base = name.removesuffix("_atto")
    variants = {key: variant for family in FAMILIES.values() for key, variant in family.items()}
    for number, variant in enumerate(STAGES.values(), start=1):
        variants[f"resnet_to_convnext_stage{number}"] = variant
    if base not in variants:
        return "any combination, by keyword arguments"
    return variants[base].adds + (", a quarter of the width" if base != name else "")


def difference(old: str, new: str, size: int = 224) -> str:
    """Says how two registered networks differ; GMACs are for images of `size` pixels a side.

    Raises:
        UserError: There is no network of that name.
    """
    models = build(old), build(new)
    changed = models[1].components.changed_from(models[0].components)
    lines = [f"{key}: {_in_words(key, was)} -> {_in_words(key, now)}" for key, (was, now) in changed.items()]
    before, after = (_cost_by_part(model, size) for model in models)
    header = ("part", "parameters", "->", f"GMACs at {size}", "->")
    # a part's parameters and GMACs, of both networks
    rows = [(part, before[part][0], after[part][0], before[part][1], after[part][1]) for part in before]
    return "\n".join([f"{old} -> {new}", "", *(lines or ["the same components"]), "", table(header, rows)])


def _cost_by_part(model: ResNetToConvNeXt, size: int) -> dict[str, tuple[str, str]]:
    """Parameters and GMACs of the stem, each stage, the head and the whole."""
    gmacs = count_gmacs_by_part(model, (model.in_chans, size, size))
    parts = {
        "stem": "stem",
        **{f"stage {n}": f"stages.{n - 1}" for n in (1, 2, 3, 4)},
        "head": "head",
        "all": "",
    }
    return {
        part: (f"{count_parameters(model.get_submodule(path)):,}", f"{gmacs[path]:.3f}")
        for part, path in parts.items()
    }


def _in_words(name: str, value: Any) -> str:
    for end, words in ((RESNET_50, WORDS[name].resnet), (CONVNEXT_TINY, WORDS[name].convnext)):
        if value == getattr(end, name):
            return words
    return f"kernel {value}" if name == "kernel_size" else "a 1x1 convolution, then a strided block"
