"""Time of a training step on a CPU, in timm's `train.py` and in ours, switch by switch.

    python benchmarks/training_step.py --output results/training_step.csv

A step is forward, loss with label smoothing, backward, clipping and AdamW, on one batch of noise. Each form
of it has its own process and allocator setting. The processes take turns, one step per round; the first one
rotates. Ratios are paired by round, against the step with default arguments, of timm's own network where it
exists (Models I and V). Shares of the peak are for float32, as `convnext-ablation bench` counts them. At 224
px, three forms are compared at a time, always including that baseline, because all together exceed 24 GB.

Forms: `timm` has the default arguments. `channels_last`, `fused` (optimizer) and `depthwise` (as in our
`train.py` on a CPU) add up. `bf16` is autocast on top of all three, with the loss in float32. `plain bf16` is
autocast on top of the first two, and `compile` is torch.compile of `depthwise`. `memory` is the allocator's
handling of freed memory: `returned` to the system (glibc's default), or `kept` by `keep_memory`.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from common import MACHINE, VERSIONS, Row, parsed, parser_of, ratio_columns, time_columns, write_rows
from timm.loss import LabelSmoothingCrossEntropy
from timm.models import model_parameters
from timm.optim import create_optimizer_v2
from timm.utils import dispatch_clip_grad

from convnext_ablation.bench.roofline import kernels, peaks_of
from convnext_ablation.machine import KEEP_MEMORY, end_with_parent, keep_memory
from convnext_ablation.models.cost import count_gmacs
from convnext_ablation.timing import Times, interleaved
from convnext_ablation.training.cpu_convs import make_depthwise_fast

TIMMS = {"model_i": "resnet50", "model_v": "convnext_tiny"}  # the same networks in timm


class Setting(NamedTuple):
    """Batch, threads, and the number of forms that fit into memory together."""

    batch: int
    channels: int
    size: int
    classes: int
    threads: int
    together: int


class Form(NamedTuple):
    """The form of a training step."""

    name: str
    kept: bool
    channels_last: bool = False
    fused: bool = False
    bf16: bool = False
    as_ours: bool = False
    compiled: bool = False


SETTINGS = {
    "224 px": (
        Setting(batch=16, channels=3, size=224, classes=1000, threads=2, together=3),
        ("model_i", "model_ii", "model_iii", "model_iv", "model_v"),
    ),
    "32 px": (
        Setting(batch=32, channels=1, size=32, classes=10, threads=1, together=8),
        ("model_i_atto", "model_ii_atto", "model_iii_atto", "model_iv_atto", "model_v_atto"),
    ),
}
FORMS = (
    Form("timm", kept=False),
    Form("timm", kept=True),
    Form("channels_last", kept=True, channels_last=True),
    Form("fused", kept=False, channels_last=True, fused=True),
    Form("fused", kept=True, channels_last=True, fused=True),
    Form("depthwise", kept=True, channels_last=True, fused=True, as_ours=True),
    Form("plain bf16", kept=True, channels_last=True, fused=True, bf16=True),
    Form("bf16", kept=True, channels_last=True, fused=True, bf16=True, as_ours=True),
)
# compiling takes a minute more
COMPILED = Form("compile", kept=True, channels_last=True, fused=True, as_ours=True, compiled=True)
NAMES = tuple(dict.fromkeys(form.name for form in (*FORMS[1:], COMPILED)))


class Step:
    """A training step of a network, repeated on the same batch."""

    def __init__(self, network: str, setting: Setting, form: Form) -> None:
        torch.manual_seed(0)
        model = timm.create_model(network, num_classes=setting.classes, in_chans=setting.channels)
        self.format = torch.channels_last if form.channels_last else torch.contiguous_format
        self.model = model.to(memory_format=self.format).train()
        if form.as_ours:
            make_depthwise_fast(model)
        self.run: Callable[..., torch.Tensor] = torch.compile(model) if form.compiled else model
        fused = {"fused": True} if form.fused else {}
        self.optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-4, weight_decay=0.05, **fused)
        self.images = torch.randn(setting.batch, setting.channels, setting.size, setting.size)
        self.targets = torch.randint(0, setting.classes, (setting.batch,))
        self.loss = LabelSmoothingCrossEntropy(0.1)
        self.bf16, self.as_ours = form.bf16, form.as_ours

    def __call__(self) -> float:
        """Makes a step; returns its loss."""
        images = self.images.contiguous(memory_format=self.format)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            outputs = self.run(images)
            loss = self.loss(outputs.float() if self.as_ours else outputs, self.targets)
        loss.backward()
        dispatch_clip_grad(model_parameters(self.model), 1.0, mode="norm")
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def serve(connection: Connection, network: str, setting: Setting, form: Form) -> None:
    """Makes a step on each request; finally sends page faults, peak memory and loss."""
    end_with_parent()
    if form.kept and not keep_memory():
        raise RuntimeError("memory can't be kept: no glibc, or MALLOC_... in the environment")
    torch.set_num_threads(setting.threads)
    step, loss, faults = Step(network, setting, form), 0.0, 0
    connection.send(None)
    while connection.recv():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        loss = step()
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        connection.send(None)
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    highest = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    connection.send({"page_faults": faults, "peak_mb": f"{highest / 1024:.0f}", "loss": f"{loss:.4f}"})


class Contestant:
    """A process that runs steps of one form."""

    def __init__(self, network: str, setting: Setting, form: Form) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, network, setting, form))
        self.process.start()
        theirs.close()
        self.connection.recv()

    def __call__(self) -> None:
        """Makes a step."""
        self.connection.send(True)
        self.connection.recv()

    def measured(self) -> Row:
        """Page faults and loss of the last step, and peak memory so far."""
        self.connection.send(False)
        return self.connection.recv()

    def end(self) -> None:
        """Ends the process."""
        self.process.terminate()
        self.process.join()


def measure(name: str, network: str, forms: Sequence[Form], options: Any) -> list[Row]:
    """Times the forms of one network; returns a row for each."""
    others = SETTINGS[name][0].together - 1
    rows: list[Row] = []
    for first in range(1, len(forms), others):
        race = _raced(name, network, [forms[0], *forms[first : first + others]], options)
        rows += race if first == 1 else race[1:]
    return rows


def _raced(name: str, network: str, forms: Sequence[Form], options: Any) -> list[Row]:
    """Times forms of one network in turn, relative to the first."""
    setting = SETTINGS[name][0]
    with ExitStack() as stack:
        entered = {}
        for form in forms:
            timms = TIMMS.get(network, network) if form.name == "timm" else network
            key = f"{form.name}, {'kept' if form.kept else 'returned'}"
            entered[key] = timms, form, Contestant(timms, setting, form)
            stack.callback(entered[key][2].end)
        contestants: dict[str, Callable[[], object]] = {key: each for key, (_, _, each) in entered.items()}
        torch.set_num_threads(setting.threads)
        machine = kernels("cpu", ["float32"])
        contestants |= machine
        times = interleaved(contestants, options.rounds, options.warm_up, options.at_least)
        default = times[next(iter(times))]
        peak = peaks_of({kernel: times[kernel] for kernel in machine})["float32"]
        gflop = step_gflop(network, setting)
        return [
            {
                "setting": name,
                "network": network,
                "model": model,
                "form": form.name,
                "memory": "kept" if form.kept else "returned",
                "batch": setting.batch,
                "threads": setting.threads,
                **_figures(times[key], default),
                "peak_gflops": f"{peak:.1f}",
                "share_of_peak": "" if form.bf16 else f"{gflop / times[key].median / peak:.3f}",
                **contestant.measured(),
                "machine": MACHINE,
                **VERSIONS,
                "date": time.strftime("%Y-%m-%d"),
                "command": " ".join(["benchmarks/training_step.py", *sys.argv[1:]]),
            }
            for key, (model, form, contestant) in entered.items()
        ]


def step_gflop(network: str, setting: Setting) -> float:
    """Billions of operations of a step's convolutions and matrix products: three forward passes."""
    with torch.device("meta"):
        model = timm.create_model(network, num_classes=setting.classes, in_chans=setting.channels)
    gmacs = count_gmacs(model, (setting.channels, setting.size, setting.size))
    return 3 * 2 * gmacs * setting.batch


