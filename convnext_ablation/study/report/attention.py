"""Where a trained network looks: Grad-CAM (Selvaraju et al., 2017, arXiv:1610.02391) by captum.

A map says which positions of a feature map speak for a class. It is drawn over the image as the network sees
it. It shows what the classifier uses there, not why, and it is as coarse as the feature map: of the last
stage 7x7 at 224 px. Where images are so small that the last stage has less than 4x4 positions, an earlier
stage's output is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import nn
from torchvision.transforms.functional import to_pil_image

from convnext_ablation.data.pictures import as_seen, open_picture
from convnext_ablation.errors import UserError
from convnext_ablation.models import zoo  # noqa: F401  registers the networks
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.distributed import Processes
from convnext_ablation.training.history import BEST
from convnext_ablation.training.trained import TrainedWeights
from convnext_ablation.training.trained_arguments import TrainedArguments

SIDE = 160  # pixels of a picture
_SMALLEST = 4  # positions of a side, below which a map says nothing


class Map(NamedTuple):
    """What speaks for an image's class, and what the network says of it."""

    picture: Image.Image  # the image as the network sees it, with the map over it
    heat: NDArray[np.float32]  # the map, (H, W), 0 to 1; all 0 where nothing speaks for the class
    predicted: int  # the most probable class
    probability: float  # of that class


class Attention(NamedTuple):
    """The maps of one network, one for each image: of which module's output, and its height and width."""

    layer: str
    grid: tuple[int, int]
    maps: list[Map]


def attention(folder: Path, images: Sequence[Path], targets: Sequence[int]) -> Attention:
    """Draws what speaks for the class of each of some images in a run's best weights."""
    try:
        from captum.attr import LayerGradCam  # only pages with maps need it
    except ImportError as error:
        raise UserError("captum isn't installed: pip install 'convnext_ablation[study]'") from error
    model, arguments = _load(folder)
    config = resolve_data_config(arguments.preprocessing(), model=model)
    transform = create_transform(**config, is_training=False)
    mode = arguments.image_mode
    batch = torch.stack([transform(_opened(path, mode)) for path in images])  # (B, C, H, W)
    layer, grid = _layer(model, batch[:1])
    grad_cam = LayerGradCam(model, model.get_submodule(layer))
    maps = []
    for image, target in zip(batch.split(1), targets, strict=True):  # what the backward pass keeps is large
        heat = grad_cam.attribute(image, target=target, relu_attributions=True).detach()[0, 0]
        heat = (heat / heat.max().clamp_min(1e-30)).numpy()
        with torch.no_grad():
            probability, predicted = model(image).float().softmax(dim=1)[0].max(dim=0)
        maps.append(Map(_picture(image[0], config, heat), heat, int(predicted), float(probability)))
    return Attention(layer, grid, maps)


def _load(folder: Path) -> tuple[nn.Module, TrainingArguments]:
    """The network of a run with the weights of its best epoch, those that were evaluated."""
    run = TrainingArguments(model="", device="cpu")
    weights = TrainedWeights(TrainedArguments(run=run, checkpoint=str(folder / BEST)))
    model = weights.network(weights.arguments.num_classes, Processes(torch.device("cpu")))
    weights.load(model)
    return model.eval(), weights.arguments


def _opened(path: Path, mode: str) -> Image.Image:
    try:
        with open_picture(path) as image:
            return as_seen(image, mode)[0]
    except Exception as error:  # decoders raise anything
        raise UserError(f"{path}: can't be decoded: {error}") from error


def _layer(model: nn.Module, image: torch.Tensor) -> tuple[str, tuple[int, int]]:
    """The last stage with enough positions, the first if none has; its height and width."""
    with torch.no_grad():
        outputs = model.forward_intermediates(image, intermediates_only=True)  # type: ignore[operator]
    names = [str(info["module"]) for info in model.feature_info]  # type: ignore[union-attr]
    sizes = {name: (each.shape[-2], each.shape[-1]) for name, each in zip(names, outputs, strict=True)}
    enough = [name for name, size in sizes.items() if min(size) >= _SMALLEST]
    chosen = enough[-1] if enough else names[0]
    return chosen, sizes[chosen]


def _picture(image: torch.Tensor, config: Mapping[str, Any], heat: NDArray[np.float32]) -> Image.Image:
    """What the network is given, (C, H, W), in grey, and over it the map, brighter where it is higher."""
    from matplotlib import colormaps

    mean, std = (torch.tensor(config[name]).view(-1, 1, 1) for name in ("mean", "std"))
    picture = to_pil_image((image * std + mean).clamp(0, 1)).convert("L")
    scale = SIDE / max(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    grey = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    wide = Image.fromarray(heat).resize(size, Image.Resampling.BILINEAR)
    colours = colormaps["inferno"](np.clip(np.asarray(wide), 0, 1))[..., :3]
    return Image.blend(grey, Image.fromarray(np.round(255 * colours).astype(np.uint8)), 0.5)
