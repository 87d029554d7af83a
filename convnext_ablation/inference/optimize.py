"""Chooses a network's fastest form for inference by measurement, and checks that outputs agree."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from timm.utils.model import reparameterize_model
from torch import nn

from convnext_ablation.errors import UserError, first_line
from convnext_ablation.inference.batches import PartByPart, choose
from convnext_ablation.inference.convs import FusedConv, PackedConv, packing_works, prepare
from convnext_ablation.inference.simplify import sections_of
from convnext_ablation.machine import compile_network
from convnext_ablation.models.network import ResNetToConvNeXt
from convnext_ablation.timing import interleaved

_logger = logging.getLogger(__name__)

# relative to the largest output: above the rounding of each dtype
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.2, torch.float16: 0.05}
_ROUNDS = 3
_BATCH_SIZE = 16


@dataclass(frozen=True)
class Choice:
    """What `optimize_for_inference` chose, and why."""

    form: str  # packed, folded, channels_last or compiled; plain if the others' outputs differ
    images_at_a_time: tuple[int, ...] = ()  # chunk size by section; empty if not split
    seconds: Mapping[str, float] = field(default_factory=dict)  # per call on the example, by form
    difference: Mapping[str, float] = field(default_factory=dict)  # largest output difference to plain


class OptimizedNetwork(nn.Module):
    """An inference-only network: it can't be trained, and is rebuilt rather than saved."""

    def __init__(self, network: nn.Module, like: nn.Module, dtype: torch.dtype, choice: Choice) -> None:
        """Wraps `network`, made from `like`, which takes inputs in channels_last and `dtype`."""
        super().__init__()
        self.network = network
        self.dtype = dtype
        self.choice = choice
        self.num_classes: int | None = getattr(like, "num_classes", None)
        self.pretrained_cfg: Any = getattr(like, "pretrained_cfg", None)
        super().train(False)

    def train(self, mode: bool = True) -> OptimizedNetwork:
        """Stays in eval mode.

        Raises:
            UserError: `mode` is True.
        """
        if mode:
            raise UserError("an optimized network can't be trained; train the one that it was made from")
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W) -> (B, num_classes)`` for any batch and image size, in the dtype of `x`."""
        out = self.network(x.to(self.dtype, memory_format=torch.channels_last))
        return out.to(x.dtype, copy=x.is_cuda)  # the next call of a CUDA graph overwrites its output


@torch.no_grad()
def optimize_for_inference(
    model: nn.Module,
    example_input: torch.Tensor | None = None,
    *,
    size: int | tuple[int, int] | None = None,
    batch_size: int = _BATCH_SIZE,
    dtype: torch.dtype | None = None,
    compiled: bool | None = None,
) -> OptimizedNetwork:
    """Returns a network's fastest form with the same outputs, for this device and these inputs.

    Our networks are simplified (see `convnext_ablation.inference.simplify`): norms, layer scales and bare
    convs are folded into neighbouring convs. They run in channels_last with fused activations and additions
    and prepacked weights, and each stage takes the number of images that measured fastest. Other networks
    are reparameterized by timm, and tried in channels_last and, compiled, with frozen weights. Every form is
    compared with `model` on the example. In float32, forms that differ by more than 1e-4 of the largest
    output are rejected.

    The result takes any batch and image size. It is tuned for those of the example, up to 16 images, and for
    torch's current number of threads.

    Args:
        model: The network, which is not modified.
        example_input: Typical images, ``(B, C, H, W)``, on the model's device.
        size: Height and width of a random example, if none is given; by default the model's own.
        batch_size: Images of a random example.
        dtype: Dtype to compute in; by default that of the weights. Outputs in bfloat16 and float16 differ by
            rounding.
        compiled: Whether to try `torch.compile`, which takes seconds to minutes and a C++ compiler. By
            default, only where it has been measured to pay: on GPUs, and for networks that aren't ours.

    Raises:
        UserError: The network rejects the dtype, size or example, or doesn't return a tensor.
    """
    dtype = dtype or next(model.parameters()).dtype
    if dtype not in _TOLERANCE:
        raise UserError(f"dtype is {dtype}; choose from {', '.join(map(str, _TOLERANCE))}")
    x = _example(model, size, batch_size) if example_input is None else example_input
    was_training = model.training
    if x.ndim != 4 or 0 in x.shape:
        raise UserError(f"the example is {tuple(x.shape)}; it must be (images, channels, height, width)")
    try:
        expected = model.eval()(x)
    except RuntimeError as error:
        raise UserError(
            f"the network can't take an input of {tuple(x.shape)}: {first_line(error)}"
        ) from error
    finally:
        model.train(was_training)
    if not isinstance(expected, torch.Tensor):
        raise UserError(f"the network puts out a {type(expected).__name__}; only classifiers are optimized")

    x = x.to(dtype, memory_format=torch.channels_last)
    simplest = copy.deepcopy(model).eval().to(dtype).to(memory_format=torch.channels_last)
    forms: dict[str, nn.Module] = {}
    if isinstance(model, ResNetToConvNeXt) and x.device.type == "cpu":
        form = "packed" if packing_works(dtype) else "folded"
        forms[form] = _part_by_part(model, x, dtype, form == "packed")
    else:
        forms["channels_last"] = reparameterize_model(simplest)
    if compiled or (compiled is None and "channels_last" in forms):
        network = _compiled(reparameterize_model(simplest), x)
        if network is not None:
            forms["compiled"] = network
    return _fastest(forms, simplest, model, x, expected)


def _example(model: nn.Module, size: int | tuple[int, int] | None, batch_size: int) -> torch.Tensor:
    """An example of random pixels."""
    first = next((each for each in model.modules() if isinstance(each, nn.Conv2d)), None)
    channels = first.in_channels if first is not None else 3
    if size is None:
        config = getattr(model, "pretrained_cfg", None) or {}
        size = tuple(config.get("input_size") or (3, 224, 224))[1:]
    height, width = (size, size) if isinstance(size, int) else size
    weight = next(model.parameters())
    images = torch.randn(batch_size, channels, height, width, generator=torch.Generator().manual_seed(0))
    return images.to(weight.device, weight.dtype)


def _part_by_part(model: ResNetToConvNeXt, x: torch.Tensor, dtype: torch.dtype, packed: bool) -> nn.Module:
    """Our network, simplified and split into sections."""
    sections = sections_of(model)
    for section in sections:
        section.to(dtype)
        for module in section.modules():
            if isinstance(module, FusedConv):
                module.convert(dtype)
                if packed:
                    module.__class__ = PackedConv
    some = x[:_BATCH_SIZE]
    network = PartByPart(sections, choose(sections, some)).eval()
    for section in sections:
        prepare(section, keep=False)
    network(some)
    return network


def _compiled(network: nn.Module, x: torch.Tensor) -> nn.Module | None:
    """The network compiled with frozen weights; None with a warning if compilation fails."""
    options: dict[str, Any] = {"freezing": True} if x.device.type == "cpu" else {"triton.cudagraphs": True}
    try:
        fast: nn.Module = compile_network(network, options=options)
        fast(x)
    except Exception as error:  # a missing or failing compiler raises no public class
        _logger.warning("torch.compile failed and is left out: %s", first_line(error))
        return None
    return fast


def _fastest(
    forms: Mapping[str, nn.Module],
    plain: nn.Module,
    model: nn.Module,
    x: torch.Tensor,
    expected: torch.Tensor,
) -> OptimizedNetwork:
    """The fastest form whose outputs agree."""
    right: dict[str, Callable[[], object]] = {}
    differences: dict[str, float] = {}
    allowed = _TOLERANCE[x.dtype] * max(1.0, expected.abs().max().item())
    for form, network in forms.items():
        differences[form] = (network(x).float() - expected.float()).abs().max().item()
        if not differences[form] <= allowed:  # NaN fails too
            _logger.warning(
                "the form %r is left out: its outputs differ by %.1e from the plain network's",
                form,
                differences[form],
            )
        else:
            right[form] = partial(network, x)
    if not right:
        return OptimizedNetwork(plain, model, x.dtype, Choice("plain", (), {}, differences))
    # the minimum over calls: other load on the machine only adds time
    seconds = {form: times.lowest for form, times in interleaved(right, _ROUNDS, warm_up=1).items()}
    form = min(seconds, key=lambda each: seconds[each])
    chosen = forms[form]
    parts = tuple(chosen.at_a_time) if isinstance(chosen, PartByPart) else ()
    return OptimizedNetwork(chosen, model, x.dtype, Choice(form, parts, seconds, differences))
