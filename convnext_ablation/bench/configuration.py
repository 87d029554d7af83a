"""What is measured together: from the command's arguments to configurations and their contestants."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch

from convnext_ablation.bench.timing import FEWEST_ROUNDS
from convnext_ablation.errors import UserError, first_line

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
    for option, values, least in (
        ("--rounds", [args.rounds], FEWEST_ROUNDS),
        ("--threads", [args.threads], 1),
        ("--batch-size", args.batch_size, 1),
        ("--img-size", args.img_size, 1),
    ):
        if min(values) < least:
            raise UserError(f"{option} is {min(values)}; it has to be {least} or more")
    if TUNED in args.allocator and platform.libc_ver()[0] != "glibc":
        raise UserError("--allocator tuned needs glibc, which this system doesn't have; take default")
    options = (args.mode, args.dtype, args.img_size, args.batch_size, args.allocator)
    choices = itertools.product(*(dict.fromkeys(values) for values in options))
    found = [_configuration(args, *choice) for choice in choices]
    for dtype in dict.fromkeys(dtype for one in found for dtype in one.dtypes):
        _check_dtype(dtype, args.device)
    return found


def _configuration(
    args: argparse.Namespace, mode: str, dtype: str, img_size: int, batch_size: int, allocator: str
) -> Configuration:
    forms = [form for form in dict.fromkeys(args.forms) if form in FORMS[mode]]
    if not forms:
        raise UserError(f"--forms has none that there is in {mode}: {', '.join(FORMS[mode])}")
    contestants = [Contestant(model, form, dtype) for model in dict.fromkeys(args.models) for form in forms]
    baseline = _baseline(args.baseline, mode, dtype) if args.baseline else contestants[0]
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


def _check_dtype(dtype: str, device: str) -> None:
    """Makes sure that a product of matrices and a convolution work there in it."""
    try:
        values = torch.ones(1, 8, 8, 8, device=device, dtype=getattr(torch, dtype))
        product = torch.nn.functional.conv2d(values, values[:, :, :1, :1]) @ values[:, :1]
        product.sum().item()  # which "meta" can't give
    except Exception as error:  # each kind of device has its own
        raise UserError(
            f"--device {device} can't compute in {dtype} here ({first_line(error).rstrip('.')}); "
            "take cpu or another --dtype"
        ) from error
