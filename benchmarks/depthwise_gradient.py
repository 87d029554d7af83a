"""Time of a depthwise conv's weight gradient on a CPU: computed at once, and in pieces.

    python benchmarks/depthwise_gradient.py --output results/depthwise_gradient.csv

The method is described in `convnext_ablation/training/cpu_convs.py`. `whole`, `pieces` and a single piece of
three columns take turns in one process, on noise. Errors are the largest difference from the float64 result,
relative to the largest gradient. `ratio_lowest` and `ratio_highest` are the 95 % interval of the median ratio
over rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from common import MACHINE, Row, parsed, parser_of, ratio_columns, write_rows
from torch.nn.grad import conv2d_weight

from convnext_ablation.machine import keep_memory
from convnext_ablation.timing import interleaved
from convnext_ablation.training.cpu_convs import weight_gradient

FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
# batch, channels and side of the maps: in Models IV and V at 224 px, at full and quarter width
MAPS = (
    *((16, 96, 56), (16, 192, 28), (16, 384, 14), (16, 768, 7)),
    *((16, 24, 56), (16, 48, 28), (16, 96, 14), (16, 192, 7)),
    *((16, 24, 16), (16, 24, 8), (16, 96, 8), (16, 48, 4)),  # at 32 and 64 px
    *((64, 24, 8), (8, 24, 16), (8, 192, 7), (4, 96, 14), (2, 48, 28)),  # near the limit of _MIN_ELEMENTS
)
KERNELS = (5, 7, 9, 11)  # the paper's kernel sizes


def measurements(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields a measurement for each combination of threads, format, kernel and map."""
    for threads in options.threads:
        torch.set_num_threads(threads)
        for memory_format in FORMATS:
            for kernel in KERNELS[1:2] if options.short else KERNELS:
                for shape in MAPS if kernel == 7 else MAPS[:4]:
                    yield measured(threads, memory_format, kernel, *shape, options.rounds)


def measured(
    threads: int, memory_format: str, kernel: int, batch: int, channels: int, size: int, rounds: int
) -> dict[str, Any]:
    """Times all forms on maps of ``(batch, channels, size, size)``."""
    torch.manual_seed(0)
    x, gradient = (
        torch.randn(batch, channels, size, size).to(memory_format=FORMATS[memory_format]) for _ in range(2)
    )

    def columns(width: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        shape, padding = (channels, 1, kernel, width), (kernel // 2, width // 2)
        return conv2d_weight(x.to(dtype), shape, gradient.to(dtype), padding=padding, groups=channels)

    forms = {
        "whole": lambda: columns(kernel),
        "pieces": partial(weight_gradient, x, gradient, torch.empty(channels, 1, kernel, kernel)),
        "piece": lambda: columns(3),
    }
    true = columns(kernel, torch.float64)
    times = interleaved(forms, rounds, warm_up=2, at_least=0.01)
    ratio = times["pieces"].times_faster_than(times["whole"])
    return {
        "threads": threads,
        "memory_format": memory_format,
        "kernel": kernel,
        "batch": batch,
        "channels": channels,
        "size": size,
        "rounds": rounds,
        **{f"{name}_ms": f"{1e3 * times[name].median:.3f}" for name in forms},
        **ratio_columns(ratio, ("times_faster", "ratio_lowest", "ratio_highest"), digits=2),
        **{
            f"{name}_error": f"{((forms[name]() - true).abs().max() / true.abs().max()).item():.1e}"
            for name in ("whole", "pieces")
        },
        "machine": MACHINE,
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def main() -> None:
    """Measures, and writes each row at once."""
    parser = parser_of(__doc__)
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--rounds", type=int, default=15)
    options = parsed(parser, threads=[1], rounds=1)
    keep_memory()
    rows: list[Row] = []
    for row in measurements(options):
        rows.append(row)
        write_rows(options.output, rows)
        print(*list(row.values())[:-3], flush=True)


if __name__ == "__main__":
    main()
