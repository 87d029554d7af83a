"""Time of a training step of several seeds of one small network: singly, or together in one process.

    python benchmarks/seeds_at_once.py --output results/seeds_at_once.csv

A step is that of the recipes `characters` (32 px, batches of 32) or `typefaces_64` (64 px, batches of 16):
forward, loss with label smoothing, backward, clipping of each seed's gradients and AdamW, in float32. Each
seed has images of its own. Times are of one step of one seed.

Forms: `singly` is one seed a process. `vmap` has weights stacked by `torch.func`. `grouped` is one network in
which the seeds' channels lie side by side, so that a convolution has groups for each seed. `compiled` is
torch.compile of it. On a CPU, each is timed in as many processes of one thread as there are cores, as a study
runs them, and `grouped` in one process with all cores as well. CPU time (`cpu_ms`) is less sensitive to other
programs.

First, each form takes some steps beside its seeds trained singly. In float64 their weights must be the
same to 1e-6. In float32 losses are compared: where a BatchNorm follows, a bias has a gradient of rounding
errors alone, and AdamW moves it by their sign.
"""

from __future__ import annotations

import copy
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import timm
import torch
from common import MACHINE, VERSIONS, Row, parsed, parser_of, ratio_columns, time_columns, write_rows
from timm.layers import LayerNorm2d
from timm.optim import create_optimizer_v2
from torch import nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import cross_entropy, layer_norm

import convnext_ablation.models.zoo  # noqa: F401  registers the networks
from convnext_ablation.machine import available_cores, end_with_parent, keep_memory
from convnext_ablation.timing import Times, interleaved
from convnext_ablation.training.cpu_convs import make_depthwise_fast

NETWORKS = [f"model_{stage}_atto" for stage in ("i", "ii", "iii", "iv", "v")]
BATCHES = {32: 32, 64: 16}  # images of a batch, by their side
CLASSES = 20
ADAMW = {"opt": "adamw", "lr": 4e-3, "weight_decay": 0.05, "fused": True}
CLIP, SMOOTHING = 1.0, 0.1
LARGEST_DIFFERENCE = 1e-6  # of weights in float64


class Form(NamedTuple):
    """How seeds are trained: `seeds` in each of `processes`, with `threads` each."""

    name: str
    seeds: int = 1
    processes: int = 1
    threads: int = 1


class Singly:
    """Networks trained one after another, as `train.py` trains each."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.models = models
        self.optimizers = [create_optimizer_v2(model, **ADAMW) for model in models]

    def step(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Takes a step of each seed.

        Args:
            images: ``(seeds, B, C, H, W)``.
            targets: ``(seeds, B)``.

        Returns:
            The losses before it, ``(seeds,)``.
        """
        losses = []
        for model, optimizer, x, y in zip(self.models, self.optimizers, images, targets, strict=True):
            x = x.contiguous(memory_format=torch.channels_last)
            losses.append(cross_entropy(model(x), y, label_smoothing=SMOOTHING))
            losses[-1].backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad()
        return torch.stack(losses).detach()

    def states(self) -> list[Mapping[str, torch.Tensor]]:
        """The weights and statistics of each seed."""
        return [model.state_dict() for model in self.models]


