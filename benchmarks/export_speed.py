"""Speed of a network's exported files on a CPU, beside its plain form and `optimize_for_inference`.

    python benchmarks/export_speed.py --output results/export_speed.csv

Each form takes random uint8 images to probabilities, scaling and normalization included. `timm` is timm's own
network where it exists (Models I and V), else ours as `timm.create_model` makes it. `optimized` is
`optimize_for_inference`, chosen for each batch. `onnxruntime`, `int8`, `aoti` and `torchscript` are what
`export` writes. Forms take turns in one process; ratios are paired by round. Weights are random. With
`--files`, exported files are kept in a folder and used again, as exporting takes longer than measuring.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import timm
import torch
from common import MACHINE, VERSIONS, Row, parsed, parser_of, ratio_columns, time_columns, write_rows
from timm.data import resolve_data_config
from torch import nn

import convnext_ablation
from convnext_ablation.inference import export
from convnext_ablation.inference.quantize import quantize
from convnext_ablation.machine import available_cores, keep_memory
from convnext_ablation.timing import interleaved

TIMMS = {"model_i": "resnet50", "model_v": "convnext_tiny"}  # the same networks in timm
MODELS = ["model_i", "model_ii", "model_iii", "model_iv", "model_v"]
CALLS = 2  # before measuring; TorchScript optimizes in its second


def main() -> None:
    """Measures, and writes the CSV file."""
    parser = parser_of(__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--size", type=int, default=224, help="pixels a side")
    parser.add_argument("--batches", type=int, nargs="+", default=[16, 1], help="images at a time")
    parser.add_argument(
        "--forms", nargs="+", default=["onnxruntime", "int8", "aoti", "torchscript"], help="of files"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument(
        "--files", type=Path, help="folder of exported files, kept (default: a temporary one)"
    )
    options = parsed(
        parser,
        models=["model_i_atto"],
        size=32,
        batches=[2],
        forms=["onnxruntime", "int8", "torchscript"],
        rounds=1,
    )
    torch.set_num_threads(options.threads)
    keep_memory()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary, torch.no_grad():
        for name in options.models:
            for row in measure(name, options, options.files or Path(temporary)):
                print(row, flush=True)
                rows.append(row)
            write_rows(options.output, rows)


def measure(name: str, options: argparse.Namespace, folder: Path) -> list[Row]:
    """Times all forms of a network in turn, with each batch."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    config = resolve_data_config({"input_size": (3, options.size, options.size)}, model=model)
    rows: list[Row] = []
    for batch in options.batches:
        images = np.random.default_rng(0).integers(0, 256, (batch, options.size, options.size, 3), np.uint8)
        example = torch.randn(batch, 3, options.size, options.size)
        optimized = convnext_ablation.optimize_for_inference(model, example)
        forms: Mapping[str, Callable[..., object]] = {
            "timm": with_preprocessing(timm.create_model(TIMMS.get(name, name)).eval(), config),
            "optimized": with_preprocessing(optimized, config),
            **{form: loaded(form, model, config, folder / f"{name}-{options.size}", options.threads)
               for form in options.forms},
        }  # fmt: skip
        calls = {form: partial(run, images) for form, run in forms.items()}
        times = interleaved(calls, options.rounds, warm_up=CALLS)
        for form, taken in times.items():
            row = {"model": name, "batch": batch, "size": options.size, "form": form, **time_columns(taken)}
            for baseline in ("timm", "optimized", options.forms[0]):
                names = [
                    f"{column}_{baseline}" for column in ("times_faster_than", "lowest_than", "highest_than")
                ]
                row |= ratio_columns(taken.times_faster_than(times[baseline]), names)
            row |= {"rounds": options.rounds, "threads": options.threads, "machine": MACHINE, **VERSIONS}
            rows.append({**row, "onnxruntime": onnxruntime.__version__})
    return rows


def with_preprocessing(network: nn.Module, config: Mapping[str, object]) -> Callable[[np.ndarray], object]:
    """Images -> probabilities, as a program in PyTorch computes them."""
    mean, std = (torch.tensor(config[name]).view(-1, 1, 1) for name in ("mean", "std"))

    def run(images: np.ndarray) -> torch.Tensor:
        x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        return network((x / 255).sub_(mean).div_(std)).softmax(1)

    return run


def loaded(
    form: str, model: nn.Module, config: Mapping[str, object], stem: Path, threads: int
) -> Callable[[np.ndarray], object]:
    """A form's file, written unless it is there, as its runtime runs it."""
    name = "onnx" if form in ("onnxruntime", "int8") else form
    path = stem.with_suffix(export.FORMATS[name])
    if not path.exists():
        stem.parent.mkdir(parents=True, exist_ok=True)
        images = torch.zeros(2, *config["input_size"][1:], 3, dtype=torch.uint8)
        partial = path.with_name(f"partial-{path.name}")
        export.WRITERS[name].write(export.Deployed(model, config), images, {}, partial)
        partial.rename(path)
    if form == "int8":
        source, path = path, stem.with_name(f"{stem.name}-int8.onnx")
        if not path.exists():  # calibrated on noise, which its speed does not depend on
            noise = np.random.default_rng(0).integers(0, 256, (4, *config["input_size"][1:], 3), np.uint8)
            partial = path.with_name(f"partial-{path.name}")
            quantize(source, partial, [noise])
            partial.rename(path)
    if name != "onnx":
        return export.WRITERS[name].load(path)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads  # its own count leaves hyperthreads out
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})


if __name__ == "__main__":
    main()