def _figures(times: Times, default: Times) -> dict[str, Any]:
    return {
        "rounds": len(times.seconds),
        **time_columns(times),
        "default_ms": f"{1e3 * default.median:.1f}",
        **ratio_columns(times.times_faster_than(default), ("times_faster", "ratio_lowest", "ratio_highest")),
    }


def main() -> None:
    """Measures each network, and writes its rows at once."""
    parser = parser_of(__doc__)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--networks", nargs="+", help="some of the settings' networks only")
    parser.add_argument(
        "--forms", nargs="+", choices=NAMES, help="some of the forms only, besides the default"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--at-least", type=float, default=0.3, help="seconds of one measurement")
    small = {"settings": ["32 px"], "networks": ["model_v_atto"], "forms": ["depthwise", "bf16"]}
    options = parsed(parser, **small, rounds=1, warm_up=1, at_least=0.0)
    if any(name in os.environ for name in KEEP_MEMORY):
        parser.error(f"take {' and '.join(KEEP_MEMORY)} out of the environment")
    keep_memory()
    wanted = options.forms or [form.name for form in FORMS]
    rows: list[Row] = []
    for name in options.settings:
        for network in SETTINGS[name][1]:
            if options.networks and network not in options.networks:
                continue
            forms = [form for form in (*FORMS[1:], COMPILED) if form.name in wanted]
            measured = measure(name, network, (FORMS[0], *forms), options)
            for row in measured:
                print(*list(row.values())[:15], flush=True)
            rows += measured
            write_rows(options.output, rows)


if __name__ == "__main__":
    main()
