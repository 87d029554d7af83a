"""`convnext-ablation convert`: another project's checkpoint -> safetensors with our parameter names."""

from __future__ import annotations

import argparse
from pathlib import Path

from convnext_ablation.errors import UserError
from convnext_ablation.models.checkpoint_files import checkpoint_hash, read_checkpoint, save_weights
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
    print(checkpoint.told(layout, kind, model.num_classes))
    if checkpoint.averaged and not args.ema:
        print("using the plain weights; --ema uses the averaged ones")
    save_weights(
        output,
        model.state_dict(),
        model=args.model,
        num_classes=str(model.num_classes),
        source_format=layout.format.name,
        source_sha256=checkpoint_hash(args.checkpoint),
        source_weights="ema" if args.ema else "plain",
    )
    channels = f"in_chans={model.in_chans}, " if model.in_chans != 3 else ""
    print(
        f"wrote {output}: {count_parameters(model):,} parameters, timm.create_model({args.model!r}, "
        f"num_classes={model.num_classes}, {channels}checkpoint_path={str(output)!r})"
    )
