"""An exported ONNX network in 8 bits, if it keeps its accuracy; the float32 one is as `export` writes it.

onnxruntime's static quantization: activations are unsigned, with the range that they have on calibration
images; weights are signed, with a scale per output channel. LayerNorm, GELU and softmax stay in float32.
Weights have 7 bits: processors with AVX2 but without VNNI add the products of two pairs in 16 bits, which
holds 2 x 255 x 64 but not 2 x 255 x 127, so that 8-bit weights silently give other outputs there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from timm.data import create_transform

from convnext_ablation.errors import UserError
from convnext_ablation.inference.export import load_onnx
from convnext_ablation.inference.prediction import Prediction
from convnext_ablation.training.images import Images
from convnext_ablation.training.splits import number_as_trained, open_split

POINTS = 0.3  # of top-1 that 8 bits may cost
_OPERATORS = ["Conv", "Gemm", "MatMul", "Add", "Relu", "MaxPool"]
_CALIBRATING = 256  # images at the most, and one in four
_LEAST = 8  # images of a split
_BATCH = 16  # images


@dataclass(frozen=True)
class Comparison:
    """Top-1 of a network in float32 and in 8 bits on the same images, and how many images calibrated it."""

    images: int
    calibrating: int
    float32: float  # in percent
    int8: float  # in percent
    margin: float  # half the 95 % interval of their difference, in points

    @property
    def change(self) -> float:
        """8 bits minus float32, in points."""
        return self.int8 - self.float32

    def __str__(self) -> str:
        """In one line."""
        few = "" if self.change - self.margin >= -POINTS else f"; too few images to tell {POINTS} points"
        return (
            f"int8: top-1 {self.int8:.2f} % against {self.float32:.2f} % in float32 on "
            f"{self.images} images, calibrated on {self.calibrating} others: "
            f"{self.change:+.2f} ± {self.margin:.2f} points{few}"
        )


def validation_images(prediction: Prediction, data: str) -> Images:
    """Opens the validation split of a prepared folder, with classes numbered as in the network."""
    run = replace(prediction.run, data_dir=data)
    images = open_split(run, "validation")
    whose = prediction.arguments.checkpoint or run.model
    number_as_trained(images, prediction.names, prediction.model.num_classes, run.class_map, whose)
    if len(images) < _LEAST:
        raise UserError(f"{images.name}: has {len(images)} images; --int8 needs {_LEAST}, better 1000")
    return images


def calibrating(images: Images) -> range:
    """The images that calibrate: evenly spaced, and so of all classes."""
    return range(0, len(images), max(4, -(-len(images) // _CALIBRATING)))


def batches(
    images: Images, chosen: Iterable[int], data_config: Mapping[str, Any]
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Yields pixels as an exported network takes them, ``(B, H, W, C)``, and class numbers, ``(B,)``."""
    names = ("input_size", "interpolation", "crop_pct", "crop_mode")
    transform = create_transform(**{name: data_config[name] for name in names}, use_prefetcher=True)
    numbers = list(chosen)
    for start in range(0, len(numbers), _BATCH):
        pixels, targets = [], []
        for number in numbers[start : start + _BATCH]:
            image, target = images.load(number)
            pixels.append(np.asarray(images.prepare(number, image, transform)))
            targets.append(target)
        yield np.stack(pixels).transpose(0, 2, 3, 1), np.array(targets)


def quantize(source: Path, target: Path, calibration: Iterable[NDArray[np.uint8]]) -> None:
    """Writes the network of an ONNX file in 8 bits, with the same metadata.

    Args:
        source: The file.
        target: The file to write.
        calibration: Batches of typical images, as the network takes them.
    """
    import onnx  # in the extra `export`, as onnxruntime is
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        """Hands out the calibration images."""

        rest = iter(calibration)

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            """The next batch by the input's name; None at the end."""
            images = next(self.rest, None)
            return None if images is None else {"images": images}

    with tempfile.TemporaryDirectory(prefix=".int8_", dir=target.parent) as scratch:
        prepared = Path(scratch, "prepared.onnx")
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            prepared,
            target,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_OPERATORS,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    network = onnx.load(target)
    del network.metadata_props[:]
    network.metadata_props.extend(onnx.load(source).metadata_props)
    onnx.save(network, target)


def quantize_as_accurate(
    source: Path, target: Path, images: Images, data_config: Mapping[str, Any]
) -> Comparison:
    """Quantizes an exported network, and compares it on the images that did not calibrate it.

    Raises:
        UserError: Top-1 falls by more than `POINTS`, or an image can't be read.
    """
    chosen = calibrating(images)
    quantize(source, target, (pixels for pixels, _ in batches(images, chosen, data_config)))
    full, small, right = load_onnx(source), load_onnx(target), []
    others = [number for number in range(len(images)) if number not in chosen]
    for pixels, targets in batches(images, others, data_config):
        right.append([run(pixels).argmax(1) == targets for run in (full, small)])
    float32, int8 = np.concatenate(right, axis=1).astype(int)
    count, lost = len(others), int(float32.sum() - int8.sum())
    # one image more or less is always possible
    deviation = max(float((int8 - float32).std(ddof=1)) / count**0.5, 1 / count)
    found = Comparison(count, len(chosen), 100 * float32.mean(), 100 * int8.mean(), 196 * deviation)
    if 100 * lost > POINTS * count:
        raise UserError(f"{found}; {POINTS} may be lost, so nothing is written; leave --int8 out")
    return found
