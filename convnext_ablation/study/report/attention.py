"""Where a trained network looks: Grad-CAM (Selvaraju et al., 2017, arXiv:1610.02391) by captum.

A map says which positions of a feature map speak for a class. It is drawn over the image as the network sees
it. It shows what the classifier uses there, not why, and it is as coarse as the feature map: of the last
stage 7x7 at 224 px. Where images are so small that the last stage has less than 4x4 positions, an earlier
stage's output is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.models import clean_state_dict, get_pretrained_cfg
from torch import nn
from torchvision.transforms.functional import to_pil_image

from convnext_ablation.errors import UserError
from convnext_ablation.models import zoo  # noqa: F401  registers the networks
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.checkpoints import BEST, load_checkpoint
from convnext_ablation.training.distributed import Processes
from convnext_ablation.training.parts import create_network

__all__ = ["Attention", "Map", "attention"]

SIDE = 160  # pixels of a picture
_SMALLEST = 4  # positions of a side, below which a map says nothing
_ROWS, _COLUMNS = ("upper", "middle", "lower"), ("left", "centre", "right")


class Map(NamedTuple):
    """What speaks for an image's class.

    Attributes:
        picture: The image as the network sees it, with the map over it.
        heat: The map, ``(H, W)``, 0 to 1; all 0 where nothing speaks for the class.
        predicted: The most probable class.
        probability: Its probability.
        place: Where the map is highest, in words; empty where nothing speaks for the class.
    """

    picture: Image.Image
    heat: NDArray[np.float32]
    predicted: int
    probability: float
    place: str


class Attention(NamedTuple):
    """The maps of one network, one for each image: of which module's output, and its height and width."""

    layer: str
    grid: tuple[int, int]
    maps: list[Map]


def attention(folder: Path, images: Sequence[Path], targets: Sequence[int]) -> Attention:
    """Draws what speaks for the class of each of some images in a run's best weights.

    Raises:
        UserError: captum isn't installed, the weights aren't there, or they or an image can't be read.
    """
    try:
        from captum.attr import LayerGradCam  # only pages with maps need it
    except ImportError as error:
        raise UserError("captum isn't installed: pip install 'convnext_ablation[study]'") from error
    model, arguments = _load(folder)
    config = resolve_data_config(_given(arguments), model=model)
    batch = _prepared(images, arguments, config)
    layer, grid = _layer(model, batch[:1])
    with torch.no_grad():
        probability, predicted = model(batch).float().softmax(dim=1).max(dim=1)
    grad_cam = LayerGradCam(model, model.get_submodule(layer))
    maps = [  # one image at a time: what the backward pass keeps is large
        grad_cam.attribute(image[None], target=target, relu_attributions=True).detach()[0]
        for image, target in zip(batch, targets, strict=True)
    ]
    heats = _scaled(torch.cat(maps))
    pictures = _pictures(batch, config)
    said = zip(predicted.tolist(), probability.tolist(), strict=True)
    drawn = [
        Map(_overlaid(picture, heat), heat, number, share, _place(heat))
        for picture, heat, (number, share) in zip(pictures, heats, said, strict=True)
    ]
    return Attention(layer, grid, drawn)


def _load(folder: Path) -> tuple[nn.Module, TrainingArguments]:
    """The network of a run with the weights of its best epoch, those that were evaluated."""
    state = load_checkpoint(folder / BEST)
    saved = state.get("args") or {}
    saved = dict(saved if isinstance(saved, Mapping) else vars(saved))
    names = {field.name for field in fields(TrainingArguments)}
    arguments = TrainingArguments(**{name: value for name, value in saved.items() if name in names})
    averaged = arguments.model_ema and not arguments.model_ema_force_cpu and "state_dict_ema" in state
    weights = clean_state_dict(state["state_dict_ema" if averaged else "state_dict"])
    bare = replace(arguments, pretrained=False, pretrained_path=None, initial_checkpoint="", device="cpu")
    bare = replace(bare, model_dtype=None)
    try:
        model = create_network(bare, _count_classes(weights, arguments.model), Processes(torch.device("cpu")))
        model.load_state_dict(weights)
    except (KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder / BEST}: can't be loaded: {reason}") from error
    return model.eval(), arguments


def _count_classes(weights: Mapping[str, torch.Tensor], name: str) -> int:
    """Outputs of the classifier that the weights hold."""
    cfg = get_pretrained_cfg(name)
    return len(weights[f"{cfg.classifier}.weight"])


def _given(arguments: TrainingArguments) -> dict[str, Any]:
    names = ("img_size", "input_size", "mean", "std", "crop_pct", "interpolation", "in_chans")
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name)}


def _prepared(
    images: Sequence[Path], arguments: TrainingArguments, config: Mapping[str, Any]
) -> torch.Tensor:
    """Images as the network is given them in evaluation, ``(B, C, H, W)``."""
    transform = create_transform(**config, is_training=False)
    mode = arguments.input_img_mode or ("RGB" if arguments.channels == 3 else "L")
    return torch.stack([transform(_opened(path, mode)) for path in images])


def _opened(path: Path, mode: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert(mode)
    except Exception as error:  # decoders raise anything
        raise UserError(f"{path}: can't be decoded: {error}") from error


def _layer(model: nn.Module, image: torch.Tensor) -> tuple[str, tuple[int, int]]:
    """The last stage with enough positions, the first if none has; its height and width."""
    with torch.no_grad():
        outputs = model.forward_intermediates(image, intermediates_only=True)  # type: ignore[operator]
    names = [str(info["module"]) for info in model.feature_info]  # type: ignore[union-attr]
    sizes = {name: (each.shape[-2], each.shape[-1]) for name, each in zip(names, outputs, strict=True)}
    enough = [name for name, size in sizes.items() if min(size) >= _SMALLEST]
    chosen = enough[-1] if enough else next(iter(sizes))
    return chosen, sizes[chosen]


def _scaled(maps: torch.Tensor) -> NDArray[np.float32]:
    """Each map divided by its highest value, ``(B, H, W)``; 0 where that is 0."""
    highest = maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(highest > 0, maps / highest.clamp_min(1e-30), torch.zeros_like(maps)).numpy()


def _pictures(batch: torch.Tensor, config: Mapping[str, Any]) -> list[Image.Image]:
    """The batch as pictures, ``(B, C, H, W)`` normalised to RGB."""
    mean, std = (torch.tensor(config[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
    pixels = ((batch * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)
    pixels = pixels.expand(-1, 3, -1, -1) if pixels.shape[1] == 1 else pixels[:, :3]
    return [to_pil_image(each) for each in pixels]


def _overlaid(picture: Image.Image, heat: NDArray[np.float32]) -> Image.Image:
    """The picture in grey with the map over it in colours that grow brighter with it."""
    from matplotlib import colormaps

    scale = SIDE / max(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    grey = picture.convert("L").convert("RGB").resize(size, Image.Resampling.BICUBIC)
    wide = Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    colours = colormaps["inferno"](np.clip(np.asarray(wide), 0, 1))[..., :3]
    return Image.blend(grey, Image.fromarray(np.round(255 * colours).astype(np.uint8)), 0.5)


def _place(heat: NDArray[np.float32]) -> str:
    """Which ninth of the image the highest value is in."""
    if not heat.max() > 0:
        return ""
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    vertical = _ROWS[min(2, int((row + 0.5) * 3 / heat.shape[0]))]
    horizontal = _COLUMNS[min(2, int((column + 0.5) * 3 / heat.shape[1]))]
    return "centre" if (vertical, horizontal) == ("middle", "centre") else f"{vertical} {horizontal}"
