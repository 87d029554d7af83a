"""Static cost of a network: parameters and multiply-accumulates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> int:
    """Number of parameters of a network."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_gmacs(model: nn.Module, input_size: Sequence[int]) -> float:
    """Billions of multiply-accumulates of convs and linear layers for one image.

    Args:
        model: The network, on any device; on ``meta`` nothing is computed.
        input_size: Channels, height and width of the image.
    """
    device = next(model.parameters()).device
    training = model.training
    model.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, *input_size, device=device))
    model.train(training)
    return counter.get_total_flops() / 2 / 1e9  # a multiply-accumulate is two floating-point operations
