"""Training stability of every network: a hundred steps from scratch at the roadmap's learning rate.

    python benchmarks/stability.py --output results/stability/runs.csv

The roadmap's recipe (Liu et al., 2022, appendix A.1): AdamW, learning rate 4e-3 at a batch of 4096, weight
decay 0.05, linear warm-up for 20 of 300 epochs. Here the rate is 4e-3 at a batch of a few images, which is
harder: linear scaling would give 8e-6. Warm-up takes the same share of the steps; then the rate is constant.
There is no clipping, stochastic depth, mixup or smoothing. The task is to classify four typefaces of the
built-in set, drawn at the network's input size; no image is seen twice.

The networks are all distinct named ones at quarter width, and random combinations of components. Each run is
a row of the CSV file; rerunning the command adds the missing ones.
"""

from __future__ import annotations

import io
import math
import os
import random
import time
from fnmatch import fnmatch
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from common import VERSIONS, in_processes, missing, parsed, parser_of, read_rows, write_rows
from PIL import Image
from timm.optim import create_optimizer_v2
from torch import nn
from torch.nn.functional import cross_entropy

from convnext_ablation.data.drawn import Typefaces
from convnext_ablation.machine import processor_name
from convnext_ablation.models.components import (
    DOWNSAMPLINGS,
    FAMILIES,
    FREE,
    RESNET_50,
    SWITCHES,
    Components,
)
from convnext_ablation.models.network import ResNetToConvNeXt

# The network that diverges in the paper. No switch builds it; it is a reference for diverging runs.
WITHOUT_NORMS = "convnext_tiny_with_bare_downsampling"
FACES = ("DejaVuSans-Bold", "DejaVuSerif-Italic", "STIXGeneral", "cmtt10")
WARMUP = 20 / 300  # share of the steps
WEIGHT_DECAY = 0.05
LAST = 10  # steps averaged for the final loss


class Run(NamedTuple):
    """The parameters of a run; `switches` are a random combination's differences from ResNet-50."""

    model: str
    switches: str
    size: int
    batch: int
    lr: float
    steps: int
    seed: int


class Outcome(NamedTuple):
    """The results of a run; `finite_steps` is below its steps if loss or gradients became non-finite."""

    first_loss: float
    last_loss: float
    highest_loss: float
    highest_gradient_norm: float
    finite_steps: int
    seconds: float


def main() -> None:
    """Makes the runs that are missing from the CSV file."""
    parser = parser_of(__doc__)
    parser.add_argument("--models", default="*", help="pattern of the named networks, without _atto")
    parser.add_argument("--random", type=int, default=0, help="combinations to draw besides")
    parser.add_argument("--sizes", type=int, nargs="+", default=[112, 224])
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 4], help="one a size")
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parsed(parser, models="model_v", random=1, sizes=[32], batches=[8], steps=10, jobs=1)
    networks = [(name, "") for name in _named(options.models)]
    networks += [(FREE, switches) for switches in _drawn(options.random)]
    runs = [
        Run(model, switches, size, batch, options.lr, options.steps, options.seed)
        for size, batch in zip(options.sizes, options.batches, strict=True)
        for model, switches in networks
    ]
    rows = read_rows(options.output)
    left = missing(runs, rows)
    for number, outcome in in_processes(train, [(run,) for run in left], options.jobs):
        found = {name: f"{value:.4g}" for name, value in outcome._asdict().items()}
        rows.append({**left[number]._asdict(), **found, **VERSIONS, "processor": processor_name()})
        write_rows(options.output, rows)
        print(*rows[-1].values(), flush=True)


def _named(pattern: str) -> list[str]:
    """Matching names; a network with several names is listed under the first."""
    first: dict[Components, str] = {}
    for variants in FAMILIES.values():
        for name, variant in variants.items():
            first.setdefault(variant.components, name)
    return [name for name in (*first.values(), WITHOUT_NORMS) if fnmatch(name, pattern)]


def _drawn(count: int) -> list[str]:
    """Random combinations of components, always the same, as ``name=value name=value``."""
    draw = random.Random(0)
    values: dict[str, tuple[Any, ...]] = {"kernel_size": (3, 5, 7), "downsampling": DOWNSAMPLINGS}
    texts = []
    for _ in range(count):
        drawn = RESNET_50.with_(**{name: draw.choice(values.get(name, (False, True))) for name in SWITCHES})
        changes = drawn.changed_from(RESNET_50).items()
        texts.append(" ".join(f"{name}={value}" for name, (_, value) in changes))
    return texts


def _components(switches: str) -> dict[str, Any]:
    """Converts the format of `_drawn` to model kwargs."""
    pairs = dict(switch.split("=") for switch in switches.split())
    return {
        name: value if name == "downsampling" else int(value) if name == "kernel_size" else value == "True"
        for name, value in pairs.items()
    }


def train(run: Run) -> Outcome:
    """Trains one network until its steps are done, or loss or gradients become non-finite."""
    torch.set_num_threads(1)
    torch.manual_seed(run.seed)
    start = time.process_time()
    model = _network(run).to(memory_format=torch.channels_last).train()
    optimizer = create_optimizer_v2(model, opt="adamw", lr=run.lr, weight_decay=WEIGHT_DECAY)
    images, labels = _task(run.size, run.batch * run.steps, run.seed)
    losses: list[float] = []
    norms: list[float] = []
    for step in range(run.steps):
        for group in optimizer.param_groups:
            group["lr"] = run.lr * min(1.0, (step + 1) / (WARMUP * run.steps))
        batch = slice(step * run.batch, (step + 1) * run.batch)
        loss = cross_entropy(model(images[batch].float().expand(-1, 3, -1, -1) / 128 - 1), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), math.inf)
        if not math.isfinite(loss.item() + norm.item()):
            break
        losses.append(loss.item())
        norms.append(norm.item())
        optimizer.step()
    return Outcome(
        first_loss=losses[0] if losses else math.nan,
        last_loss=float(np.mean(losses[-LAST:])) if len(losses) == run.steps else math.nan,
        highest_loss=max(losses, default=math.nan),
        highest_gradient_norm=max(norms, default=math.nan),
        finite_steps=len(losses),
        seconds=time.process_time() - start,
    )


def _network(run: Run) -> ResNetToConvNeXt:
    if run.model != WITHOUT_NORMS:
        return timm.create_model(f"{run.model}_atto", num_classes=len(FACES), **_components(run.switches))
    model = timm.create_model("model_v_atto", num_classes=len(FACES))
    model.stem.norm, model.head.norm = nn.Identity(), nn.Identity()
    for stage in model.stages[1:]:
        stage.downsample[0] = nn.Identity()
    return model


@cache  # a process trains many networks on the same images
def _task(size: int, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """``(count, 1, size, size)`` grey levels and ``(count,)`` labels."""
    typefaces = Typefaces(size=size)
    labels = np.random.default_rng(seed).permutation(np.arange(count) % len(FACES))
    drawn = []
    for index, label in enumerate(labels):
        typefaces.encode(("train", FACES[label], index), file := io.BytesIO())
        drawn.append(np.asarray(Image.open(file)))
    return torch.from_numpy(np.stack(drawn)).unsqueeze(1), torch.from_numpy(labels)


if __name__ == "__main__":
    main()
