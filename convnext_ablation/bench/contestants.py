"""A contestant as something to call: a network in its form, with images that it is given; and its memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from timm.optim import create_optimizer_v2
from torch import nn

from convnext_ablation.bench.configuration import (
    CHANNELS_LAST,
    COMPILED,
    INFERENCE,
    OPTIMIZED,
    Configuration,
    Contestant,
)
from convnext_ablation.models import zoo  # noqa: F401  registers the networks

__all__ = ["Prepared", "peak_memory", "prepare", "reference"]

_CALIBRATION = 1 << 16  # pixels, enough for BatchNorm where a map of 32 pixels has shrunk to one
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_STEPS = 2  # whose memory is measured


class Prepared(NamedTuple):
    """A contestant that is ready."""

    step: Callable[[], object]  # runs it once: a batch forward, or a training step
    seconds: float  # what compiling or optimizing took, with the first step
    output: torch.Tensor | None  # of the first step in inference, float32 on the CPU


def prepare(contestant: Contestant, configuration: Configuration) -> Prepared:
    """Makes a contestant ready to be timed."""
    from torch.utils.benchmark import timer  # waits until a GPU has finished

    images = _images(configuration)
    make = _inference if configuration.mode == INFERENCE else _training
    model = _network(contestant.model, configuration)
    start = timer()
    step = make(model, images, contestant)
    output = step()
    seconds = timer() - start
    return Prepared(step, seconds, output.float().cpu() if isinstance(output, torch.Tensor) else None)


def reference(name: str, configuration: Configuration) -> torch.Tensor:
    """What a network puts out in its plain form and float32."""
    with torch.inference_mode():
        output: torch.Tensor = _network(name, configuration)(_images(configuration))
        return output.float().cpu()


def peak_memory(contestant: Contestant, configuration: Configuration) -> dict[str, float]:
    """Runs a contestant a few times, in a process that runs nothing else.

    Returns:
        Under ``peak`` the most bytes it held, under ``idle`` those that the process held before there was a
        network; on a GPU those of the GPU, as torch counts them. Nothing where the system doesn't tell.
    """
    on_gpu = torch.device(configuration.device).type == "cuda"
    if not on_gpu and not _CLEAR.exists():
        return {}
    idle = 0.0 if on_gpu else _peak_while(lambda: None)
    step = prepare(contestant, configuration).step
    if not on_gpu:
        return {"peak": _peak_while(step), "idle": idle}
    torch.cuda.reset_peak_memory_stats(configuration.device)
    for _ in range(_STEPS):
        step()
    return {"peak": float(torch.cuda.max_memory_allocated(configuration.device)), "idle": idle}


def _peak_while(step: Callable[[], object]) -> float:
    """The most bytes that this process holds during a few steps."""
    _CLEAR.write_text("5")
    for _ in range(_STEPS):
        step()
    (line,) = [line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:")]
    return 1024 * float(line.split()[1])


def _images(configuration: Configuration) -> torch.Tensor:
    side = configuration.img_size
    generator = torch.Generator().manual_seed(0)
    return torch.randn(configuration.batch_size, 3, side, side, generator=generator).to(configuration.device)


def _network(name: str, configuration: Configuration) -> nn.Module:
    """Builds a network, each time with the same weights."""
    torch.manual_seed(0)
    model = timm.create_model(name)
    if configuration.mode == INFERENCE:
        _vary(model.eval(), configuration.img_size)
    return model.to(configuration.device).train(configuration.mode != INFERENCE)


@torch.no_grad()
def _vary(model: nn.Module, img_size: int) -> None:
    """Gives a fresh network values as if it had been trained, else differences of outputs stay hidden.

    A fresh one switches its residual branches off, by a zero or a layer scale of 1e-6, and its BatchNorm
    does nothing.
    """
    for name, parameter in model.named_parameters():
        if parameter.numel() != max(parameter.shape, default=0):
            continue  # not a vector
        if name.endswith("bias"):
            parameter.normal_(0.0, 0.1)
        else:
            parameter.uniform_(0.5, 1.5)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train().reset_running_stats()
        norm.momentum = None  # the average of what it sees
    if norms:
        model(torch.randn(max(2, _CALIBRATION // img_size**2), 3, img_size, img_size))
        model.eval()


def _inference(model: nn.Module, images: torch.Tensor, contestant: Contestant) -> Callable[[], object]:
    dtype = getattr(torch, contestant.dtype)
    if contestant.form == OPTIMIZED:
        from convnext_ablation import optimize_for_inference

        model, images = optimize_for_inference(model, images, dtype=dtype), images.to(dtype)
    else:
        model, images = _in_form(model.to(dtype), images.to(dtype), contestant.form)
    return torch.inference_mode()(lambda: model(images))


def _training(model: nn.Module, images: torch.Tensor, contestant: Contestant) -> Callable[[], object]:
    dtype = getattr(torch, contestant.dtype)
    targets = torch.zeros(len(images), dtype=torch.long, device=images.device)
    optimizer = create_optimizer_v2(model, opt="sgd", lr=1e-4)  # as timm's benchmark does
    model, images = _in_form(model, images, contestant.form)
    precision = torch.autocast(images.device.type, dtype=dtype, enabled=dtype != torch.float32)

    def step() -> None:
        optimizer.zero_grad()
        with precision:
            loss = nn.functional.cross_entropy(model(images), targets)
        loss.backward()
        optimizer.step()

    return step


def _in_form(model: nn.Module, images: torch.Tensor, form: str) -> tuple[nn.Module, torch.Tensor]:
    """Puts a network and its images into a form that torch itself has."""
    on_gpu = images.device.type != "cpu"
    if form == CHANNELS_LAST or (form == COMPILED and on_gpu):
        model = model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    if form == COMPILED:
        options: dict[str, str | int | bool | Callable] = {} if model.training else {"freezing": True}
        return torch.compile(model, dynamic=False, options=options), images  # type: ignore[return-value]
    return model, images
