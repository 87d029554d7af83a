"""Networks as files that run without this package: ONNX, AOTInductor packages and TorchScript.

The network in such a file takes images as their pixels are, scales and normalizes them, and puts out
probabilities. Class names and the settings of resizing and cropping are its metadata. Resizing itself stays
outside: none of the forms has Pillow's.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from timm.utils.model import reparameterize_model
from torch import nn

from convnext_ablation.errors import UserError, first_line
from convnext_ablation.files import written_whole
from convnext_ablation.inference.prediction import Prediction
from convnext_ablation.inference.simplify import sections_of
from convnext_ablation.machine import own_compile_cache
from convnext_ablation.models.network import ResNetToConvNeXt
from convnext_ablation.training.trained_arguments import FORMATS

TOLERANCE = 1e-4  # of log-probabilities, relative to the largest
_BATCHES = (1, 3)  # images that a written file is checked with
_LEAST = 1e-30  # smaller probabilities count as this one
_MOST_BYTES = 2**31 - 2**20  # of the weights in an ONNX file, which can't exceed 2 GiB

Run = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # images -> probabilities


class Deployed(nn.Module):
    """A network with its preprocessing and softmax: images as their pixels are -> probabilities.

    Args:
        model: The network, which is not modified; norms are folded as in `optimize_for_inference`.
        data_config: Its preprocessing, from timm's `resolve_data_config`.
    """

    scale: torch.Tensor  # (C, 1, 1)
    shift: torch.Tensor  # (C, 1, 1)

    def __init__(self, model: nn.Module, data_config: Mapping[str, Any]) -> None:
        super().__init__()
        if isinstance(model, ResNetToConvNeXt):
            self.network: nn.Module = nn.Sequential(*sections_of(model))
        else:
            self.network = reparameterize_model(model)
        std = _by_channel(data_config, "std")
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -_by_channel(data_config, "mean") / std)
        self.eval()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(N, H, W, C)`` in uint8 -> ``(N, classes)``."""
        x = images.permute(0, 3, 1, 2).float() * self.scale + self.shift
        return self.network(x).softmax(1)


def _by_channel(data_config: Mapping[str, Any], name: str) -> torch.Tensor:
    """A mean or standard deviation, ``(C, 1, 1)``."""
    values = torch.tensor(data_config[name]).expand(data_config["input_size"][0])
    return values.reshape(-1, 1, 1)


def metadata_of(prediction: Prediction) -> dict[str, str]:
    """What a file says of its network: its name, class names and preprocessing, each in JSON."""
    config = prediction.data_config
    names = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")
    values = {"model": prediction.run.model, "class_names": prediction.labels}
    values |= {"image_mode": prediction.run.image_mode, **{name: config[name] for name in names}}
    return {name: json.dumps(value) for name, value in values.items()}


def write_onnx(network: nn.Module, images: torch.Tensor, metadata: Mapping[str, str], path: Path) -> None:
    """Writes an ONNX file for batches of any size; `images` are an example of several."""
    program: Any = torch.onnx.export(
        network,
        (images,),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["images"],
        output_names=["probabilities"],
        verbose=False,
    )
    program.model.metadata_props.update(metadata)
    for node in program.model.graph:
        node.metadata_props.clear()  # stack traces, with paths of this machine
    program.save(path, external_data=False)


def load_onnx(path: Path) -> Run:
    """A file's network, run by onnxruntime."""
    import onnxruntime  # in the extra `export`

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["probabilities"], {"images": images})[0]


def write_aoti(network: nn.Module, images: torch.Tensor, metadata: Mapping[str, str], path: Path) -> None:
    """Compiles a package of AOTInductor for this kind of processor."""
    own_compile_cache()
    # PyTorch documents these functions for users, although their module's name begins with an underscore
    program = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    options = {"aot_inductor.metadata": dict(metadata), "freezing": True}  # which packs weights
    torch._inductor.aoti_compile_and_package(program, package_path=str(path), inductor_configs=options)


def load_aoti(path: Path) -> Run:
    """A package's network, run by AOTInductor."""
    network = torch._inductor.aoti_load_package(str(path))
    return lambda images: network(torch.from_numpy(images)).numpy()


