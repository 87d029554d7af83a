"""The network of a run with its initial weights; its optimizer, schedule, loss and wrappers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial, reduce
from pathlib import Path
from typing import Any

import timm
import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm, set_fast_norm
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.models import group_parameters
from timm.optim import create_optimizer_v2, optimizer_kwargs
from timm.scheduler import create_scheduler_v2, scheduler_kwargs
from timm.utils import NativeScaler, distribute_bn
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from convnext_ablation.data.class_names import check_known, numbers_of
from convnext_ablation.errors import UserError, in_one_line, unknown_name
from convnext_ablation.machine import compile_network
from convnext_ablation.models.checkpoint_files import Checkpoint, read_checkpoint
from convnext_ablation.models.layouts import classes_of, layout_of, unwrapped
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.cpu_convs import make_depthwise_fast
from convnext_ablation.training.distributed import Processes
from convnext_ablation.weights.release import release_of

Precision = Callable[[], AbstractContextManager[Any]]


def create_network(
    arguments: TrainingArguments,
    num_classes: int | None,
    processes: Processes,
    classes: Sequence[str] = (),
    say: Callable[[str], None] = lambda line: None,
) -> nn.Module:
    """Builds the network on its device, with its initial weights.

    If `num_classes` is None, it has the classes of its weights. A trained head is reordered by the names in
    `classes`. `say` is called with a line on the weights that were loaded.
    """
    if arguments.fast_norm:
        set_fast_norm()
    path = arguments.initial_checkpoint or arguments.pretrained_path  # the former overrides the latter
    start = read_checkpoint(path) if path else None
    if start and not arguments.initial_checkpoint:
        # -1 makes timm create a new classifier for the classes of the data
        overlay = {"state_dict": unwrapped(start.weights()), "num_classes": -1}
        with start.named():
            model = build_network(arguments, num_classes, pretrained=True, pretrained_cfg_overlay=overlay)
        model.pretrained_cfg.pop("state_dict", None)  # type: ignore[union-attr, operator]  # else kept twice
        said = start.told(layout_of(start.weights()), "", classes_of(start.weights(), "") or "no known")
        say(f"{said}; the classifier is new")
    else:
        model = build_network(arguments, num_classes, pretrained=arguments.pretrained and not start)
        if start:
            say(start.load(model))
        elif arguments.pretrained:
            say(_pretrained_told(model))
    _order_head(model, arguments, classes, start)
    _change_head(model, arguments)
    if arguments.grad_checkpointing:
        model.set_grad_checkpointing(enable=True)  # type: ignore[operator]
    model.to(device=processes.device, dtype=getattr(torch, arguments.model_dtype or "float32"))
    model.to(memory_format=memory_format(arguments))
    if arguments.amp and processes.device.type == "cpu":
        make_depthwise_fast(model)  # `Parts` does so without autocast too
    if arguments.sync_bn and processes.world_size > 1:
        if processes.device.type != "cuda":
            raise UserError(
                "sync_bn works on GPUs only; leave it out, --dist-bn reduce averages at each epoch"
            )
        model = convert_sync_batchnorm(model)
    return model


def _pretrained_told(model: Any) -> str:
    """What timm has loaded, in one line."""
    cfg = model.pretrained_cfg
    release = release_of(Path(cfg["file"])) if cfg.get("file") else None
    where = cfg.get("hf_hub_id") or cfg.get("file") or cfg.get("url")
    kind = f"{release.kind} weights".strip() if release else "weights"
    new = "" if cfg["num_classes"] == model.num_classes else "; the classifier is new"
    return f"{where}: {kind}, {cfg['num_classes']} classes{new}"


def build_network(arguments: TrainingArguments, num_classes: int | None, **weights: Any) -> nn.Module:
    """Builds the network with timm's `create_model`, which takes `weights`."""
    name = arguments.model
    if ":" not in name and not timm.is_model(name):  # a colon means a hub or a folder
        raise unknown_name("model", name.partition(".")[0], timm.list_models())
    with in_one_line(f"{name}: can't be made"):
        return timm.create_model(
            name,
            num_classes=num_classes,
            in_chans=arguments.channels,
            drop_rate=arguments.drop,
            drop_path_rate=arguments.drop_path,
            global_pool=arguments.gp,
            **weights,
            **arguments.model_kwargs,
        )


def create_optimizer(arguments: TrainingArguments, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer, created as in timm's script."""
    with in_one_line(f"opt {arguments.opt}"):
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            model, **optimizer_kwargs(arguments), **arguments.opt_kwargs
        )
    return optimizer


