"""What is measured together: from the command's arguments to configurations and their contestants."""

from __future__ import annotations

import argparse
import difflib
import hashlib
import itertools
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import timm
import torch

from convnext_ablation.bench.timing import FEWEST_ROUNDS
from convnext_ablation.errors import UserError, first_line
from convnext_ablation.models import zoo  # noqa: F401  registers the networks

__all__ = ["ALLOCATORS", "DTYPES", "FORMS", "MODES", "Configuration", "Contestant", "configurations"]

INFERENCE, TRAINING = MODES = ("inference", "training")
PLAIN, CHANNELS_LAST, OPTIMIZED, COMPILED = "plain", "channels-last", "optimized", "compiled"
FORMS = {
    INFERENCE: (PLAIN, CHANNELS_LAST, OPTIMIZED, COMPILED),
    TRAINING: (PLAIN, CHANNELS_LAST, COMPILED),
}
DTYPES = ("float32", "bfloat16", "float16")
DEFAULT, TUNED = ALLOCATORS = ("default", "tuned")  # how glibc's is set, see `processes`


@dataclass(frozen=True)
class Contestant:
    """A network in one form."""

    model: str  # as timm.create_model takes it
    form: str
    dtype: str  # of what it computes in

    def __str__(self) -> str:
        """What `--baseline` takes."""
        return f"{self.model}:{self.form}:{self.dtype}"


@dataclass(frozen=True)
class Configuration:
    """What one process measures in turn."""

    mode: str
    device: str
    dtype: str  # of the contestants, but for a baseline that has its own
    batch_size: int
    img_size: int  # side in pixels
    allocator: str
    threads: int
    rounds: int
    memory: bool  # whether peak memory is measured too
    contestants: tuple[Contestant, ...]  # the baseline among them
    baseline: Contestant

    @property
    def title(self) -> str:
        """Its name for people."""
        return (
            f"{self.mode}, {self.device}, {self.dtype}, batch {self.batch_size} at {self.img_size}, "
            f"{self.allocator} allocator"
        )

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Those that its contestants compute in."""
        return tuple(dict.fromkeys(contestant.dtype for contestant in self.contestants))

    def identity(self, machine: Mapping[str, str]) -> str:
        """A short hash of everything that determines what is measured, the machine and versions included."""
        text = json.dumps([asdict(self), dict(machine)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def configurations(args: argparse.Namespace) -> list[Configuration]:
    """What the arguments ask for, in the order in which it is measured.

    Raises:
        UserError: They ask for what can't be measured.
    """
    for option, value, least in (
        ("--rounds", args.rounds, FEWEST_ROUNDS),
        ("--threads", args.threads, 1),
        *(("--batch-size", size, 1) for size in args.batch_size),
        *(("--img-size", size, 1) for size in args.img_size),
    ):
        if value < least:
            raise UserError(f"{option} is {value}; it has to be {least} or more")
    for model in args.models:
        _check_model(model)
    _check_device(args.device)
    for mode, dtype in itertools.product(args.mode, args.dtype):
        _check_dtype(dtype, args.device, mode)
    options = (args.mode, args.dtype, args.img_size, args.batch_size, _allocators(args))
    choices = itertools.product(*(dict.fromkeys(values) for values in options))
    return [_configuration(args, *choice) for choice in choices]


def has_tunable_allocator() -> bool:
    """Whether the C library is glibc, which reads the allocator's setting."""
    return platform.libc_ver()[0] == "glibc"


def _allocators(args: argparse.Namespace) -> Sequence[str]:
    """The allocator's settings to measure; if none is given, on a CPU all that there are."""
    if not args.allocator:
        both = torch.device(args.device).type == "cpu" and has_tunable_allocator()
        return ALLOCATORS if both else (DEFAULT,)
    if TUNED in args.allocator and not has_tunable_allocator():
        raise UserError("--allocator tuned needs glibc, which this system doesn't have; take default")
    return list(args.allocator)


def _configuration(
    args: argparse.Namespace, mode: str, dtype: str, img_size: int, batch_size: int, allocator: str
) -> Configuration:
    forms = [form for form in dict.fromkeys(args.forms) if form in FORMS[mode]]
    if not forms:
        raise UserError(f"--forms has none that there is in {mode}: {', '.join(FORMS[mode])}")
    contestants = [Contestant(model, form, dtype) for model in dict.fromkeys(args.models) for form in forms]
    baseline = _baseline(args, mode, dtype) if args.baseline else contestants[0]
    return Configuration(
        mode=mode,
        device=args.device,
        dtype=dtype,
        batch_size=batch_size,
        img_size=img_size,
        allocator=allocator,
        threads=args.threads,
        rounds=args.rounds,
        memory=args.memory,
        contestants=tuple(dict.fromkeys([baseline, *contestants])),
        baseline=baseline,
    )


def _baseline(args: argparse.Namespace, mode: str, dtype: str) -> Contestant:
    """Reads MODEL[:FORM[:DTYPE]]."""
    model, form, own_dtype, *rest = [*args.baseline.split(":"), *["", "", ""]][:4]
    baseline = Contestant(model, form or PLAIN, own_dtype or dtype)
    _check_model(baseline.model)
    if baseline.form not in FORMS[mode] or baseline.dtype not in DTYPES or any(rest):
        raise UserError(
            f"--baseline is {args.baseline!r}; in {mode} it takes MODEL[:FORM[:DTYPE]] with a form of "
            f"{', '.join(FORMS[mode])} and a dtype of {', '.join(DTYPES)}"
        )
    _check_dtype(baseline.dtype, args.device, mode)
    return baseline


def _check_model(name: str) -> None:
    base = name.partition(".")[0]
    if timm.is_model(base) and (base == name or name in timm.list_pretrained()):
        return
    known = timm.list_models() if base == name else timm.list_models() + timm.list_pretrained()
    nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, nearest))}?" if nearest else "`timm.list_models()` has them"
    raise UserError(f"unknown model {name!r}; {hint}")


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
        if device.type != "meta":
            torch.empty(1, device=device)
            return
    except Exception as error:  # each kind of device has its own
        reason = first_line(error).rstrip(".")
        raise UserError(f"--device is {name!r}, which torch can't use here ({reason}); take cpu") from error
    raise UserError("--device is 'meta', on which nothing is computed; take cpu")


def _check_dtype(dtype: str, device: str, mode: str) -> None:
    """Makes sure that a product of matrices and a convolution work in it."""
    kind = torch.device(device).type
    try:
        if kind == "cuda" and dtype == "bfloat16" and not torch.cuda.is_bf16_supported(False):
            raise UserError(f"--dtype is bfloat16, which {torch.cuda.get_device_name(device)} doesn't have")
        values = torch.ones(1, 8, 8, 8, device=device, dtype=getattr(torch, dtype))
        torch.nn.functional.conv2d(values, values[:, :, :1, :1]) @ values[:, :1]
        if mode != INFERENCE:
            torch.autocast(kind, dtype=getattr(torch, dtype), enabled=dtype != "float32")
    except (RuntimeError, TypeError) as error:
        raise UserError(
            f"--dtype is {dtype}, which {device} doesn't have here ({first_line(error)})"
        ) from error
