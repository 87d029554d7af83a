"""The figure: images a second of each contestant, a panel for each configuration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from convnext_ablation.bench.report import groups, machine_line, prefix_of, ratio_text, title_of
from convnext_ablation.bench.results import Row
from convnext_ablation.files import written_whole
from convnext_ablation.study.report.roadmap import SETTINGS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot"]

# inches
_BAR, _ABOVE, _BELOW = 0.3, 0.65, 0.5
_LEFT, _BARS, _RIGHT = 3.6, 4.4, 2.9
_FILLS = {"plain": "0.93", "channels-last": "0.78", "optimized": "0.4", "compiled": "0.6"}


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draws rows into a file whose suffix says the format, ``.svg`` or ``.png``.

    Raises:
        ImportError: matplotlib is missing.
    """
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)
        figure = _draw(list(groups(rows)))
        unwanted = {"svg": ["Date", "Creator"], "png": ["Software"]}[path.suffix[1:]]
        with written_whole(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], dpi=150, metadata=dict.fromkeys(unwanted))


def _draw(panels: Sequence[Sequence[Row]]) -> Figure:
    from matplotlib.figure import Figure

    heights = [_ABOVE + _BAR * len(panel) + _BELOW for panel in panels]
    width, height = _LEFT + _BARS + _RIGHT, sum(heights)
    figure = Figure(figsize=(width, height))
    top = height
    for panel, needed in zip(panels, heights, strict=True):
        bottom = top - needed + _BELOW
        place = (_LEFT / width, bottom / height, _BARS / width, _BAR * len(panel) / height)
        _draw_panel(figure.add_axes(place), panel)
        figure.text(0.1 / width, (top - 0.22) / height, title_of(panel[0]), fontweight="bold", va="center")
        figure.text(
            0.1 / width, (top - 0.43) / height, machine_line(panel), fontsize=7, color="0.3", va="center"
        )
        top -= needed
    return figure


def _draw_panel(axes: Axes, panel: Sequence[Row]) -> None:
    for place, row in enumerate(panel):
        prefix = prefix_of(row)
        label = "failed"
        if not row["error"]:
            batch = float(row[prefix + "batch_size"])
            speed = float(row[prefix + "samples_per_sec"])
            slowest, fastest = (
                1e3 * batch / float(row[f"step_time_{end}"]) if float(row[f"step_time_{end}"]) else speed
                for end in ("highest", "lowest")
            )
            axes.barh(place, speed, 0.65, color=_FILLS[row["form"]], edgecolor="0.25", linewidth=0.8)
            whiskers = [[max(0.0, speed - slowest)], [max(0.0, fastest - speed)]]
            axes.errorbar(speed, place, xerr=whiskers, color="black", capsize=3, linewidth=1.1)
            label = f"{speed:,.1f}   {ratio_text(row)}"
        axes.text(1.02, place, label, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    axes.set_yticks(
        range(len(panel)), [f"{row['model']}, {row['form']}, {row['dtype']}" for row in panel], fontsize=8
    )
    axes.set_ylim(len(panel) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color="0.85", linewidth=0.6)
    axes.set_xlabel("images a second (median; whiskers: slowest and fastest round)", fontsize=8)
