"""Networks in several forms, timed in turn in one process."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache

import timm
import torch
from timm.optim import create_optimizer_v2
from torch import nn

from convnext_ablation.bench.arguments import (
    CHANNELS_LAST,
    COMPILED,
    DTYPES,
    FORMS,
    INFERENCE,
    OPTIMIZED,
    PLAIN,
    BenchArguments,
)
from convnext_ablation.bench.roofline import kernels, peaks_of
from convnext_ablation.errors import UserError, first_line
from convnext_ablation.inference import optimize_for_inference
from convnext_ablation.machine import compile_network, default_device
from convnext_ablation.models import zoo  # noqa: F401  registers the networks
from convnext_ablation.timing import Times, interleaved
from convnext_ablation.training.distributed import check_device

_AT_LEAST = 0.1  # seconds per measurement
_CALIBRATION = 1 << 16  # pixels, enough for BatchNorm if 32 px have shrunk to a 1x1 map


@dataclass(frozen=True)
class Contestant:
    """A network in one form."""

    model: str  # as timm.create_model takes it
    form: str
    dtype: str  # compute dtype

    def __str__(self) -> str:
        """In the format of `--baseline`."""
        return f"{self.model}:{self.form}:{self.dtype}"


@dataclass(frozen=True)
class Configuration:
    """Contestants that are timed in turn, and the conditions."""

    mode: str
    device: str
    batch_size: int
    img_size: int  # side in pixels
    threads: int
    rounds: int
    contestants: tuple[Contestant, ...]  # including the baseline
    baseline: Contestant

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes of its contestants."""
        return tuple(dict.fromkeys(contestant.dtype for contestant in self.contestants))

    def identity(self, machine: Mapping[str, str]) -> str:
        """A short hash of everything that determines the measurement, including machine and versions."""
        text = json.dumps([asdict(self), dict(machine)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass
class Result:
    """The measurements of a contestant."""

    preparation: float | None = None  # seconds to compile or optimize, including the first step
    difference: float | None = None  # from the plain form's outputs, in inference; see `docs/speed.md`
    times: Times | None = None  # None if it failed
    error: str = ""


def configurations(asked: BenchArguments) -> list[Configuration]:
    """The configurations that the arguments ask for, in order of measurement.

    Raises:
        UserError: The device is missing, or a mode has none of the forms.
    """
    device = asked.device or default_device()
    check_device(device)
    asked = replace(asked, device=device)
    return [
        _configuration(asked, mode, dtype, img_size, batch_size)
        for mode in dict.fromkeys(asked.mode)
        for dtype in dict.fromkeys(asked.dtype)
        for img_size in dict.fromkeys(asked.img_size)
        for batch_size in dict.fromkeys(asked.batch_size)
    ]


def _configuration(
    asked: BenchArguments, mode: str, dtype: str, img_size: int, batch_size: int
) -> Configuration:
    forms = [form for form in dict.fromkeys(asked.forms) if form in FORMS[mode]]
    if not forms:
        raise UserError(f"--forms has none that there is in {mode}: {', '.join(FORMS[mode])}")
    contestants = [Contestant(*each, dtype) for each in itertools.product(dict.fromkeys(asked.models), forms)]
    baseline = _baseline(asked.baseline, mode, dtype) if asked.baseline else contestants[0]
    return Configuration(
        mode=mode,
        device=asked.device,
        batch_size=batch_size,
        img_size=img_size,
        threads=asked.threads,
        rounds=asked.rounds,
        contestants=tuple(dict.fromkeys([baseline, *contestants])),
        baseline=baseline,
    )


def _baseline(text: str, mode: str, dtype: str) -> Contestant:
    """Reads MODEL[:FORM[:DTYPE]]."""
    model, form, own_dtype = (*text.split(":", 2), "", "")[:3]
    baseline = Contestant(model, form or PLAIN, own_dtype or dtype)
    if baseline.form not in FORMS[mode] or baseline.dtype not in DTYPES:
        raise UserError(
            f"--baseline is {text!r}; in {mode} it takes MODEL[:FORM[:DTYPE]] with a form of "
            f"{', '.join(FORMS[mode])} and a dtype of {', '.join(DTYPES)}"
        )
    return baseline


def measure(
    configuration: Configuration, turn: Callable[[str], object]
) -> tuple[dict[str, Result], dict[str, float]]:
    """Times a configuration's contestants in turn, interleaved with kernels for the machine's peak.

    Args:
        configuration: What to measure.
        turn: Called with a contestant's name when its turn comes.

    Returns:
        Results by contestant, and the machine's peak in GFLOP/s by dtype. A contestant that raises gets an
        ``error``, and the others are measured without it.
    """
    torch.set_num_threads(configuration.threads)
    torch.compiler.reset()  # clears what earlier configurations compiled
    results = {str(contestant): Result() for contestant in configuration.contestants}
    steps: dict[str, Callable[[], object]] = {}

    def failed(name: str, error: Exception) -> None:
        if name in results:  # else it is a kernel for the machine's peak
            results[name].error = f"{type(error).__name__}: {first_line(error)}"

    @cache
    @torch.inference_mode()
    def plain(model: str) -> torch.Tensor:
        """Outputs of a network's plain form in float32."""
        output: torch.Tensor = _network(model, configuration)(_images(configuration))
        return output.float().cpu()

    for contestant in configuration.contestants:
        name = str(contestant)
        turn(name)
        try:
            steps[name] = _prepared(contestant, configuration, results[name], plain)
        except Exception as error:
            failed(name, error)
    machine = kernels(configuration.device, configuration.dtypes)
    times = interleaved(
        {**steps, **machine},
        configuration.rounds,
        at_least=_AT_LEAST,
        failed=failed,
        turn=lambda name: turn(name) if name in results else None,
    )
    for name in steps.keys() & times.keys():
        results[name].times = times[name]
    return results, peaks_of({name: times[name] for name in machine if name in times})


def _prepared(
    contestant: Contestant,
    configuration: Configuration,
    result: Result,
    plain: Callable[[str], torch.Tensor],
) -> Callable[[], object]:
    """Prepares a contestant; returns a function that runs one forward pass or training step."""
    from torch.utils.benchmark import timer  # synchronizes the GPU

    images = _images(configuration)
    model = _network(contestant.model, configuration)
    make = _inference if configuration.mode == INFERENCE else _training
    start = timer()
    step = make(model, images, contestant)
    output = step()
    result.preparation = timer() - start
    if isinstance(output, torch.Tensor):
        if not output.isfinite().all():
            raise FloatingPointError("its outputs are not finite")
        expected = plain(contestant.model)
        difference = (output.float().cpu() - expected).abs().max() / expected.abs().max()
        result.difference = difference.item()
    return step


def _images(configuration: Configuration) -> torch.Tensor:
    side = configuration.img_size
    generator = torch.Generator().manual_seed(0)
    return torch.randn(configuration.batch_size, 3, side, side, generator=generator).to(configuration.device)


def _network(name: str, configuration: Configuration) -> nn.Module:
    """Builds a network, with the same weights each time."""
    torch.manual_seed(0)
    model = timm.create_model(name)
    if configuration.mode == INFERENCE:
        _vary(model.eval(), configuration.img_size)
    return model.to(configuration.device).train(configuration.mode != INFERENCE)


@torch.no_grad()
def _vary(model: nn.Module, img_size: int) -> None:
    """Gives a new network the statistics of a trained one, so that output differences show.

    At initialization, residual branches are off (zero norms or a layer scale of 1e-6), and BatchNorm is an
    identity.
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
        norm.momentum = None  # cumulative average
    if norms:
        model(torch.randn(max(2, _CALIBRATION // img_size**2), 3, img_size, img_size))
        model.eval()


def _inference(model: nn.Module, images: torch.Tensor, contestant: Contestant) -> Callable[[], object]:
    dtype = getattr(torch, contestant.dtype)
    if contestant.form == OPTIMIZED:
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
    """Converts a network and its images to one of torch's own forms."""
    on_gpu = images.device.type != "cpu"
    if form == CHANNELS_LAST or (form == COMPILED and on_gpu):
        model = model.to(memory_format=torch.channels_last)
        images = images.to(memory_format=torch.channels_last)
    if form == COMPILED:
        options: dict[str, str | int | bool | Callable] = {} if model.training else {"freezing": True}
        return compile_network(model, dynamic=False, options=options), images
    return model, images