def create_scheduler(
    arguments: TrainingArguments, optimizer: torch.optim.Optimizer, updates: int
) -> tuple[Any, int]:
    """The learning rate schedule for `updates` updates per epoch, and the total number of epochs."""
    kwargs = scheduler_kwargs(arguments, decreasing_metric=arguments.decreasing_metric)
    scheduler, epochs = create_scheduler_v2(optimizer, **kwargs, updates_per_epoch=updates)
    return scheduler, int(epochs)


def freeze(model: Any, what: str) -> list[str]:
    """Freezes layers of a network.

    Args:
        model: A timm network.
        what: ``head-only`` to freeze all but the classifier, ``stages=N`` for the stem and N stages.

    Returns:
        Names of the largest modules that are entirely frozen. Training keeps them in evaluation mode,
        without updates of BatchNorm statistics and without stochastic depth.

    Raises:
        UserError: timm doesn't list the network's stages, or there are fewer than N.
    """
    if what == "head-only":
        classifier = model.get_classifier()
        heads = classifier if isinstance(classifier, (tuple, list)) else [classifier]
        trained = {parameter for head in heads for parameter in head.parameters()}
        frozen = [parameter for parameter in model.parameters() if parameter not in trained]
    else:
        frozen = _of_first_stages(model, int(what.removeprefix("stages=")))
    for parameter in frozen:
        parameter.requires_grad_(False)
    return list(_frozen_parts(model))


def _of_first_stages(model: Any, count: int) -> list[nn.Parameter]:
    """Parameters of a network's stem and first stages, from timm's groups for layer-wise learning rates."""
    known, name = dict(model.named_parameters()), model.pretrained_cfg["architecture"]
    matcher = getattr(model, "group_matcher", None)
    groups = group_parameters(model, matcher(coarse=True)) if matcher else {}
    sizes = {stage["reduction"] for stage in getattr(model, "feature_info", ())}
    stages = len(groups) - 2  # without stem and head
    names = [name for layer in range(min(count, stages) + 1) for name in groups[layer]]
    are_first = set(names) == set(list(known)[: len(names)])
    if not groups or len(sizes) < 2 or not are_first:
        raise UserError(f"freeze stages={count}: {name} has no stages known to timm; give head-only")
    if count > stages:
        raise UserError(f"freeze is stages={count}, and {name} has {stages} stages; give a smaller number")
    return [known[name] for name in names]


def _frozen_parts(module: nn.Module, name: str = "") -> Iterator[str]:
    """Names of the largest modules that have parameters, all of them frozen."""
    trained = [parameter.requires_grad for parameter in module.parameters()]
    if trained and not any(trained):
        yield name
    elif trained:
        for below, child in module.named_children():
            yield from _frozen_parts(child, f"{name}.{below}" if name else below)


def share_statistics(model: nn.Module, frozen: Sequence[str], processes: int, mean: bool) -> None:
    """Averages BatchNorm statistics over processes, or takes rank 0's; frozen parts keep theirs."""
    parts = [model.get_submodule(name) for name in frozen]
    kept = [(buffer, buffer.clone()) for part in parts for buffer in part.buffers()]
    distribute_bn(model, processes, mean)
    for buffer, value in kept:  # averaging many equal values may round
        buffer.copy_(value)


@torch.no_grad()
def _order_head(
    model: Any, arguments: TrainingArguments, classes: Sequence[str], start: Checkpoint | None
) -> None:
    """Reorders the rows of a trained head to match `classes`, which must have the same names."""
    if start and arguments.initial_checkpoint:
        release = release_of(start.path)
        trained: Sequence[str] = start.classes or (release and release.label_names) or ()
    elif arguments.pretrained and not start:
        trained = list(model.pretrained_cfg.get("label_names") or ())
    else:  # the head is new
        return
    if not classes or len(trained) != len(classes):
        return
    numbers = numbers_of(trained)
    remedy = "start from it with --pretrained-path, which makes a new head"
    check_known(classes, numbers, str(start.path) if start else arguments.model, "the training data", remedy)
    order = [numbers[name] for name in classes]
    if order != sorted(order):
        for values in model.get_classifier().parameters():
            values.copy_(values[order])


@torch.no_grad()
def _change_head(model: Any, arguments: TrainingArguments) -> None:
    if arguments.head_init_scale is not None:
        for values in model.get_classifier().parameters():
            values.mul_(arguments.head_init_scale)
    if arguments.head_init_bias is not None:
        model.get_classifier().bias.fill_(arguments.head_init_bias)


