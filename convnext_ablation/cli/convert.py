"""`convnext-ablation convert`: another project's checkpoint -> safetensors with our parameter names."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from convnext_ablation.errors import UserError
from convnext_ablation.files import written_whole
from convnext_ablation.models.checkpoint_files import checkpoint_hash, read_checkpoint
from convnext_ablation.models.convert import loaded
from convnext_ablation.models.cost import count_parameters
from convnext_ablation.training.network import check_finite


def run(args: argparse.Namespace) -> None:
    """Runs the command.

    Raises:
        UserError: The checkpoint can't be read safely or doesn't fit the model, or the output exists.
    """
    output: Path = args.output
    if output.suffix != ".safetensors" or not output.parent.is_dir():
        raise UserError(f"{output}: only .safetensors is written, to a folder that exists")
    if output.exists() and not args.force:
        raise UserError(f"{output}: exists; give --force to overwrite it, or another name")
    checkpoint, kind = read_checkpoint(args.checkpoint), "averaged" if args.ema else "plain"
    weights = checkpoint.weights(kind)
    with checkpoint.named():
        model, layout = loaded(args.model, weights)
    check_finite(model, str(args.checkpoint))
    metadata = {  # safetensors metadata holds strings only
        "model": args.model,
        "num_classes": str(model.num_classes),
        "source_format": layout.format.name,
        "source_sha256": checkpoint_hash(args.checkpoint),
        "source_weights": "ema" if args.ema else "plain",
    }
    print(checkpoint.told(layout, kind, model.num_classes))
    if checkpoint.averaged and not args.ema:
        print("using the plain weights; --ema uses the averaged ones")
    _write(output, model, metadata)
    channels = f"in_chans={model.in_chans}, " if model.in_chans != 3 else ""
    print(
        f"wrote {output}: {count_parameters(model):,} parameters, timm.create_model({args.model!r}, "
        f"num_classes={model.num_classes}, {channels}checkpoint_path={str(output)!r})"
    )


def _write(path: Path, model: nn.Module, metadata: dict[str, str]) -> None:
    # cloned: safetensors refuses tensors that are views into a larger one
    weights = {
        key: value.clone(memory_format=torch.contiguous_format) for key, value in model.state_dict().items()
    }
    with written_whole(path) as temporary:
        temporary.touch()  # its error is clearer than that of safetensors
        save_file(weights, temporary, {"format": "pt", **metadata})  # marks PyTorch weights