class Vmap:
    """Networks trained together, with weights stacked along a new first dimension."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        self.seeds = len(models)
        self.parameters, self.buffers = stack_module_state(list(models))
        self.network = copy.deepcopy(models[0]).to("meta")
        sizes = {name: parameter.ndim - 1 for name, parameter in self.parameters.items()}
        # as timm does, no decay of biases and norms
        decayed = [self.parameters[name] for name, ndim in sizes.items() if ndim > 1]
        others = [self.parameters[name] for name, ndim in sizes.items() if ndim <= 1]
        groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = create_optimizer_v2(groups, **ADAMW)
        self.losses = vmap(self._loss)

    def _loss(
        self, parameters: dict[str, Any], buffers: dict[str, Any], x: torch.Tensor, y: torch.Tensor
    ) -> torch.Tensor:
        outputs = functional_call(self.network, (parameters, buffers), (x,))
        return cross_entropy(outputs, y, label_smoothing=SMOOTHING)

    def step(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """As `Singly.step`."""
        losses = self.losses(self.parameters, self.buffers, images, targets)
        losses.sum().backward()
        clip(list(self.parameters.values()), self.seeds)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return losses.detach()

    def states(self) -> list[Mapping[str, torch.Tensor]]:
        """As `Singly.states`."""
        stacked = {**self.parameters, **self.buffers}
        return [{name: value[seed] for name, value in stacked.items()} for seed in range(self.seeds)]


class Grouped:
    """Networks trained together as one, in which the channels of all seeds lie side by side."""

    def __init__(self, models: Sequence[nn.Module], compiled: bool = False) -> None:
        self.seeds = len(models)
        self.model = side_by_side(models).to(memory_format=torch.channels_last)
        if next(self.model.parameters()).device.type == "cpu":
            make_depthwise_fast(self.model)
        self.optimizer = create_optimizer_v2(self.model, **ADAMW)
        self.run: Callable[..., torch.Tensor] = torch.compile(self.model) if compiled else self.model

    def step(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """As `Singly.step`."""
        x = images.transpose(0, 1).flatten(1, 2)  # (seeds, B, C, H, W) -> (B, seeds * C, H, W)
        outputs = self.run(x.contiguous(memory_format=torch.channels_last))  # (B, seeds, classes)
        losses = cross_entropy(
            outputs.transpose(1, 2), targets.T, label_smoothing=SMOOTHING, reduction="none"
        ).mean(0)
        losses.sum().backward()
        clip(list(self.model.parameters()), self.seeds)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return losses.detach()

    def states(self) -> list[Mapping[str, torch.Tensor]]:
        """As `Singly.states`."""
        whole = self.model.state_dict()
        return [
            {name: value.chunk(self.seeds)[seed] if value.ndim else value for name, value in whole.items()}
            for seed in range(self.seeds)
        ]


def side_by_side(models: Sequence[nn.Module]) -> nn.Module:
    """One network for all seeds, ``(B, seeds * C, H, W) -> (B, seeds, classes)``.

    Each parameter and buffer is that of the seeds, one after another along the first dimension.
    """
    seeds, network = len(models), copy.deepcopy(models[0])
    states = [model.state_dict() for model in models]
    for name, module in list(network.named_modules()):
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for key, value in own:
            if value.ndim:
                whole = torch.cat([state[f"{name}.{key}"] for state in states])
                setattr(module, key, nn.Parameter(whole) if isinstance(value, nn.Parameter) else whole)
        if isinstance(module, nn.Conv2d):
            module.groups *= seeds
            module.in_channels *= seeds
            module.out_channels *= seeds
        if type(module) in _GROUPED:
            module.seeds = seeds
            module.__class__ = _GROUPED[type(module)]
    return network


class _GroupedNorm(LayerNorm2d):
    """LayerNorm over the channels of each seed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, seeds * C, H, W)``, the same."""
        x = x.permute(0, 2, 3, 1).unflatten(3, (self.seeds, -1))
        x = layer_norm(x, x.shape[-1:], None, None, self.eps).flatten(3)
        return (x * self.weight + self.bias).permute(0, 3, 1, 2)


class _GroupedLinear(nn.Linear):
    """A linear layer of each seed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, seeds * C) -> (B, seeds, classes)``."""
        x = x.unflatten(1, (self.seeds, -1)).transpose(0, 1)
        weight, bias = self.weight.unflatten(0, (self.seeds, -1)), self.bias.unflatten(0, (self.seeds, 1, -1))
        return torch.baddbmm(bias, x, weight.transpose(1, 2)).transpose(0, 1)


_GROUPED: dict[type, type] = {LayerNorm2d: _GroupedNorm, nn.Linear: _GroupedLinear}


def clip(parameters: Sequence[torch.Tensor], seeds: int) -> None:
    """Clips the norm of each seed's gradients, whose seeds follow each other along the first dimension."""
    gradients = [p.grad.unflatten(0, (seeds, -1)) for p in parameters if p.grad is not None]
    norms = [torch.linalg.vector_norm(each, dim=tuple(range(1, each.ndim))) for each in gradients]
    factors = (CLIP / (torch.linalg.vector_norm(torch.stack(norms), dim=0) + 1e-6)).clamp(max=1.0)
    for each in gradients:
        each.mul_(factors.view(-1, *[1] * (each.ndim - 1)))


