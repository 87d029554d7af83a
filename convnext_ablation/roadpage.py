"""Writes docs/road.md and its diagrams: every step from ResNet-50 to ConvNeXt-T.

Run it from the repository's root after a change to the networks: ``python -m convnext_ablation.roadpage``.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import NamedTuple

from convnext_ablation.cli.models import markdown
from convnext_ablation.files import write_text
from convnext_ablation.models.components import ROADMAP, STAGES, Components, Variant
from convnext_ablation.models.cost import count_gmacs, count_parameters
from convnext_ablation.models.difference import layers, widths
from convnext_ablation.models.network import ResNetToConvNeXt
from convnext_ablation.models.paper import REPORTED

_INTRO = """\
<!-- Written by `python -m convnext_ablation.roadpage`; change that, not this. -->
# The road from ResNet-50 to ConvNeXt-T

Every point below is a registered model: `timm.create_model('roadmap_05_inverted')`. Parameters (1000 classes)
and GMACs (billions of multiply-accumulates, one 224x224 image) are counted here, on the networks of this
package. **Top-1 is the paper's**, ImageNet-1k, mean of three seeds, and so is the second column of GMACs:
table 10 of Liu et al., 2022, [arXiv:2201.03545](https://arxiv.org/abs/2201.03545). It was not measured here.

How to read a diagram: the upper row is the network, the lower row a block in the middle of a stage. `d` is
the stage's width, `1x1 d→4d` a convolution. What a step changes is orange."""

_STAGES_INTRO = """\
## The five stages

The networks of the 11785-FGVC project. Models III and IV change resolution in their own way, with a 1x1 conv
at the old resolution: they are no steps of the paper's, and have no figure in its table. Orange is what a
stage changes in the one before."""

_BOX_WIDTH, _LINE_HEIGHT, _GAP, _PADDING = 176, 17, 26, 9
_STYLE = (
    "text{font:12px ui-sans-serif,system-ui,sans-serif;fill:#1f2328}"
    ".h{font-weight:600;fill:#57606a}.n{font-weight:600;fill:#953800}"
    "rect,circle{fill:#f0f3f6;stroke:#8c959f}.c{fill:#fff1e5;stroke:#e16f24;stroke-width:2}"
    "path{fill:none;stroke:#8c959f;stroke-width:1.5}"
)


class Box(NamedTuple):
    """A part of the network in a diagram: what it is, and its layers."""

    title: str
    lines: tuple[str, ...]


class Drawn(NamedTuple):
    """What a diagram shows of a network: its parts from image to classifier, and the parts of a block."""

    network: tuple[Box, ...]
    block: tuple[Box, ...]


def pages() -> dict[str, str]:
    """Returns the page and the diagrams, as ``{path below docs: text}``."""
    files = {}
    text = [_INTRO, "", *_overview(ROADMAP)]
    for name, variant in {**ROADMAP, **STAGES}.items():
        before = {**ROADMAP, **STAGES}.get(variant.baseline)
        drawn = _drawn(variant.components)
        files[f"road/{name}.svg"] = _diagram(drawn, _drawn(before.components) if before else drawn)
        if name == next(iter(STAGES)):
            text += ["", _STAGES_INTRO, "", *_overview(STAGES)]
        text += _section(name, variant, drawn)
    return {"road.md": "\n".join(text) + "\n", **files}


def main(folder: Path) -> None:
    """Writes the page and its diagrams.

    Args:
        folder: Where the documentation stands.
    """
    for path, text in pages().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write_text(folder / path, text)


def _overview(variants: Mapping[str, Variant]) -> list[str]:
    header = ("", "changes", "parameters", "GMACs", "GMACs (paper)", "top-1 (paper)")
    return markdown(header, [_row(name, variant) for name, variant in variants.items()])


def _row(name: str, variant: Variant) -> list[str]:
    parameters, gmacs = _costs(variant.components)
    # a stage has the figure of the paper's step that is the same network
    reported = next(
        (REPORTED[step] for step in ROADMAP if ROADMAP[step].components == variant.components), None
    )
    paper = [f"{reported.gmacs:.2f}", f"{reported.top1:.2f}"] if reported else ["none", "none"]
    return [f"[{variant.label}](#{name})", variant.adds, f"{parameters:,}", f"{gmacs:.2f}", *paper]


def _costs(components: Components) -> tuple[int, float]:
    model = ResNetToConvNeXt(components, device="meta")
    return count_parameters(model), count_gmacs(model, (3, 224, 224))


def _section(name: str, variant: Variant, drawn: Drawn) -> list[str]:
    in_words = ", ".join(line for box in drawn.block for line in box.lines)
    return [
        "",
        f"### {name}",
        "",
        f"{variant.label}: {variant.adds}.",
        "",
        f"![{name}: {in_words}](road/{name}.svg)",
    ]


@cache  # most networks are drawn, and then compared with the next
def _drawn(components: Components) -> Drawn:
    """What stands in the diagram, read off the network itself."""
    model = ResNetToConvNeXt(components, device="meta")
    found = {path: text.replace("->", "→") for path, text in layers(model).items()}

    def box(title: str, *paths: str) -> Box:
        return Box(title, tuple(line for path in paths if path in found for line in _wrapped(found[path])))

    first, block = "stages.1.blocks.0", "stages.1.blocks.1"
    spatial = f"{first}.conv{1 if components.moved_up else 2}"
    stages = (
        f"{'-'.join(map(str, components.depths))} blocks",
        f"d = {', '.join(map(str, widths(model)))}",
    )
    between = box("between stages", "stages.1.downsample.0", "stages.1.downsample.1")
    entry = box("first block of a stage", spatial)
    shortcut = box("shortcut:", f"{first}.shortcut.conv", f"{first}.shortcut.norm")
    return Drawn(
        network=(
            box("stem", "stem.conv", "stem.norm", "stem.act", "stem.pool"),
            Box("stages", stages),
            Box(between.title, between.lines or ("nothing",)),
            Box(entry.title, entry.lines + ((shortcut.title, *shortcut.lines) if shortcut.lines else ())),
            box("head", "head.norm", "head.fc"),
        ),
        block=(
            box("conv1", *(f"{block}.{layer}1" for layer in ("conv", "norm", "act"))),
            box("conv2", *(f"{block}.{layer}2" for layer in ("conv", "norm", "act"))),
            box("conv3", f"{block}.conv3", f"{block}.norm3", f"{block}.scale"),
            Box("+ shortcut", (found.get(f"{block}.act3", "no activation"),)),
        ),
    )


def _wrapped(line: str, longest: int = 22) -> list[str]:
    """The line, broken at its first comma if it is too long for a box."""
    return [line] if len(line) <= longest else line.replace(", ", ",\n", 1).split("\n")


def _diagram(drawn: Drawn, before: Drawn) -> str:
    """An SVG of two rows of boxes; boxes carry their own background, for light and dark pages alike."""
    top = _PADDING
    height = _row_height(drawn.network)
    body = _boxes(drawn.network, before.network, top, height)
    top += height + 2 * _GAP
    height = _row_height(drawn.block)
    body += _boxes(drawn.block, before.block, top, height)
    body.append(_shortcut(len(drawn.block), top, height))
    width = 2 * _PADDING + len(drawn.network) * (_BOX_WIDTH + _GAP) - _GAP
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {top + height + _PADDING}" '
            f'width="{width}">',
            f"<style>{_STYLE}</style>",
            *body,
            "</svg>\n",
        ]
    )


