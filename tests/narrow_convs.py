"""Compares the gradients of narrow networks' strided convs with double precision, and prints the wrong ones.

Run in a process of its own: where oneDNN writes past its buffer, the process may crash or hang.
"""

import copy
import itertools
import sys
from unittest import mock

import torch
from torch import nn

from convnext_ablation.models.components import DOWNSAMPLINGS, Components
from convnext_ablation.models.network import ResNetToConvNeXt

IMAGES = ((2, 8), (1, 64), (2, 128))  # number and side; oneDNN sums few pixels at once, many in parts
WIDTHS = (1, 3, 7, 15)  # the later stages: 2, 4, ... times as many
FLAGS = ("depthwise", "inverted", "moved_up")
# only the first block of a stage strides
ONE_BLOCK_A_STAGE = mock.patch.object(Components, "depths", (1, 1, 1, 1))


def strided_convs():
    """Every kind of strided conv in networks that begin with so few channels."""
    found = {}
    for width, downsampling, *values in itertools.product(
        WIDTHS, DOWNSAMPLINGS, *[(False, True)] * len(FLAGS)
    ):
        switches = dict(zip(FLAGS, values, strict=True))
        components = Components(kernel_size=1, downsampling=downsampling, **switches)
        with ONE_BLOCK_A_STAGE:
            model = ResNetToConvNeXt(components, width_factor=width / components.width, device="meta")
        for stage in model.stages:
            for conv in stage.modules():
                if isinstance(conv, nn.Conv2d) and conv.stride != (1, 1) and conv.in_channels <= 24:
                    found.setdefault(f"{conv}", conv)
    for conv in found.values():
        conv.to_empty(device="cpu").reset_parameters()
    return found


def worst_error(conv, images):
    """The largest error of the conv's gradients, relative to the largest entry of each."""
    exact, exact_images = copy.deepcopy(conv).double(), images.double().requires_grad_()
    images = images.contiguous(memory_format=torch.channels_last).requires_grad_()
    outputs = conv(images)
    outputs_grad = torch.randn_like(outputs)  # in channels_last too
    outputs.backward(outputs_grad)
    exact(exact_images).backward(outputs_grad.double())
    pairs = [(images, exact_images), *zip(conv.parameters(), exact.parameters(), strict=True)]
    errors = [(ours.grad - theirs.grad).abs().max() / theirs.grad.abs().max() for ours, theirs in pairs]
    return max(errors).item()


def main(threads):
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    convs = strided_convs()
    print(f"{len(convs)} convs")
    for name, conv in convs.items():
        for count, side in IMAGES:
            error = worst_error(conv, torch.randn(count, conv.in_channels, side, side))
            conv.zero_grad()
            if not error < 1e-3:
                print(f"{name}, {count} images of {side} px: {error:.1e}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