WAYS: dict[str, Callable[[Sequence[nn.Module]], Any]] = {
    "singly": Singly,
    "vmap": Vmap,
    "grouped": Grouped,
    "compiled": lambda models: Grouped(models, compiled=True),
}


def networks(name: str, seeds: int, device: str, dtype: torch.dtype = torch.float32) -> list[nn.Module]:
    """Networks of seeds 0, 1, ..., in training mode."""
    models = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = timm.create_model(name, num_classes=CLASSES, in_chans=1)
        models.append(model.to(device, dtype, memory_format=torch.channels_last).train())
    return models


def batch(size: int, seeds: int, device: str, dtype: torch.dtype = torch.float32) -> Sequence[torch.Tensor]:
    """Noise and random classes for each seed."""
    torch.manual_seed(0)
    images = torch.randn(seeds, BATCHES[size], 1, size, size, dtype=dtype)
    return images.to(device), torch.randint(0, CLASSES, (seeds, BATCHES[size])).to(device)


def differences(
    way: str, network: str, size: int, device: str, seeds: int = 2, steps: int = 3
) -> list[float]:
    """The largest differences from seeds trained singly: of weights in float64, and of losses in float32.

    Weights and statistics are relative to the largest of their tensor, which counts as 1e-2 at least.
    """
    found = []
    for dtype in (torch.float64, torch.float32):
        both = [WAYS[name](networks(network, seeds, device, dtype)) for name in ("singly", way)]
        images, targets = batch(size, seeds, device, dtype)
        losses = [torch.stack([each.step(images, targets) for _ in range(steps)]) for each in both]
        if dtype == torch.float32:
            found.append(float((losses[0] - losses[1]).abs().max()))
            continue
        found.append(
            max(
                float((own - stacked[name]).detach().abs().max() / own.abs().max().clamp(min=1e-2))
                for single, stacked in zip(*(each.states() for each in both), strict=True)
                for name, own in single.items()
            )
        )
    return found


def serve(connection: Connection, network: str, size: int, device: str, form: Form) -> None:
    """Takes as many steps as it is asked for, and sends the CPU seconds that they took."""
    end_with_parent()
    keep_memory()
    torch.set_num_threads(form.threads)
    models = networks(network, form.seeds, device)
    if form.name == "singly" and device == "cpu":
        for model in models:
            make_depthwise_fast(model)
    contestant, (images, targets) = WAYS[form.name](models), batch(size, form.seeds, device)
    connection.send(0.0)
    while steps := connection.recv():
        start = time.process_time()
        for _ in range(steps):
            contestant.step(images, targets)
        if device != "cpu":
            torch.cuda.synchronize()
        connection.send(time.process_time() - start)


