"""The arguments that determine a training run, with the names, types and defaults of timm's `train.py`.

`TrainingArguments` has every argument of that script that image classification uses, and a few of our own.
`settings.py` lists the others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

from convnext_ablation.dataclass_options import option, options_of
from convnext_ablation.errors import UserError, shown
from convnext_ablation.machine import available_cores

_data = partial(option, group="Data")
_model = partial(option, group="Model")
_device = partial(option, group="Device and processes")
_optim = partial(option, group="Optimizer")
_schedule = partial(option, group="Learning rate schedule")
_augment = partial(option, group="Augmentation and regularization")
_average = partial(option, group="Exponential moving average (EMA)")
_run = partial(option, group="Run and output")


@dataclass(frozen=True, kw_only=True)
class TrainingArguments:
    """Validated arguments of a run; lists become tuples, and integers become floats in float fields."""

    data_dir: str | None = _data(None, "data set folder, with one folder or .tar per split")
    dataset: str = _data("", "data set, e.g. hfds/NAME or torch/cifar100; '' for an image folder")
    train_split: str = _data("train", "split to train on")
    val_split: str = _data("validation", "split for choosing the best epoch; '' for none")
    test_split: str | None = _data(None, "split to test the best epoch on, once, at the end")
    dataset_download: bool = _data(False, "allow torch/ data sets to be downloaded")
    class_map: str = _data("", "file that maps class names to numbers")
    input_img_mode: str | None = _data(None, "PIL image mode; derived from in_chans if not given")
    input_key: str | None = _data(None, "image column; for a folder, the image file extensions")
    target_key: str | None = _data(None, "label column")
    dataset_trust_remote_code: bool = _data(False, "allow hfds/ data sets to run their repository's code")

    skip_bad_images: int = _data(0, "maximum number of undecodable images to skip", "[0, inf)")

    model: str = _model("resnet50", "model name")
    pretrained: bool = _model(False, "start from pretrained weights")
    pretrained_path: str | None = _model(None, "start from this file as if it were the pretrained weights")
    initial_checkpoint: str = _model("", "initialize from this checkpoint, which must match exactly")
    resume: str = _model("", "resume from this checkpoint; auto: the newest in the output folder")
    no_resume_opt: bool = _model(False, "do not restore the optimizer state when resuming")
    num_classes: int | None = _model(None, "number of classes; the data set's if not given", "[0, inf)")
    gp: str | None = _model(None, "global pooling, e.g. avg, max, avgmax")
    img_size: int | None = _model(None, "image size in pixels", "[1, 16384]")
    in_chans: int | None = _model(None, "input channels", "[1, inf)")
    input_size: tuple[int, ...] | None = _model(None, "input channels, height and width", "[1, 16384]")
    crop_pct: float | None = _model(None, "center crop fraction in evaluation", "[0.1, 10]")
    mean: tuple[float, ...] | None = _model(None, "pixel mean for normalization")
    std: tuple[float, ...] | None = _model(None, "pixel standard deviation for normalization", "(0, inf)")
    interpolation: str = _model("", "resize interpolation in evaluation")
    batch_size: int = _model(128, "batch size per process", "[1, inf)")
    validation_batch_size: int | None = _model(None, "batch size per process in evaluation", "[1, inf)")
    channels_last: bool = _model(False, "use channels_last memory format")
    grad_accum_steps: int = _model(1, "gradient accumulation steps per update", "[1, inf)")
    global_batch: int | None = _model(None, "images per update; sets grad_accum_steps", "[1, inf)")
    grad_checkpointing: bool = _model(False, "recompute activations in backward to save memory")
    freeze: str | None = _model(None, "layers to freeze: head-only (all but the head) or stages=N")
    fast_norm: bool = _model(False, "use timm's fast norm layers under AMP")
    model_kwargs: Mapping[str, Any] = _model({}, "model arguments, e.g. inverted=True kernel_size=7")
    head_init_scale: float | None = _model(None, "scale of the classifier's initial weights")
    head_init_bias: float | None = _model(None, "initial value of the classifier's bias")
    torchcompile: str | None = _model(None, "torch.compile backend (inductor if none is named)")
    torchcompile_mode: str | None = _model(None, "torch.compile mode")

    device: str = _device("cuda", "device: cuda, cpu, mps, xpu")
    amp: bool = _device(False, "automatic mixed precision")
    amp_dtype: Literal["float16", "bfloat16"] = _device("float16", "lower-precision dtype for AMP")
    model_dtype: Literal["float32", "float16", "bfloat16"] | None = _device(None, "dtype of the weights")
    no_ddp_bb: bool = _device(False, "don't broadcast BatchNorm buffers within an epoch")
    device_modules: tuple[str, ...] | None = _device(None, "Python modules to import first")
    # timm's default is 4; torch warns where there are fewer cores
    workers: int = _device(min(4, available_cores()), "data loading workers per process", "[0, 1024]")
    pin_mem: bool = _device(False, "pin memory for faster transfer to a GPU")
    sync_bn: bool = _device(False, "synchronized BatchNorm across processes (GPUs only)")
    dist_bn: Literal["reduce", "broadcast", ""] = _device("reduce", "BatchNorm sync after each epoch")

    opt: str = _optim("sgd", "optimizer; sgd: with Nesterov momentum, momentum: without")
    opt_eps: float | None = _optim(None, "optimizer epsilon", "[0, inf)")
    opt_betas: tuple[float, ...] | None = _optim(None, "optimizer betas", "[0, 1)")
    momentum: float = _optim(0.9, "optimizer momentum", "[0, 1]")
    weight_decay: float = _optim(2e-5, "weight decay, except for norms and biases", "[0, inf)")
    clip_grad: float | None = _optim(None, "gradient clipping threshold", "[0, inf]")
    clip_mode: Literal["norm", "value", "agc"] = _optim("norm", "gradient clipping mode")
    layer_decay: float | None = _optim(None, "layer-wise learning rate decay", "[0, inf)")
    layer_decay_min_scale: float = _optim(0.0, "minimum of the layer-wise scale", "[0, inf)")
    layer_decay_no_opt_scale: float | None = _optim(None, "freeze layers with a smaller scale", "[0, inf)")
    opt_kwargs: Mapping[str, Any] = _optim({}, "extra arguments, e.g. filter_bias_and_bn=False fused=True")

    sched: str = _schedule("cosine", "learning rate schedule")
    sched_on_updates: bool = _schedule(False, "step the schedule per update, not per epoch")
    lr: float | None = _schedule(None, "learning rate; from lr_base if not given", "[0, inf)")
    lr_base: float = _schedule(0.1, "learning rate for a global batch of lr_base_size", "(0, inf)")
    lr_base_size: int = _schedule(256, "global batch size that lr_base is for", "[1, inf)")
    lr_base_scale: Literal["linear", "sqrt", ""] = _schedule("", "batch size scaling; Adam variants: sqrt")
    lr_noise: tuple[float, ...] | None = _schedule(None, "noise on/off, as epoch fractions", "[0, inf)")
    lr_noise_pct: float = _schedule(0.67, "learning rate noise limit", "(0, inf)")
    lr_noise_std: float = _schedule(1.0, "standard deviation of the noise", "(0, inf)")
    lr_cycle_mul: float = _schedule(1.0, "cycle length multiplier", "(0, inf)")
    lr_cycle_decay: float = _schedule(0.5, "learning rate decay per cycle", "[0, inf)")
    lr_cycle_limit: int = _schedule(1, "number of cycles", "[1, inf)")
    lr_k_decay: float = _schedule(1.0, "k-decay of cosine and poly", "[0, inf)")
    warmup_lr: float = _schedule(1e-5, "initial warm-up learning rate", "[0, inf)")
    min_lr: float = _schedule(0.0, "minimum learning rate", "[0, inf)")
    epochs: int = _schedule(300, "number of epochs, including warm-up unless warmup_prefix", "[1, inf)")
    start_epoch: int | None = _schedule(None, "first epoch number, unless resuming", "[0, inf)")
    decay_milestones: tuple[int, ...] = _schedule(
        (90, 180, 270), "epochs at which multistep decays, in order", "[0, inf)"
    )
    decay_epochs: float = _schedule(90.0, "epochs between decays of sched step", "[0, inf)")
    warmup_epochs: int = _schedule(5, "warm-up epochs", "[0, inf)")
    warmup_prefix: bool = _schedule(False, "add warm-up to the epochs")
    cooldown_epochs: int = _schedule(0, "final epochs at min_lr", "[0, inf)")
    patience_epochs: int = _schedule(10, "patience of plateau in epochs", "[0, inf)")
    decay_rate: float = _schedule(0.1, "learning rate decay factor", "[0, inf)")

    sampler: Literal["balanced"] | None = _augment(None, "class-balanced sampling")
    class_weights: Literal["balanced"] | None = _augment(None, "weight the loss by inverse class frequency")
    no_aug: bool = _augment(False, "disable all training augmentation")
    train_crop_mode: str | None = _augment(None, "training crop mode: rrc, rkrc, rkrr")
    scale: tuple[float, float] = _augment(
        (0.08, 1.0), "area range of random resized crops, as fractions", "(0, inf)"
    )
    ratio: tuple[float, float] = _augment((3 / 4, 4 / 3), "aspect ratio range of the crops", "(0, inf)")
    hflip: float = _augment(0.5, "probability of a horizontal flip", "[0, 1]")
    vflip: float = _augment(0.0, "probability of a vertical flip", "[0, 1]")
    color_jitter: float | None = _augment(0.4, "colour jitter strength, null for none", "[0, inf)")
    color_jitter_prob: float | None = _augment(None, "probability of colour jitter", "[0, 1]")
    grayscale_prob: float | None = _augment(None, "probability of conversion to greyscale", "[0, 1]")
    gaussian_blur_prob: float | None = _augment(None, "probability of Gaussian blur", "[0, 1]")
    aa: str | None = _augment(None, "AutoAugment policy, e.g. rand-m9-mstd0.5-inc1")
    reprob: float = _augment(0.0, "probability of random erasing", "[0, 1]")
    remode: Literal["pixel", "const", "rand"] = _augment("pixel", "fill mode of random erasing")
    recount: int = _augment(1, "areas to erase", "[1, 1000]")
    mixup: float = _augment(0.0, "mixup alpha; 0 to disable", "[0, inf)")
    cutmix: float = _augment(0.0, "cutmix alpha; 0 to disable", "[0, inf)")
    cutmix_minmax: tuple[float, float] | None = _augment(
        None, "cutmix min/max ratio; overrides alpha", "[0, 1]"
    )
    mixup_prob: float = _augment(1.0, "probability of mixup or cutmix", "[0, 1]")
    mixup_switch_prob: float = _augment(0.5, "probability of cutmix when both are enabled", "[0, 1]")
    mixup_mode: Literal["batch", "pair", "elem"] = _augment("batch", "mix per batch, pair or element")
    mixup_off_epoch: int = _augment(0, "epoch to turn off mixup and cutmix; 0 for never", "[0, inf)")
    bce_loss: bool = _augment(False, "use binary cross-entropy loss")
    bce_sum: bool = _augment(False, "sum BCE loss over classes")
    bce_target_thresh: float | None = _augment(None, "threshold to binarize mixed BCE targets", "[0, 1]")
    bce_pos_weight: float | None = _augment(None, "positive weight in BCE loss", "[0, inf)")
    smoothing: float = _augment(0.1, "label smoothing", "[0, 1]")
    train_interpolation: str = _augment("random", "interpolation of training crops")
    drop: float = _augment(0.0, "dropout rate before the classifier", "[0, 1]")
    drop_path: float | None = _augment(None, "stochastic depth rate", "[0, 1]")

    model_ema: bool = _average(False, "track and evaluate an EMA of the weights")
    model_ema_force_cpu: bool = _average(False, "keep the EMA on the CPU, without evaluating it")
    model_ema_decay: float = _average(0.9998, "EMA decay per update", "[0, 1]")
    model_ema_warmup: bool = _average(False, "warm up the EMA decay")

    seed: int = _run(42, "random seed", "[0, inf)")
    log_interval: int = _run(50, "updates between training log lines", "[1, inf)")
    val_interval: int = _run(1, "epochs between evaluations", "[1, inf)")
    early_stopping: int = _run(0, "evaluations without improvement before stopping; 0 for never", "[0, inf)")
    recovery_interval: int = _run(0, "updates between checkpoints within an epoch; 0 for none", "[0, inf)")
    checkpoint_hist: int = _run(10, "number of best checkpoints to keep; 0 for none", "[0, inf)")
    output: str = _run("", "parent output folder (output/train if not given)")
    experiment: str = _run("", "name of the run folder; from time and model if not given")
    eval_metric: Literal["top1", "top5", "loss"] = _run("top1", "metric for choosing the best epoch")
    log_wandb: bool = _run(False, "log to Weights & Biases")
    wandb_project: str | None = _run(None, "Weights & Biases project")
    wandb_tags: tuple[str, ...] = _run((), "Weights & Biases tags")
    wandb_resume_id: str = _run("", "Weights & Biases run to resume")

    def __post_init__(self) -> None:
        """Checks types and ranges."""
        for name, known in ARGUMENTS.items():
            object.__setattr__(self, name, known.check(getattr(self, name)))
        if self.lr_noise is not None and len(self.lr_noise) > 2:
            raise UserError(f"lr_noise is {list(self.lr_noise)}; it takes 1 or 2 numbers")
        if self.input_size is not None and len(self.input_size) != 3:
            raise UserError(f"input_size is {list(self.input_size)}; give channels, height and width")
        if self.sched == "multistep" and list(self.decay_milestones) != sorted(self.decay_milestones):
            # timm accepts any order, but then steps at other epochs
            raise UserError(f"decay_milestones is {list(self.decay_milestones)}; give them in order")
        if self.sched == "step" and not self.decay_epochs:
            raise UserError("decay_epochs is 0; sched step needs a number above 0")
        if self.cutmix_minmax is not None and self.cutmix_minmax[0] >= self.cutmix_minmax[1]:
            raise UserError(f"cutmix_minmax is {list(self.cutmix_minmax)}; give the smaller one first")
        if self.input_size and self.in_chans not in (None, self.input_size[0]):
            raise UserError(f"in_chans is {self.in_chans}, and input_size {list(self.input_size)}; give one")
        if self.mixes and self.batch_size % 2:
            raise UserError(f"batch_size is {self.batch_size}; mixup and cutmix need an even one")
        if self.freeze is not None and not re.fullmatch(r"head-only|stages=\d{1,3}", self.freeze):
            raise UserError(
                f"freeze is {shown(self.freeze)}; give head-only to train the classifier alone, or stages=2 "
                "to keep the stem and the first two stages"
            )
        if self.class_weights and self.sampler:
            raise UserError("class_weights and sampler both correct class imbalance; give one")
        if self.class_weights and self.bce_loss:
            raise UserError("class_weights don't go with bce_loss; leave that out, or give sampler balanced")
        if self.early_stopping and not self.val_split:
            raise UserError(f"early_stopping is {self.early_stopping}; it needs a val_split")
        if self.sched == "plateau" and 0 < self.early_stopping <= self.patience_epochs + 1:
            raise UserError(
                f"early_stopping is {self.early_stopping}, and plateau lowers the learning rate only after "
                f"{self.patience_epochs + 1} evaluations without a better one; give more than that, or a "
                "smaller patience_epochs"
            )
        if self.amp and self.model_dtype not in (None, "float32"):
            raise UserError(f"model_dtype is {self.model_dtype}; amp needs float32")

    @property
    def mixes(self) -> bool:
        """Whether mixup or CutMix is on."""
        return self.mixup > 0 or self.cutmix > 0 or self.cutmix_minmax is not None

    @property
    def evaluates_average(self) -> bool:
        """Whether evaluation uses the EMA weights."""
        return self.model_ema and not self.model_ema_force_cpu

    @property
    def decreasing_metric(self) -> bool:
        """Whether a smaller metric is better; without a validation split the metric is the training loss."""
        return self.eval_metric == "loss" or not self.val_split

    @property
    def channels(self) -> int:
        """Number of input channels."""
        if self.in_chans is not None:
            return self.in_chans
        return self.input_size[0] if self.input_size else 3

    @property
    def image_mode(self) -> str:
        """PIL mode that images are converted to."""
        return self.input_img_mode or ("RGB" if self.channels == 3 else "L")

    @property
    def precision(self) -> str:
        """Compute dtype of most of training: that of autocast under AMP, else that of the weights."""
        return self.amp_dtype if self.amp else self.model_dtype or "float32"

    @property
    def epochs_in_all(self) -> int:
        """Total epochs: timm adds cycles, a prefixed warm-up and the cooldown to `epochs`."""
        epochs, cycles, factor = self.epochs, self.lr_cycle_limit, self.lr_cycle_mul
        if self.sched in _CYCLIC:
            lengths = cycles if factor == 1 else (factor**cycles - 1) / (factor - 1)
            epochs = math.floor(epochs * lengths)
        if self.sched in (*_CYCLIC, "wsd", "rsqrt"):
            epochs += self.cooldown_epochs
        return epochs + (self.warmup_epochs if self.warmup_prefix else 0)

    def images_an_update(self, processes: int = 1) -> int:
        """Images per update with this many processes; `global_batch` takes precedence if given."""
        return self.global_batch or self.batch_size * processes * self.grad_accum_steps

    def accumulated(self, processes: int = 1) -> TrainingArguments:
        """Returns a copy whose `grad_accum_steps` reaches `global_batch`, if given, with this many processes.

        Raises:
            UserError: No whole number of steps reaches it, or a different number is given.
        """
        if self.global_batch is None:
            return self
        at_once = self.batch_size * processes
        product = f"batch_size {self.batch_size} x {processes} process{'es' if processes > 1 else ''}"
        steps, rest = divmod(self.global_batch, at_once)
        if rest:
            raise UserError(
                f"global_batch is {self.global_batch}, no multiple of {product} = {at_once}; "
                "give another batch_size, or another global_batch"
            )
        if self.grad_accum_steps not in (1, steps):
            raise UserError(
                f"global_batch is {self.global_batch}, {steps} times {product}, but grad_accum_steps is "
                f"{self.grad_accum_steps}; leave that out, or give another global_batch"
            )
        return replace(self, grad_accum_steps=steps)

    def learning_rate(self, global_batch: int) -> float:
        """The learning rate; if `lr` is None, timm's scaling rule applied to the images per update."""
        if self.lr is not None:
            return self.lr
        scale = self.lr_base_scale
        if not scale:
            scale = "sqrt" if any(name in self.opt.lower() for name in ("ada", "lamb")) else "linear"
        ratio = global_batch / self.lr_base_size
        return self.lr_base * (ratio**0.5 if scale == "sqrt" else ratio)

    def preprocessing(self) -> dict[str, Any]:
        """The `PREPROCESSING` arguments that are set, as timm's `resolve_data_config` takes them."""
        return {name: value for name in PREPROCESSING if (value := getattr(self, name))}

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values that YAML and JSON can hold."""
        plain = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}


ARGUMENTS = options_of(TrainingArguments)
# arguments of earlier versions, with their defaults: old runs have them in their files and identities
RETIRED: Mapping[str, Any] = {
    "log_tensorboard": False, "train_num_samples": None, "val_num_samples": None,
}  # fmt: skip
# arguments of the preprocessing
PREPROCESSING = (
    "img_size", "input_size", "mean", "std", "crop_pct", "interpolation", "in_chans",
)  # fmt: skip
_CYCLIC = ("cosine", "tanh", "poly")  # schedules
