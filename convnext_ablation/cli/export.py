"""`convnext-ablation export`: a network as an ONNX file, an AOTInductor package or TorchScript."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from convnext_ablation.cli.asked import check_output
from convnext_ablation.cli.predict import default_name, print_network
from convnext_ablation.inference.export import export
from convnext_ablation.inference.prediction import Prediction
from convnext_ablation.inference.quantize import quantize_as_accurate, validation_images
from convnext_ablation.training.distributed import prepare_torch
from convnext_ablation.training.trained_arguments import FORMATS


def run(args: argparse.Namespace) -> None:
    """Runs the command with the `PredictionArguments` in `args.asked`.

    Raises:
        UserError: The weights or the output are invalid, or the network can't be exported.
    """
    prepare_torch(torch.device("cpu"))
    prediction = Prediction(args.asked)
    output = args.output or Path(f"{default_name(prediction)}{FORMATS[args.to]}")
    check_output(output, args.to, args.asked.force)
    images = validation_images(prediction, args.int8) if args.int8 else None
    print_network(prediction)
    print(f"{output}: exporting, which can take minutes ...", flush=True)

    def quantized(source: Path, target: Path) -> None:
        assert images is not None
        print(quantize_as_accurate(source, target, images, prediction.data_config))

    difference = export(prediction, args.to, output, quantized if images else None)
    channels, height, width = prediction.data_config["input_size"]
    print(
        f"{output}: {output.stat().st_size / 1e6:.1f} MB; uint8 images (N, {height}, {width}, {channels}) -> "
        f"probabilities (N, {prediction.model.num_classes}); log-probabilities differ from the network's by "
        f"{difference:.1e} of the largest{', before int8' if images else ''}"
    )
