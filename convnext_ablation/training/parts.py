"""What a run is put together from: the network, its loss, and the average of its weights."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import convert_sync_batchnorm, set_fast_norm
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.utils import ModelEmaV3, NativeScaler
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from convnext_ablation.errors import UserError, unknown_name
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.checkpoints import check_weights
from convnext_ablation.training.depthwise import make_depthwise_fast
from convnext_ablation.training.distributed import Processes

Precision = Callable[[], AbstractContextManager[Any]]


def create_network(arguments: TrainingArguments, num_classes: int, processes: Processes) -> nn.Module:
    """Makes the network on its device, with the weights that training starts from.

    Args:
        arguments: Name the network and its weights.
        num_classes: Outputs of its classifier.
        processes: This process and the others.

    Raises:
        UserError: There is no such network, or it can't be made or loaded as asked.
    """
    if arguments.fast_norm:
        set_fast_norm()
    model = _created(arguments, num_classes)
    if arguments.head_init_scale is not None or arguments.head_init_bias is not None:
        _change_head(model, arguments)
    if arguments.grad_checkpointing:
        model.set_grad_checkpointing(enable=True)  # type: ignore[operator]
    model.to(device=processes.device, dtype=getattr(torch, arguments.model_dtype or "float32"))
    model.to(memory_format=memory_format(arguments))
    if arguments.amp and processes.device.type == "cpu":
        make_depthwise_fast(model)  # `Trainer` does so without autocast too
    if arguments.sync_bn and processes.world_size > 1:
        if processes.device.type != "cuda":
            raise UserError(
                "sync_bn works on GPUs only; leave it out, --dist-bn reduce averages at each epoch"
            )
        model = convert_sync_batchnorm(model)
    return model


def _created(arguments: TrainingArguments, num_classes: int) -> nn.Module:
    name = arguments.model
    if ":" not in name and not timm.is_model(name):  # a colon: on a hub, or in a folder
        raise unknown_name("model", name.partition(".")[0], timm.list_models())
    further: dict[str, Any] = {}
    for path in (arguments.pretrained_path, arguments.initial_checkpoint):
        if path:
            check_weights(Path(path))  # says in a line what is wrong with it, as timm does not
    if arguments.pretrained_path:
        # -1: timm then makes a new classifier, for as many classes as there are here
        further["pretrained_cfg_overlay"] = {"file": arguments.pretrained_path, "num_classes": -1}
    try:
        return timm.create_model(
            name,
            pretrained=arguments.pretrained or bool(arguments.pretrained_path),
            num_classes=num_classes,
            in_chans=arguments.channels,
            drop_rate=arguments.drop,
            drop_path_rate=arguments.drop_path,
            global_pool=arguments.gp,
            checkpoint_path=arguments.initial_checkpoint,
            **further,
            **arguments.model_kwargs,
        )
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"{name}: can't be made: {' '.join(str(error).split())[:400]}") from error


@torch.no_grad()
def _change_head(model: nn.Module, arguments: TrainingArguments) -> None:
    head = model.get_classifier()  # type: ignore[operator]
    if arguments.head_init_scale is not None:
        head.weight.mul_(arguments.head_init_scale)
        head.bias.mul_(arguments.head_init_scale)
    if arguments.head_init_bias is not None:
        nn.init.constant_(head.bias, arguments.head_init_bias)


def memory_format(arguments: TrainingArguments) -> torch.memory_format:
    """The layout of images and weights in memory."""
    return torch.channels_last if arguments.channels_last else torch.contiguous_format


def wrap_network(model: nn.Module, arguments: TrainingArguments, processes: Processes) -> nn.Module:
    """Puts around the network what compiles it and what averages its gradients over processes."""
    if arguments.torchcompile:
        model = torch.compile(  # type: ignore[assignment]
            model, backend=arguments.torchcompile, mode=arguments.torchcompile_mode
        )
    if processes.world_size > 1:
        devices = None if processes.device.type == "cpu" else [processes.device]
        # newer torch warns of the argument even where it is given its default
        without: dict[str, Any] = {"broadcast_buffers": False} if arguments.no_ddp_bb else {}
        model = DistributedDataParallel(model, device_ids=devices, **without)
    return model


def create_loss(arguments: TrainingArguments) -> nn.Module:
    """The training loss; timm's script picks it by the same rules."""
    binary = partial(
        BinaryCrossEntropy,
        target_threshold=arguments.bce_target_thresh,
        sum_classes=arguments.bce_sum,
        pos_weight=arguments.bce_pos_weight,
    )
    if arguments.mixes:  # the targets are smoothed when they are mixed
        return binary() if arguments.bce_loss else SoftTargetCrossEntropy()
    if arguments.smoothing:
        if arguments.bce_loss:
            return binary(smoothing=arguments.smoothing)
        return LabelSmoothingCrossEntropy(arguments.smoothing)
    return nn.CrossEntropyLoss()


def create_average(model: nn.Module, arguments: TrainingArguments) -> ModelEmaV3 | None:
    """The average of the weights, if one is kept."""
    if not arguments.model_ema:
        return None
    device = torch.device("cpu") if arguments.model_ema_force_cpu else None
    return ModelEmaV3(
        model, decay=arguments.model_ema_decay, use_warmup=arguments.model_ema_warmup, device=device
    )


def create_precision(
    arguments: TrainingArguments, device: torch.device
) -> tuple[Precision, NativeScaler | None]:
    """The context that the network runs in, and what scales the loss where float16 needs it."""
    if not arguments.amp:
        return nullcontext, None
    dtype = getattr(torch, arguments.amp_dtype)
    scaler = NativeScaler(device=device.type) if device.type == "cuda" and dtype == torch.float16 else None
    return partial(torch.autocast, device.type, dtype), scaler
