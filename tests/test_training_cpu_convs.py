"""Convs as a CPU trains them: same outputs, right gradients, in less time where that is possible."""

from __future__ import annotations

import pytest
import timm
import torch
from torch.nn.functional import conv2d

import convnext_ablation.models.zoo  # noqa: F401  registers the networks
from convnext_ablation.training import cpu_convs
from convnext_ablation.training.cpu_convs import (
    DepthwiseConv2d,
    SmallMapConv2d,
    make_depthwise_fast,
    make_gradients_right,
    weight_gradient,
)
from convnext_ablation.training.loop import Trainer


def conv(kernel: int | tuple[int, int] = 7, channels: int = 96, **options) -> DepthwiseConv2d:
    torch.manual_seed(0)
    height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
    options = {"padding": (height // 2, width // 2), "groups": channels} | options
    module = torch.nn.Conv2d(channels, channels, (height, width), **options)
    make_depthwise_fast(module)
    return module


@pytest.fixture
def pieces(monkeypatch):
    """The kernels whose weight gradients were computed in pieces."""
    kernels = []

    def noted(x, gradient, weight):
        kernels.append(tuple(weight.shape[2:]))
        return weight_gradient(x, gradient, weight)

    monkeypatch.setattr(cpu_convs, "weight_gradient", noted)
    return kernels


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kernel", [(7, 3), (3, 5), (7, 7), (11, 11), (3, 15)])
def test_the_gradient_in_pieces_is_that_of_the_whole_kernel(kernel, memory_format):
    torch.manual_seed(0)
    height, width = kernel
    x, gradient = (torch.randn(3, 4, 16, 17, dtype=torch.float64) for _ in range(2))
    x, gradient = x.to(memory_format=memory_format), gradient.to(memory_format=memory_format)
    weight = torch.zeros(4, 1, height, width, dtype=torch.float64, requires_grad=True)
    conv2d(x, weight, padding=(height // 2, width // 2), groups=4).backward(gradient)
    ours = weight_gradient(x, gradient, weight.detach())
    torch.testing.assert_close(ours, weight.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(7, 7), (14, 28)])
def test_outputs_are_the_same_and_gradients_equal_up_to_rounding(size, bias, pieces):
    fast = conv(bias=bias, channels=768)
    x = torch.randn(2, 768, *size).to(memory_format=torch.channels_last).requires_grad_()
    y = fast(x)
    gradient = torch.randn_like(y)
    y.backward(gradient)
    assert pieces == [(7, 7)]
    assert torch.equal(y, conv2d(x, fast.weight, fast.bias, padding=3, groups=768))

    leaves = [leaf.detach().double().requires_grad_() for leaf in (x, *fast.parameters())]
    true_y = conv2d(leaves[0], leaves[1], leaves[2] if bias else None, padding=3, groups=768)
    true_y.backward(gradient.double())
    for ours, true in zip((x, *fast.parameters()), leaves, strict=True):
        # sums of up to 784 numbers each, in float32
        assert (ours.grad - true.grad).abs().max() <= 1e-5 * true.grad.abs().max()


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({"kernel": 3}, (2, 96, 14, 14)),  # not wider than a piece
        ({"kernel": 7, "stride": 2}, (2, 96, 14, 14)),
        ({"kernel": 7, "padding": 0}, (2, 96, 14, 14)),
        ({"kernel": 7}, (2, 96, 6, 14)),  # a map lower than the kernel
        ({"kernel": 7, "channels": 24}, (2, 24, 16, 16)),  # too small a batch
        ({"kernel": 6}, (2, 96, 14, 14)),  # no middle column
    ],
)
def test_what_gains_nothing_stays_as_it_is(options, shape, pieces):
    module = conv(**options)
    settings = {"kernel_size": options["kernel"], "padding": options["kernel"] // 2}
    settings |= {name: value for name, value in options.items() if name not in ("kernel", "channels")}
    plain = torch.nn.Conv2d(shape[-3], shape[-3], groups=shape[-3], **settings)
    plain.load_state_dict(module.state_dict())
    x = torch.randn(shape, dtype=options.get("dtype"))
    ours, theirs = module(x), plain(x)
    ours.sum().backward()
    theirs.sum().backward()
    assert torch.equal(ours, theirs)
    assert torch.equal(module.weight.grad, plain.weight.grad)
    assert pieces == []


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_gradients_have_the_strides_of_their_tensors(memory_format, pieces):
    # DistributedDataParallel copies those that have others, and warns
    module = conv().to(memory_format=memory_format)
    x = torch.randn(4, 96, 14, 14).to(memory_format=memory_format).requires_grad_()
    module(x).square().sum().backward()
    assert module.weight.grad.stride() == module.weight.stride()
    assert x.grad.stride() == x.stride()
    assert pieces


def test_trained_depthwise_convs_compute_in_float32_under_autocast(arguments, tmp_path):
    model = Trainer(arguments(model="model_v_atto", amp=True, amp_dtype="bfloat16"), tmp_path).model
    plain = timm.create_model("model_v_atto", num_classes=3, in_chans=1)
    assert list(model.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(model.state_dict())
    block, reference = model.stages[0].blocks[0], plain.stages[0].blocks[0]
    images = torch.randn(2, 24, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        spatial, pointwise = block.conv1(images), block.conv2(images)
        of_bf16 = block.conv1(images.bfloat16())
    assert pointwise.dtype == torch.bfloat16
    assert spatial.dtype == of_bf16.dtype == torch.float32
    assert torch.equal(spatial, reference.conv1(images))


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
