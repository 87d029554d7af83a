"""Chooses the fastest form of a network for inference by measurement, and sees that it does the same."""

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

# of the largest output; a lower precision's rounding is no fault, but another network is
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.2, torch.float16: 0.05}
_ROUNDS = 3
_BATCH_SIZE = 16


@dataclass(frozen=True)
class Choice:
    """What `optimize_for_inference` chose, and why."""

    form: str  # packed, folded, channels_last or compiled; plain if no other gave the same outputs
    images_at_a_time: tuple[int, ...] = ()  # by section of the network; empty if it isn't cut
    seconds: Mapping[str, float] = field(default_factory=dict)  # of a call with the example, by form
    difference: Mapping[str, float] = field(default_factory=dict)  # largest of an output to the plain one's


class OptimizedNetwork(nn.Module):
    """A network for inference alone: it has no parameters to train, and is made again rather than saved."""

    def __init__(self, network: nn.Module, like: nn.Module, dtype: torch.dtype, choice: Choice) -> None:
        """Takes a `network` for inputs in channels_last and `dtype`, made from the network `like`."""
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
            UserError: It is to be trained.
        """
        if mode:
            raise UserError("an optimized network can't be trained; train the one that it was made from")
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W) -> (B, num_classes)``, of any batch and size, and in the type of `x`."""
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
    """Returns the fastest form of a network that gives the same outputs, for this device and these inputs.

    Our networks are simplified (norms, layer scales and bare convs folded into the convs beside them, see
    `convnext_ablation.inference.simplify`), run in channels_last with activations and additions fused into
    convs and weights packed once, and take as many images at a time in each stage as measured best. Other
    networks are reparameterized as far as timm can, and tried in channels_last and, compiled, with frozen
    weights. Whatever is tried is compared with `model` on the example: what differs by more than 1e-4 of the
    largest output in float32 isn't taken.

    The result takes inputs of any batch and size, but was measured for those of the example, up to 16 images,
    and as many threads as torch has now.

    Args:
        model: It stays as it is.
        example_input: Images as they will come, ``(B, C, H, W)``, on the model's device.
        size: Height and width of the example where none is given; the model's own if None.
        batch_size: Images of the example where none is given.
        dtype: What to compute in; the type of the model's weights if None. In bfloat16 and float16 outputs
            differ as these types round.
        compiled: Whether to try `torch.compile` too, which takes seconds to minutes and a C++ compiler; None
            for where it has been measured to pay: on GPUs, and for networks that aren't ours.

    Raises:
        UserError: The network can't take the dtype, the size or the example, or puts out other than a tensor.
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
    """Our network, simplified and cut into sections."""
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
    """The network, compiled with its weights frozen; None, and a line that says why, if it can't be."""
    options: dict[str, Any] = {"freezing": True} if x.device.type == "cpu" else {"triton.cudagraphs": True}
    try:
        fast: nn.Module = compile_network(network, options=options)
        fast(x)
    except Exception as error:  # what a missing or failing compiler raises is no public class
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
    """The fastest of the forms whose outputs are right."""
    right: dict[str, Callable[[], object]] = {}
    differences: dict[str, float] = {}
    allowed = _TOLERANCE[x.dtype] * max(1.0, expected.abs().max().item())
    for form, network in forms.items():
        differences[form] = (network(x).float() - expected.float()).abs().max().item()
        if not differences[form] <= allowed:  # nor is NaN
            _logger.warning(
                "the form %r is left out: its outputs differ by %.1e from the plain network's",
                form,
                differences[form],
            )
        else:
            right[form] = partial(network, x)
    if not right:
        return OptimizedNetwork(plain, model, x.dtype, Choice("plain", (), {}, differences))
    # the shortest of some calls: what else the machine does can only lengthen one
    seconds = {form: times.lowest for form, times in interleaved(right, _ROUNDS, warm_up=1).items()}
    form = min(seconds, key=lambda each: seconds[each])
    chosen = forms[form]
    parts = tuple(chosen.at_a_time) if isinstance(chosen, PartByPart) else ()
    return OptimizedNetwork(chosen, model, x.dtype, Choice(form, parts, seconds, differences))
