"""`convnext-ablation convert`: another project's checkpoint -> safetensors in our names."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.files import sha256_of, written_whole
from convnext_ablation.models import zoo
from convnext_ablation.models.checkpoint_files import Checkpoint, read_checkpoint
from convnext_ablation.models.convert import Format, loaded
from convnext_ablation.models.cost import count_parameters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's arguments."""
    parser.add_argument("checkpoint", type=Path, help="the .pth.tar, .pth, .pt or .safetensors file")
    parser.add_argument("output", type=Path, help="the .safetensors file to write")
    parser.add_argument("--model", required=True, help="the model it was made with, e.g. model_iii")
    parser.add_argument("--ema", action="store_true", help="take the averaged weights, if it holds some")
    parser.add_argument("--force", action="store_true", help="overwrite the output")


def run(args: argparse.Namespace) -> None:
    """Runs the command.

    Raises:
        UserError: The checkpoint can't be read safely or isn't the model's, or the output exists.
    """
    _check_names(args.model, args.output, args.force)
    checkpoint = read_checkpoint(args.checkpoint, ema=args.ema)
    try:
        model = loaded(args.model, checkpoint.state_dict)
    except UserError as error:
        raise UserError(f"{args.checkpoint}: {error}") from error
    names = checkpoint.format
    assert names is not None  # else it would not have loaded
    print(f"{args.checkpoint}: {_found(checkpoint, names, model)}")
    _write(args.output, model, _metadata(args.model, args.checkpoint, checkpoint, names, model))
    channels = f"in_chans={model.in_chans}, " if model.in_chans != 3 else ""
    print(
        f"wrote {args.output}: {count_parameters(model):,} parameters, timm.create_model({args.model!r}, "
        f"num_classes={model.num_classes}, {channels}checkpoint_path={str(args.output)!r})"
    )


def _check_names(model_name: str, output: Path, force: bool) -> None:
    if model_name not in zoo.model_names():
        raise unknown_name("model", model_name, zoo.model_names())
    if output.suffix != ".safetensors":
        raise UserError(f"{output}: only safetensors is written; name it {output.stem}.safetensors")
    if not output.parent.is_dir():
        raise UserError(f"{output}: there is no folder {output.parent}; make it first")
    if output.exists() and not force:
        raise UserError(f"{output}: exists; give --force to overwrite it, or another name")


def _found(checkpoint: Checkpoint, names: Format, model: nn.Module) -> str:
    """What the checkpoint holds, in a line."""
    parts = [
        f"{names.name} names ({names.used_by})",
        f"{model.num_classes} classes" if model.num_classes else "no classifier",
        "epoch not stated" if checkpoint.epoch is None else f"epoch {checkpoint.epoch}",
        "metric not stated" if checkpoint.metric is None else f"metric {checkpoint.metric:g}",
    ]
    if checkpoint.arch:
        parts.append(f"made as {checkpoint.arch}")
    if checkpoint.is_ema:
        parts.append("averaged weights taken")
    elif checkpoint.has_ema:
        parts.append("plain weights taken, --ema takes the averaged ones")
    return ", ".join(parts)


def _metadata(
    model_name: str, path: Path, checkpoint: Checkpoint, names: Format, model: nn.Module
) -> dict[str, str]:
    """What the written file says of itself; safetensors holds strings only."""
    metadata = {
        "format": "pt",  # the convention for weights of PyTorch
        "model": model_name,
        "num_classes": str(model.num_classes),
        "source_format": names.name,
        "source_sha256": sha256_of(path),
        "source_weights": "ema" if checkpoint.is_ema else "plain",
    }
    if checkpoint.epoch is not None:
        metadata["epoch"] = str(checkpoint.epoch)
    if checkpoint.metric is not None:
        metadata["metric"] = str(checkpoint.metric)
    return metadata


def _write(path: Path, model: nn.Module, metadata: dict[str, str]) -> None:
    # cloned: safetensors refuses tensors that are views into a larger one
    weights = {
        key: value.clone(memory_format=torch.contiguous_format) for key, value in model.state_dict().items()
    }
    with written_whole(path) as temporary:
        save_file(weights, temporary, metadata)
