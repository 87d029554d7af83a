"""Rows for people: a table on the screen and as Markdown, and a figure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convnext_ablation.bench.rows import Row, prefix_of
from convnext_ablation.bench.timing import INCONCLUSIVE
from convnext_ablation.console import table
from convnext_ablation.files import written_whole
from convnext_ablation.page import render

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["groups", "page", "plot", "screen"]

_HEADER = (
    *("model", "form", "dtype", "images/s", "ms [fastest, slowest]", "times baseline", "of peak"),
    *("ms from bandwidth", "MB [idle]", "s until ready", "difference", "M par.", "GMACs"),
)
# inches
_BAR, _ABOVE, _BELOW = 0.3, 0.65, 0.5
_LEFT, _BARS, _RIGHT = 3.6, 4.4, 2.9
_FILLS = {"plain": "0.93", "channels-last": "0.78", "optimized": "0.4", "compiled": "0.6"}
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: it can be searched, copied and restyled
    "svg.hashsalt": "convnext_ablation",  # the same rows give the same bytes
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def groups(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """The rows by what was measured together."""
    for _, together in groupby(rows, key=lambda row: row["configuration"]):
        yield list(together)


def screen(rows: Sequence[Row]) -> str:
    """A configuration's table for a terminal."""
    return "\n".join([_title(rows[0]), _machine_line(rows), _table(rows), *_errors(rows)])


def page(rows: Sequence[Row]) -> str:
    """All configurations as Markdown."""
    tables = [
        {
            "title": _title(together[0]),
            "machine": _machine_line(together),
            "table": _table(together, markdown=True),
            "errors": _errors(together),
        }
        for together in groups(rows)
    ]
    return render("bench.md", groups=tables, inconclusive=INCONCLUSIVE)


def _title(row: Row) -> str:
    prefix = prefix_of(row["mode"])
    return (
        f"{row['mode']}, batch {row[prefix + 'batch_size']} at {row[prefix + 'img_size']}, "
        f"{row['device']}, {row['threads']} threads, {row['allocator']} allocator"
    )


def _machine_line(rows: Sequence[Row]) -> str:
    """What was measured on, and what it does at best."""
    row = rows[0]
    peaks = {one["dtype"]: one["peak_gflops"] for one in rows if one["peak_gflops"]}
    told = "".join(f", {dtype} peak {float(peak):,.0f} GFLOP/s" for dtype, peak in peaks.items())
    copy = f", copies {row['bandwidth_gb_per_sec']} GB/s" if row["bandwidth_gb_per_sec"] else ""
    versions = ", ".join(f"{name} {row[name]}" for name in ("torch", "timm", "convnext_ablation"))
    return f"{row['processor']}{told}{copy}; {versions}; {row['rounds']} rounds"


def _ratio(row: Row) -> str:
    """The ratio with its interval, that it is inconclusive, or nothing."""
    if f"{row['model']}:{row['form']}:{row['dtype']}" == row["baseline"]:
        return "baseline"
    if not row["ratio"][:1].isdigit():
        return row["ratio"] and INCONCLUSIVE
    middle, lowest, highest = (float(row[name]) for name in ("ratio", "ratio_lowest", "ratio_highest"))
    return f"{middle:.2f} [{lowest:.2f}, {highest:.2f}]"


def _table(rows: Sequence[Row], markdown: bool = False) -> str:
    """The table without the columns in which nothing stands."""
    cells = [_cells(row) for row in rows]
    shown = [place for place in range(len(_HEADER)) if any(row[place] for row in cells)]
    return table(
        [_HEADER[place] for place in shown],
        [[row[place] or "–" for place in shown] for row in cells],
        words=(0, 1, 2),
        markdown=markdown,
    )


def _cells(row: Row) -> tuple[str, ...]:
    prefix, failed = prefix_of(row["mode"]), bool(row["error"])

    def number(column: str, pattern: str, factor: float = 1.0) -> str:
        return format(factor * float(row[column]), pattern) if row[column] else ""

    step = [number(name, ".4g") for name in (f"{prefix}step_time", "step_time_lowest", "step_time_highest")]
    memory = number("peak_memory_mb", ".0f")
    return (
        row["model"],
        row["form"],
        row["dtype"],
        "failed" if failed else number(f"{prefix}samples_per_sec", ",.1f"),
        "" if failed else f"{step[0]} [{step[1]}, {step[2]}]",
        _ratio(row),
        number("share_of_peak", ".0f", 100) + (" %" if row["share_of_peak"] else ""),
        number("bandwidth_step_time", ".3g"),
        f"{memory} [{number('idle_memory_mb', '.0f')}]" if memory else "",
        number("preparation_sec", ".1f"),
        row["difference"],
        row["param_count"],
        row["infer_gmacs"],
    )


def _errors(rows: Sequence[Row]) -> list[str]:
    return [f"{row['model']} {row['form']} {row['dtype']}: {row['error']}" for row in rows if row["error"]]


def plot(rows: Sequence[Row], path: Path) -> None:
    """Draws images a second of each contestant into an SVG file, a panel for each configuration.

    Raises:
        ImportError: matplotlib is missing.
    """
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = _draw(list(groups(rows)))
        with written_whole(path) as temporary:
            figure.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})


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
        left = 0.1 / width
        figure.text(left, (top - 0.22) / height, _title(panel[0]), fontweight="bold", va="center")
        figure.text(left, (top - 0.43) / height, _machine_line(panel), fontsize=7, color="0.3", va="center")
        top -= needed
    return figure


def _draw_panel(axes: Axes, panel: Sequence[Row]) -> None:
    for place, row in enumerate(panel):
        label = "failed"
        if not row["error"]:
            prefix = prefix_of(row["mode"])
            batch = float(row[prefix + "batch_size"])
            speed = float(row[prefix + "samples_per_sec"])
            slowest, fastest = (
                1e3 * batch / float(row[f"step_time_{end}"]) if float(row[f"step_time_{end}"]) else speed
                for end in ("highest", "lowest")
            )
            axes.barh(place, speed, 0.65, color=_FILLS[row["form"]], edgecolor="0.25", linewidth=0.8)
            whiskers = [[max(0.0, speed - slowest)], [max(0.0, fastest - speed)]]
            axes.errorbar(speed, place, xerr=whiskers, color="black", capsize=3, linewidth=1.1)
            label = f"{speed:,.1f}   {_ratio(row)}"
        axes.text(1.02, place, label, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    names = [f"{row['model']}, {row['form']}, {row['dtype']}" for row in panel]
    axes.set_yticks(range(len(panel)), names, fontsize=8)
    axes.set_ylim(len(panel) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color="0.85", linewidth=0.6)
    axes.set_xlabel("images a second (median; whiskers: slowest and fastest round)", fontsize=8)