def check_finite(model: nn.Module, where: str) -> None:
    """Checks that weights and BatchNorm statistics are finite.

    Raises:
        UserError: One is NaN or infinite; the message names it.
    """
    statistics = [(name, each) for name, each in model.named_buffers() if "running_" in name]
    for name, values in (*model.named_parameters(), *statistics):
        if not torch.isfinite(values.detach()).all():
            raise UserError(
                f"{where}: {name} isn't finite; begin from other weights, or with a lower learning rate"
            )


def memory_format(arguments: TrainingArguments) -> torch.memory_format:
    """Memory format of images and weights."""
    return torch.channels_last if arguments.channels_last else torch.contiguous_format


def compiled(model: nn.Module, arguments: TrainingArguments) -> nn.Module:
    """The network, compiled with `torch.compile` if the arguments ask for it."""
    if not arguments.torchcompile:
        return model
    with in_one_line(f"torchcompile {arguments.torchcompile}"):
        return compile_network(model, backend=arguments.torchcompile, mode=arguments.torchcompile_mode)


def wrap_network(model: nn.Module, arguments: TrainingArguments, processes: Processes) -> nn.Module:
    """Compiles the network if asked to, and wraps it in DistributedDataParallel for several processes."""
    model = compiled(model, arguments)
    if processes.world_size > 1:
        devices = None if processes.device.type == "cpu" else [processes.device]
        # newer torch warns about the argument even at its default
        without: dict[str, Any] = {"broadcast_buffers": False} if arguments.no_ddp_bb else {}
        model = DistributedDataParallel(model, device_ids=devices, **without)
        if processes.device.type == "cpu" and processes.world_size > 2:  # the order of two doesn't matter
            model.register_comm_hook(None, lambda _, bucket: averaged_in_turn(bucket.buffer()))
    return model


def averaged_in_turn(gradients: torch.Tensor) -> torch.futures.Future[torch.Tensor]:
    """Averages gradients over processes in rank order.

    Gloo's order depends on a gradient's position in its bucket, which torch changes after the first step. A
    resumed run would therefore round differently.
    """
    parts = [torch.empty_like(gradients) for _ in range(dist.get_world_size())]
    gathered = dist.all_gather(parts, gradients, async_op=True).get_future()
    return gathered.then(lambda _: reduce(torch.add, parts) / len(parts))


def create_precision(
    arguments: TrainingArguments, device: torch.device
) -> tuple[Precision, NativeScaler | None]:
    """The context of the forward pass (autocast), and the loss scaler that float16 needs on a GPU."""
    if not arguments.amp:
        return nullcontext, None
    dtype = getattr(torch, arguments.amp_dtype)
    scaled = device.type != "cpu" and dtype == torch.float16
    with in_one_line(f"device {device.type} has no amp; leave it out, or give --model-dtype bfloat16"):
        torch.autocast(device.type, dtype)
        scaler = NativeScaler(device=device.type) if scaled else None
    return partial(torch.autocast, device.type, dtype), scaler


class WeightedCrossEntropy(nn.CrossEntropyLoss):
    """Class-weighted cross-entropy, averaged over images.

    torch divides by the weights of a batch's images. Training divides by those of a whole update instead,
    over all its batches and processes.
    """

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Maps logits ``(B, classes)`` and targets ``(B,)`` or ``(B, classes)`` to a scalar."""
        if targets.ndim == 1:
            targets = nn.functional.one_hot(targets, logits.shape[1]).to(logits.dtype)
        return super().forward(logits, targets)


def create_loss(arguments: TrainingArguments, class_weights: torch.Tensor | None = None) -> nn.Module:
    """The training loss, chosen as in timm's script, which has no class weights."""
    smoothing = 0.0 if arguments.mixes else arguments.smoothing  # mixup smooths targets itself
    if class_weights is not None:
        return WeightedCrossEntropy(class_weights.float(), label_smoothing=smoothing)
    if arguments.bce_loss and (arguments.mixes or smoothing):
        return BinaryCrossEntropy(
            smoothing,
            target_threshold=arguments.bce_target_thresh,
            sum_classes=arguments.bce_sum,
            pos_weight=arguments.bce_pos_weight,
        )
    if arguments.mixes:
        return SoftTargetCrossEntropy()
    return LabelSmoothingCrossEntropy(smoothing) if smoothing else nn.CrossEntropyLoss()