def write_torchscript(
    network: nn.Module, images: torch.Tensor, metadata: Mapping[str, str], path: Path
) -> None:
    """Traces the network, folds what is constant, and saves it."""
    with _without_warnings():
        torch.jit.save(torch.jit.freeze(torch.jit.trace(network, images)), path, _extra_files=dict(metadata))


def load_torchscript(path: Path) -> Run:
    """A file's network, run by torch.jit."""
    with _without_warnings():
        network = torch.jit.load(path)
    return lambda images: network(torch.from_numpy(images)).numpy()


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Ignores that TorchScript is deprecated, and that what it traces may be constant, which is checked."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Form(NamedTuple):
    """A file format: what writes it, and what runs it."""

    write: Callable[[nn.Module, torch.Tensor, Mapping[str, str], Path], None]
    load: Callable[[Path], Run]


WRITERS = {
    "onnx": Form(write_onnx, load_onnx),
    "aoti": Form(write_aoti, load_aoti),
    "torchscript": Form(write_torchscript, load_torchscript),
}


@torch.no_grad()
def export(
    prediction: Prediction,
    form: str,
    output: Path,
    rework: Callable[[Path, Path], object] | None = None,
) -> float:
    """Writes a network to a file once the file's own runtime gives the same probabilities.

    Args:
        prediction: The network with its preprocessing and class names, on the CPU.
        form: One of `FORMATS`.
        output: The file.
        rework: Makes the file to keep, its second argument, of the one that was checked; it may raise.

    Returns:
        The largest difference found, see `difference`.

    Raises:
        UserError: torch can't export the network, or the file's probabilities differ.
    """
    model, config = prediction.model, prediction.data_config
    size = sum(each.nbytes for each in model.state_dict().values())
    if form == "onnx" and size > _MOST_BYTES:
        raise UserError(f"the weights take {size / 2**30:.1f} GiB, and ONNX files hold 2; give --to aoti")
    with (
        written_whole(output) as temporary,
        tempfile.TemporaryDirectory(prefix=".export_", dir=output.parent) as scratch,
    ):
        made = Path(scratch, f"network{FORMATS[form]}")
        try:
            images = torch.from_numpy(_random_images(2, config))
            WRITERS[form].write(Deployed(model, config), images, metadata_of(prediction), made)
            found = difference(WRITERS[form].load(made), model, config)
        except (UserError, OSError):
            raise
        except Exception as error:  # torch's exporters have no common public class
            raise UserError(
                f"{prediction.run.model}: can't be exported to {form}: {first_line(error)}"
            ) from error
        if not found <= TOLERANCE:  # NaN fails too
            raise UserError(
                f"{form}: log-probabilities differ from the network's by {found:.1e} of the largest, and "
                f"may by {TOLERANCE:.0e}; nothing is written, choose another format"
            )
        if rework is not None:
            checked, made = made, Path(scratch, f"reworked{FORMATS[form]}")
            rework(checked, made)
        os.replace(made, temporary)
    return found


def difference(run: Run, model: nn.Module, data_config: Mapping[str, Any]) -> float:
    """The largest difference of log-probabilities from the network's, relative to the largest of them.

    Args:
        run: The exported network.
        model: The network itself.
        data_config: Its preprocessing; images are random.
    """
    worst = 0.0
    for count in _BATCHES:
        images = _random_images(count, data_config)
        x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
        logits = model((x - _by_channel(data_config, "mean")) / _by_channel(data_config, "std"))
        expected = logits.softmax(1).clamp(min=_LEAST).log()
        actual = torch.from_numpy(run(images)).clamp(min=_LEAST).log()
        if actual.shape != expected.shape:
            return float("inf")
        largest = expected.abs().max().clamp(min=1)
        worst = max(worst, ((actual - expected).abs().max() / largest).nan_to_num(torch.inf).item())
    return worst


def _random_images(count: int, data_config: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Random pixels, ``(count, H, W, C)``."""
    channels, height, width = data_config["input_size"]
    return np.random.default_rng(count).integers(0, 256, (count, height, width, channels), np.uint8)
