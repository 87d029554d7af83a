"""Gradients of convs on maps smaller than their kernel, in bfloat16."""

import pytest
import torch
from torch.nn.functional import conv2d

from convnext_ablation.training.cpu_convs import SmallMapConv2d, make_depthwise_fast, make_gradients_right
from convnext_ablation.training.loop import Trainer


def spoil(weight):
    """Leaves memory full of NaN that a gradient of this size may be computed in."""
    for _ in range(4):
        torch.full_like(weight, float("nan"))
        torch.full((4 * weight.numel(),), float("nan"))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("kernel", "side", "stride", "groups"),
    [(3, 1, 2, 1), (5, 1, 1, 1), (7, 1, 1, 1), (7, 2, 1, 1), (7, 2, 2, 1), (7, 4, 1, 1), (7, 1, 2, 128)],
)
def test_kernel_positions_that_see_padding_only_get_no_gradient(kernel, side, stride, groups, memory_format):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(128, 128, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    conv = conv.bfloat16().to(memory_format=memory_format)
    make_depthwise_fast(conv)
    make_gradients_right(conv)
    x = torch.randn(4, 128, side, side).bfloat16().to(memory_format=memory_format).requires_grad_()
    spoil(conv.weight)
    y = conv(x)
    y.backward(torch.ones_like(y))
    leaves = [leaf.detach().double().requires_grad_() for leaf in (x, conv.weight)]
    true = conv2d(*leaves, stride=stride, padding=kernel // 2, groups=groups)
    true.backward(torch.ones_like(true))
    assert conv.weight.grad.is_contiguous(memory_format=memory_format)
    for ours, double in ((y, true), (x.grad, leaves[0].grad), (conv.weight.grad, leaves[1].grad)):
        assert (ours.double() - double).abs().max() <= 0.02 * double.abs().max()


def test_training_computes_with_them_and_as_before_in_float32(arguments, tmp_path):
    kwargs = {"kernel_size": 5}
    model = Trainer(arguments(model="resnet_to_convnext_atto", model_kwargs=kwargs), tmp_path).model
    conv = model.stages[-1].blocks[-1].conv2
    assert (type(conv), conv.kernel_size) == (SmallMapConv2d, (5, 5))
    x = torch.randn(2, conv.in_channels, 1, 1)
    assert torch.equal(conv(x), conv2d(x, conv.weight, conv.bias, padding=2))
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16