class Contestant:
    """The processes of a form, which take steps at once."""

    def __init__(self, network: str, size: int, device: str, form: Form, seed_steps: int) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["timm"])  # imported once, not in each process
        self.steps = max(1, seed_steps // (form.seeds * form.processes))
        self.cpu_seconds: list[float] = []  # of each call, over all processes
        self.connections, self.processes = [], []
        for _ in range(form.processes):
            ours, theirs = context.Pipe()
            arguments = theirs, network, size, device, form
            self.processes.append(context.Process(target=serve, args=arguments, daemon=True))
            self.processes[-1].start()
            theirs.close()
            self.connections.append(ours)
        for connection in self.connections:
            connection.recv()

    def __call__(self) -> None:
        """Takes the steps."""
        for connection in self.connections:
            connection.send(self.steps)
        self.cpu_seconds.append(sum(connection.recv() for connection in self.connections))

    def end(self) -> None:
        """Ends the processes."""
        for process in self.processes:
            process.terminate()
            process.join()


def forms_of(device: str, seeds: Sequence[int], ways: Sequence[str]) -> list[Form]:
    """The forms to compare, `singly` first."""
    cores = available_cores() if device == "cpu" else 1
    forms = [Form("singly", 1, cores), *(Form(way, count, cores) for way in ways for count in seeds)]
    if cores > 1 and "grouped" in ways:
        forms += [Form("grouped", count, 1, cores) for count in seeds]
    return forms


def measure(
    network: str, size: int, device: str, forms: Sequence[Form], rounds: int, seed_steps: int = 8
) -> list[Row]:
    """Times the forms in turn; returns a row for each, relative to the first."""
    with ExitStack() as stack:
        contestants = {}
        for form in forms:
            contestants[str(form)] = Contestant(network, size, device, form, seed_steps)
            stack.callback(contestants[str(form)].end)
        taken = interleaved(contestants, rounds, warm_up=1)
    times, cpu_ms = {}, {}  # of one step of one seed
    for form in forms:
        contestant = contestants[str(form)]
        steps = contestant.steps * form.seeds * form.processes
        times[form] = Times(tuple(seconds / steps for seconds in taken[str(form)].seconds))
        cpu_ms[form] = 1e3 * statistics.median(contestant.cpu_seconds[-rounds:]) / steps
    ratio = ("times_faster", "ratio_lowest", "ratio_highest")
    return [
        {
            "network": network,
            "size": size,
            "batch": BATCHES[size],
            **form._asdict(),
            **time_columns(times[form], 2),
            **ratio_columns(times[form].times_faster_than(times[forms[0]]), ratio),
            "cpu_ms": f"{cpu_ms[form]:.2f}",
            "rounds": rounds,
            "device": torch.cuda.get_device_name() if device != "cpu" else "cpu",
            "machine": MACHINE,
            **VERSIONS,
            "date": time.strftime("%Y-%m-%d"),
            "command": " ".join(["benchmarks/seeds_at_once.py", *sys.argv[1:]]),
        }
        for form in forms
    ]


def main() -> None:
    """Checks and measures each network, and writes its rows at once."""
    parser = parser_of(__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS)
    parser.add_argument("--sizes", nargs="+", type=int, choices=BATCHES, default=list(BATCHES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[4], help="seeds in a process")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS)[1:], default=["vmap", "grouped"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seed-steps", type=int, default=8, help="steps of a measurement, over all seeds")
    options = parsed(parser, networks=NETWORKS[-1:], sizes=[32], seeds=[2], rounds=1, seed_steps=4)
    forms = forms_of(options.device, options.seeds, options.ways)
    rows: list[Row] = []
    for network in options.networks:
        for way in options.ways:
            weights, losses = differences(way, network, options.sizes[0], options.device)
            print(f"{network}, {way}: weights {weights:.1e} (float64), losses {losses:.1e} (float32)")
            if weights > LARGEST_DIFFERENCE:
                sys.exit(f"{network}: seeds trained together ({way}) are not those trained singly")
        for size in options.sizes:
            for row in measure(network, size, options.device, forms, options.rounds, options.seed_steps):
                print(*list(row.values())[:14], flush=True)
                rows.append(row)
            write_rows(options.output, rows)


if __name__ == "__main__":
    main()