def _row_height(boxes: Sequence[Box]) -> int:
    return max(len(box.lines) + 1 for box in boxes) * _LINE_HEIGHT + _PADDING


def _boxes(boxes: Sequence[Box], before: Sequence[Box], top: int, height: int) -> list[str]:
    """A row of boxes with arrows between them."""
    parts = []
    for index, (box, old) in enumerate(zip(boxes, before, strict=True)):
        left = _PADDING + index * (_BOX_WIDTH + _GAP)
        changed = ' class="c"' if box != old else ""
        parts.append(f'<rect{changed} x="{left}" y="{top}" width="{_BOX_WIDTH}" height="{height}" rx="6"/>')
        for number, line in enumerate((box.title, *box.lines), start=1):
            kind = ' class="h"' if number == 1 else "" if line in old.lines else ' class="n"'
            at = f'x="{left + _PADDING}" y="{top + number * _LINE_HEIGHT}"'
            parts.append(f"<text{kind} {at}>{escape(line)}</text>")
        if index:
            middle = top + height // 2
            parts.append(f'<path d="M{left - _GAP} {middle}h{_GAP - 3}m-5 -4l5 4l-5 4"/>')
    return parts


def _shortcut(boxes: int, top: int, height: int) -> str:
    """The line over a row of boxes, from before the first into the last."""
    start = _PADDING + _BOX_WIDTH // 4
    end = _PADDING + (boxes - 1) * (_BOX_WIDTH + _GAP) + _BOX_WIDTH // 2
    rise = _GAP - 6
    return f'<path d="M{start} {top}v-{rise}H{end}v{rise - 3}m-4 -5l4 5l4 -5"/>'


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs"))
