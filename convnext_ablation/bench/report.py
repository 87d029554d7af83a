"""Rows for people: a table on the screen and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from convnext_ablation.bench.configuration import INFERENCE
from convnext_ablation.bench.results import Row
from convnext_ablation.bench.timing import CANNOT_BE_TOLD
from convnext_ablation.cli.models import aligned, markdown

__all__ = ["groups", "machine_line", "page", "prefix_of", "ratio_text", "screen", "title_of"]

_HOW_TO_READ = f"""\
## How to read this

- Contestants of a table were measured in turn in one process, with the same allocator setting. Times
  are the median of the rounds and, in brackets, the fastest and the slowest round.
- A ratio is how many times faster than the baseline a network is: the median of the rounds' ratios,
  with its 95 % interval, which up to eight rounds is the lowest and the highest. Where the interval is
  wider than the ratio is from 1, it isn't printed: "{CANNOT_BE_TOLD}".
- Share of peak: two operations a multiply-accumulate, against the fastest of several large products of
  matrices and 1x1 convolutions, which were measured in the same rounds. A training step counts as three
  times the forward pass.
- From bandwidth: the time to read the weights once and, for each convolution and matrix product, what
  goes into and comes out of it, as fast as a large copy runs here. It is a bound for what doesn't fit
  into caches.
- Memory: the most that a process of its own held while it ran (on a GPU, of the GPU), not while it
  compiled; in brackets, what the process held before there was a network.
- Ready after: putting the network into its form, with its first step.
- Difference: the largest from the plain network's output in float32, in parts of its largest output,
  with random weights that let every layer count.
"""


def groups(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """The rows by what was measured together."""
    for _, together in groupby(rows, key=lambda row: row["configuration"]):
        yield list(together)


def title_of(row: Row) -> str:
    """What a row's configuration is called."""
    prefix = prefix_of(row)
    return (
        f"{row['mode']}, batch {row[prefix + 'batch_size']} at {row[prefix + 'img_size']}, "
        f"{row['device']}, {row['threads']} threads, {row['allocator']} allocator"
    )


def machine_line(rows: Sequence[Row]) -> str:
    """What was measured on, and what it does at best."""
    row = rows[0]
    peaks = {one["dtype"]: one["peak_gflops"] for one in rows if one["peak_gflops"]}
    told = "".join(f", {dtype} peak {float(peak):,.0f} GFLOP/s" for dtype, peak in peaks.items())
    copy = f", copies {row['bandwidth_gb_per_sec']} GB/s" if row["bandwidth_gb_per_sec"] else ""
    versions = ", ".join(f"{name} {row[name]}" for name in ("torch", "timm", "convnext_ablation"))
    return f"{row['processor']}{told}{copy}; {versions}; {row['rounds']} rounds"


def ratio_text(row: Row) -> str:
    """The ratio with its range, that it can't be told, or nothing."""
    if f"{row['model']}:{row['form']}:{row['dtype']}" == row["baseline"]:
        return "baseline"
    if row["ratio"] in ("", CANNOT_BE_TOLD):
        return row["ratio"]
    middle, lowest, highest = (float(row[name]) for name in ("ratio", "ratio_lowest", "ratio_highest"))
    return f"{middle:.2f} [{lowest:.2f}, {highest:.2f}]"


def screen(rows: Sequence[Row]) -> str:
    """A configuration's table for a terminal."""
    return "\n".join([title_of(rows[0]), machine_line(rows), *aligned(_table(rows)), *_errors(rows)])


def page(rows: Sequence[Row]) -> str:
    """All configurations as Markdown."""
    parts = ["# Speed"]
    for together in groups(rows):
        header, *body = _table(together)
        parts += [f"## {title_of(together[0])}", machine_line(together), "\n".join(markdown(header, body))]
        parts += ["\n".join(f"- {line}" for line in _errors(together))] if _errors(together) else []
    return "\n\n".join([*parts, _HOW_TO_READ])


def _table(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Heading and rows; columns in which nothing stands are left out."""
    head = (
        *("model", "form", "dtype", "images/s", "ms [fastest, slowest]", "times baseline", "of peak"),
        *("ms from bandwidth", "MB [idle]", "s until ready", "difference", "M par.", "GMACs"),
    )
    table = [head, *(_cells(row) for row in rows)]
    filled = [any(cells[place] for cells in table[1:]) for place in range(len(head))]
    return [tuple(cell or "–" for cell, shown in zip(cells, filled, strict=True) if shown) for cells in table]


def _cells(row: Row) -> tuple[str, ...]:
    prefix = prefix_of(row)
    return (
        row["model"],
        row["form"],
        row["dtype"],
        "failed" if row["error"] else f"{float(row[prefix + 'samples_per_sec']):,.1f}",
        "" if row["error"] else _ranged(row, prefix + "step_time", "step_time_lowest", "step_time_highest"),
        ratio_text(row),
        f"{100 * float(row['share_of_peak']):.0f} %" if row["share_of_peak"] else "",
        f"{float(row['bandwidth_step_time']):.3g}" if row["bandwidth_step_time"] else "",
        f"{float(row['peak_memory_mb']):.0f} [{float(row['idle_memory_mb']):.0f}]"
        if row["peak_memory_mb"]
        else "",
        f"{float(row['preparation_sec']):.1f}" if row["preparation_sec"] else "",
        row["difference"],
        row["param_count"],
        row["infer_gmacs"],
    )


def _ranged(row: Row, *names: str) -> str:
    middle, lowest, highest = (f"{float(row[name]):.4g}" for name in names)
    return f"{middle} [{lowest}, {highest}]"


def _errors(rows: Sequence[Row]) -> list[str]:
    return [f"{row['model']} {row['form']} {row['dtype']}: {row['error']}" for row in rows if row["error"]]


def prefix_of(row: Row) -> str:
    """What timm's columns of a row begin with."""
    return "infer_" if row["mode"] == INFERENCE else "train_"
