"""Devices of other makers, as far as can be tested without them."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from convnext_ablation.errors import UserError
from convnext_ablation.training import checks
from convnext_ablation.training.distributed import check_device, prepare_torch
from convnext_ablation.training.loop import Trainer
from convnext_ablation.training.network import create_precision

OTHERS = ("mps", "xpu")


@pytest.mark.parametrize("kind", OTHERS)
def test_a_device_that_is_not_here_is_refused_in_one_line(kind, monkeypatch):
    def refuse(*_, device):
        raise RuntimeError(f"PyTorch is not linked with support for {device} devices")

    monkeypatch.setattr(torch, "zeros", refuse)  # on a machine that has it, too
    refused = f"device {kind} can't be used here; give --device cpu: PyTorch is not linked"
    with pytest.raises(UserError, match=refused):
        check_device(kind)


@pytest.mark.parametrize("kind", OTHERS)
def test_precision_is_that_of_the_device(kind, arguments):
    device = torch.device(kind)
    half, scaler = create_precision(arguments(amp=True), device)
    assert (half().device, half().fast_dtype) == (kind, torch.float16)
    assert scaler._scaler._device == kind  # else small gradients are 0 in float16
    assert create_precision(arguments(amp=True, amp_dtype="bfloat16"), device)[1] is None
    with pytest.raises(UserError, match="device meta has no amp; leave it out"):
        create_precision(arguments(amp=True), torch.device("meta"))


@pytest.mark.parametrize("kind", OTHERS)
def test_only_cpus_are_held_to_deterministic_algorithms(kind):
    prepare_torch(torch.device(kind))  # of which others lack many
    assert not torch.are_deterministic_algorithms_enabled()
    prepare_torch(torch.device("cpu"))
    assert torch.are_deterministic_algorithms_enabled()


class _WithoutFloat64(TorchDispatchMode):
    """As Apple's GPUs are."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.dtype == torch.float64:
            raise TypeError(f"{func}: float64 is not supported")
        return made


def test_training_and_evaluation_need_no_float64(arguments, tmp_path):
    run = arguments(model="model_v_atto", epochs=1, model_ema=True, smoothing=0.1, reprob=0.5)
    with _WithoutFloat64():
        trainer = Trainer(run, tmp_path / "run")
        (epoch,) = trainer.run()
        assert trainer.evaluate("val").top1 >= 0
    assert epoch.train_loss > 0


class _OnACpuOnly(nn.Module):
    pretrained_cfg = {"input_size": (1, 32, 32)}  # noqa: RUF012

    def __init__(self, *_):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 8)

    def forward(self, images):
        if images.is_meta:
            raise NotImplementedError("an operator does not support meta tensors")
        return self.conv(images).mean((2, 3))


def test_a_network_that_cannot_be_tried_without_memory_is_tried_on_the_cpu(arguments, monkeypatch):
    monkeypatch.setattr(checks, "build_network", _OnACpuOnly)
    checks.dry_run(arguments(num_classes=2))
    with pytest.raises(UserError, match=r"can't take images of 7 x 32 px: .*; give at least 8 px"):
        checks.dry_run(arguments(num_classes=2, input_size=[1, 7, 32]))
