"""From the command's arguments to what is measured; what can't be is said before anything is."""

from __future__ import annotations

import argparse
import difflib
import itertools
from collections.abc import Sequence

import timm
import torch

from convnext_ablation.bench import allocators
from convnext_ablation.bench.configuration import FORMS, INFERENCE, PLAIN, Configuration, Contestant
from convnext_ablation.bench.roofline import Cost, cost_of
from convnext_ablation.bench.timing import FEWEST_ROUNDS
from convnext_ablation.errors import UserError

__all__ = ["DTYPES", "allocators_of", "configurations", "costs"]

DTYPES = ("float32", "bfloat16", "float16")


def configurations(args: argparse.Namespace) -> list[Configuration]:
    """What the arguments ask for, in the order in which it is measured.

    Raises:
        UserError: They ask for what can't be.
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
    choices = itertools.product(
        *(
            dict.fromkeys(values)
            for values in (args.mode, args.dtype, args.img_size, args.batch_size, allocators_of(args))
        )
    )
    return [_configuration(args, *choice) for choice in choices]


def costs(found: Sequence[Configuration]) -> dict[tuple[str, int], Cost]:
    """What each network asks for, by its name and the side of its images.

    Raises:
        UserError: A network doesn't take images of that size.
    """
    asked = {(one.model, each.img_size) for each in found for one in each.contestants}
    return {(model, size): _cost(model, size) for model, size in sorted(asked)}


def allocators_of(args: argparse.Namespace) -> Sequence[str]:
    """The settings of the allocator to measure under: both on a CPU where there are two, if none is given.

    Raises:
        UserError: The C library has none.
    """
    if not args.allocator:
        two = torch.device(args.device).type == "cpu" and allocators.is_tunable()
        return (allocators.DEFAULT, allocators.TUNED) if two else (allocators.DEFAULT,)
    if allocators.TUNED in args.allocator and not allocators.is_tunable():
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
    """Makes sure that tensors can be put there."""
    try:
        device = torch.device(name)
        if device.type != "meta":
            torch.empty(1, device=device)
            return
    except Exception as error:  # each kind of device has its own
        reason = (str(error).splitlines() or [""])[0].rstrip(".")
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
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"--dtype is {dtype}, which {device} doesn't have here ({reason})") from error


def _cost(model: str, size: int) -> Cost:
    try:
        return cost_of(model, size)
    except Exception:  # few networks can't be built on meta, and what they raise is anything
        try:
            return cost_of(model, size, "cpu")
        except Exception as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(f"{model} doesn't take images of {size} x {size} pixels: {reason}") from error
