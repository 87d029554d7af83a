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
_average = partial(option, group="Average of the weights (EMA)")
_run = partial(option, group="Run and output")


@dataclass(frozen=True, kw_only=True)
class TrainingArguments:
    """Validated arguments of a run; lists become tuples, and integers become floats in float fields."""

    data_dir: str | None = _data(None, "folder of the data set, with a folder or a .tar a split")
    dataset: str = _data("", "e.g. hfds/NAME or torch/cifar100; '' is a folder of images")
    train_split: str = _data("train", "split to train on")
    val_split: str = _data("validation", "split that the best epoch is picked on; '' for none")
    test_split: str | None = _data(None, "split that the best epoch is tested on, once, at the end")
    dataset_download: bool = _data(False, "let torch/ data sets download themselves")
    class_map: str = _data("", "file that maps class names to numbers")
    input_img_mode: str | None = _data(None, "PIL mode of the images; by default from in_chans")
    input_key: str | None = _data(
        None, "name of the images' column; of a folder, the extensions of its images"
    )
    target_key: str | None = _data(None, "name of the labels' column")
    dataset_trust_remote_code: bool = _data(False, "let hfds/ data sets run code of their repository")

    skip_bad_images: int = _data(0, "leave out up to so many images that can't be decoded", "[0, inf)")

    model: str = _model("resnet50", "name of the network")
    pretrained: bool = _model(False, "start from pretrained weights")
    pretrained_path: str | None = _model(None, "start from this file as if it were the pretrained weights")
    initial_checkpoint: str = _model("", "start from this checkpoint, which must fit exactly")
    resume: str = _model("", "resume from this checkpoint; auto takes the newest of the output folder")
    no_resume_opt: bool = _model(False, "resume the weights only, not the optimizer")
    num_classes: int | None = _model(None, "classes; as many as the data set has if not given", "[0, inf)")
    gp: str | None = _model(None, "global pool, e.g. avg, max, avgmax")
    img_size: int | None = _model(None, "side of the images in pixels", "[1, 16384]")
    in_chans: int | None = _model(None, "channels of the images", "[1, inf)")
    input_size: tuple[int, ...] | None = _model(None, "channels, height and width of images", "[1, 16384]")
    crop_pct: float | None = _model(None, "share of the resized image that evaluation crops", "[0.1, 10]")
    mean: tuple[float, ...] | None = _model(None, "mean of the pixels that is subtracted")
    std: tuple[float, ...] | None = _model(None, "deviation of the pixels that is divided by", "(0, inf)")
    interpolation: str = _model("", "interpolation when resizing for evaluation")
    batch_size: int = _model(128, "images a process takes at a time", "[1, inf)")
    validation_batch_size: int | None = _model(None, "the same in evaluation", "[1, inf)")
    channels_last: bool = _model(False, "keep tensors in channels_last memory format")
    grad_accum_steps: int = _model(1, "batches whose gradients are added up for one update", "[1, inf)")
    global_batch: int | None = _model(None, "images of an update; sets grad_accum_steps", "[1, inf)")
    grad_checkpointing: bool = _model(False, "compute activations again in the backward pass to save memory")
    freeze: str | None = _model(None, "what keeps its weights: head-only (all but the head), or stages=N")
    fast_norm: bool = _model(False, "timm's faster norms under AMP")
    model_kwargs: Mapping[str, Any] = _model({}, "arguments of the network, e.g. inverted=True kernel_size=7")
    head_init_scale: float | None = _model(None, "factor on the classifier's first weights")
    head_init_bias: float | None = _model(None, "first value of the classifier's bias")
    torchcompile: str | None = _model(None, "compile with this backend (inductor if none is named)")
    torchcompile_mode: str | None = _model(None, "mode of torch.compile")

    device: str = _device("cuda", "device to train on: cuda, cpu, mps, xpu")
    amp: bool = _device(False, "automatic mixed precision")
    amp_dtype: Literal["float16", "bfloat16"] = _device("float16", "lower precision of it")
    model_dtype: Literal["float32", "float16", "bfloat16"] | None = _device(None, "type of the weights")
    no_ddp_bb: bool = _device(False, "keep each process's own BatchNorm statistics within an epoch")
    device_modules: tuple[str, ...] | None = _device(None, "Python modules to import first")
    # timm's default is 4; torch warns where there are fewer cores
    workers: int = _device(
        min(4, available_cores()), "processes that load data, for each that trains", "[0, 1024]"
    )
    pin_mem: bool = _device(False, "pin memory for faster transfer to a GPU")
    sync_bn: bool = _device(False, "BatchNorm over the batches of all processes (GPUs only)")
    dist_bn: Literal["reduce", "broadcast", ""] = _device("reduce", "how they share them after an epoch")

    opt: str = _optim("sgd", "optimizer; sgd is Nesterov's, momentum the plain one")
    opt_eps: float | None = _optim(None, "its epsilon", "[0, inf)")
    opt_betas: tuple[float, ...] | None = _optim(None, "its betas", "[0, 1)")
    momentum: float = _optim(0.9, "its momentum", "[0, 1]")
    weight_decay: float = _optim(2e-5, "weight decay, on all parameters but norms and biases", "[0, inf)")
    clip_grad: float | None = _optim(None, "bound on the gradients", "[0, inf]")
    clip_mode: Literal["norm", "value", "agc"] = _optim("norm", "what is bounded")
    layer_decay: float | None = _optim(None, "learning rate's factor for each layer below", "[0, inf)")
    layer_decay_min_scale: float = _optim(0.0, "bound of that factor from below", "[0, inf)")
    layer_decay_no_opt_scale: float | None = _optim(None, "factor below which a layer is frozen", "[0, inf)")
    opt_kwargs: Mapping[str, Any] = _optim({}, "further ones, e.g. filter_bias_and_bn=False fused=True")

    sched: str = _schedule("cosine", "schedule")
    sched_on_updates: bool = _schedule(False, "change the learning rate at each update, not each epoch")
    lr: float | None = _schedule(None, "learning rate; from lr_base if not given", "[0, inf)")
    lr_base: float = _schedule(0.1, "learning rate for a global batch of lr_base_size", "(0, inf)")
    lr_base_size: int = _schedule(256, "see lr_base", "[1, inf)")
    lr_base_scale: Literal["linear", "sqrt", ""] = _schedule("", "growth with the batch; Adam's kin: sqrt")
    lr_noise: tuple[float, ...] | None = _schedule(None, "shares of epochs where it is noisy", "[0, inf)")
    lr_noise_pct: float = _schedule(0.67, "bound of the noise", "(0, inf)")
    lr_noise_std: float = _schedule(1.0, "deviation of the noise", "(0, inf)")
    lr_cycle_mul: float = _schedule(1.0, "factor on the length of each cycle", "(0, inf)")
    lr_cycle_decay: float = _schedule(0.5, "factor on the learning rate of each cycle", "[0, inf)")
    lr_cycle_limit: int = _schedule(1, "cycles", "[1, inf)")
    lr_k_decay: float = _schedule(1.0, "k-decay of cosine and poly", "[0, inf)")
    warmup_lr: float = _schedule(1e-5, "learning rate at the start of the warm-up", "[0, inf)")
    min_lr: float = _schedule(0.0, "learning rate at the end", "[0, inf)")
    epochs: int = _schedule(300, "epochs, warm-up included unless warmup_prefix", "[1, inf)")
    start_epoch: int | None = _schedule(None, "number of the first epoch, unless a run resumes", "[0, inf)")
    decay_milestones: tuple[int, ...] = _schedule(
        (90, 180, 270), "epochs of multistep's steps, in order", "[0, inf)"
    )
    decay_epochs: float = _schedule(90.0, "epochs between the steps of step", "[0, inf)")
    warmup_epochs: int = _schedule(5, "epochs of warm-up", "[0, inf)")
    warmup_prefix: bool = _schedule(False, "add the warm-up to the epochs")
    cooldown_epochs: int = _schedule(0, "epochs at min_lr at the end", "[0, inf)")
    patience_epochs: int = _schedule(10, "epochs that plateau waits", "[0, inf)")
    decay_rate: float = _schedule(0.1, "factor of a step", "[0, inf)")

    sampler: Literal["balanced"] | None = _augment(None, "draw images so that classes are equally frequent")
    class_weights: Literal["balanced"] | None = _augment(None, "weight losses by the rarity of classes")
    no_aug: bool = _augment(False, "no augmentation at all")
    train_crop_mode: str | None = _augment(None, "how training images are cropped: rrc, rkrc, rkrr")
    scale: tuple[float, float] = _augment(
        (0.08, 1.0), "least and largest share of area in a crop", "(0, inf)"
    )
    ratio: tuple[float, float] = _augment((3 / 4, 4 / 3), "least and largest aspect ratio of it", "(0, inf)")
    hflip: float = _augment(0.5, "probability of a horizontal flip", "[0, 1]")
    vflip: float = _augment(0.0, "probability of a vertical flip", "[0, 1]")
    color_jitter: float | None = _augment(0.4, "strength of the colour jitter, null for none", "[0, inf)")
    color_jitter_prob: float | None = _augment(None, "probability of it", "[0, 1]")
    grayscale_prob: float | None = _augment(None, "probability of turning an image grey", "[0, 1]")
    gaussian_blur_prob: float | None = _augment(None, "probability of a blur", "[0, 1]")
    aa: str | None = _augment(None, "automatic augmentation, e.g. rand-m9-mstd0.5-inc1")
    reprob: float = _augment(0.0, "probability of random erasing", "[0, 1]")
    remode: Literal["pixel", "const", "rand"] = _augment("pixel", "what is put in its place")
    recount: int = _augment(1, "areas that are erased", "[1, 1000]")
    mixup: float = _augment(0.0, "alpha of mixup; 0 for none", "[0, inf)")
    cutmix: float = _augment(0.0, "alpha of cutmix; 0 for none", "[0, inf)")
    cutmix_minmax: tuple[float, float] | None = _augment(
        None, "least, largest share of it, for alpha", "[0, 1]"
    )
    mixup_prob: float = _augment(1.0, "probability of mixup or cutmix", "[0, 1]")
    mixup_switch_prob: float = _augment(0.5, "probability of cutmix where there are both", "[0, 1]")
    mixup_mode: Literal["batch", "pair", "elem"] = _augment("batch", "what is mixed the same way")
    mixup_off_epoch: int = _augment(0, "epoch from which nothing is mixed; 0 for none", "[0, inf)")
    bce_loss: bool = _augment(False, "binary cross-entropy")
    bce_sum: bool = _augment(False, "sum it over the classes")
    bce_target_thresh: float | None = _augment(None, "threshold that makes mixed targets 0 or 1", "[0, 1]")
    bce_pos_weight: float | None = _augment(None, "weight of the positive class", "[0, inf)")
    smoothing: float = _augment(0.1, "label smoothing", "[0, 1]")
    train_interpolation: str = _augment("random", "interpolation when cropping")
    drop: float = _augment(0.0, "dropout before the classifier", "[0, 1]")
    drop_path: float | None = _augment(None, "stochastic depth", "[0, 1]")

    model_ema: bool = _average(False, "keep an average of the weights, and evaluate it")
    model_ema_force_cpu: bool = _average(False, "keep it on the CPU; it isn't evaluated then")
    model_ema_decay: float = _average(0.9998, "share of the average that stays at an update", "[0, 1]")
    model_ema_warmup: bool = _average(False, "begin with a smaller share")

    seed: int = _run(42, "seed of everything random", "[0, inf)")
    log_interval: int = _run(50, "updates between two lines about the training", "[1, inf)")
    val_interval: int = _run(1, "epochs between two evaluations", "[1, inf)")
    early_stopping: int = _run(0, "end after so many evaluations without a better; 0 for never", "[0, inf)")
    recovery_interval: int = _run(0, "updates between checkpoints in an epoch; 0 for none", "[0, inf)")
    checkpoint_hist: int = _run(10, "checkpoints of the best epochs to keep; 0 for none", "[0, inf)")
    output: str = _run("", "folder of the experiments (output/train if not given)")
    experiment: str = _run("", "name of the run's folder; from time and network if not given")
    eval_metric: Literal["top1", "top5", "loss"] = _run("top1", "what the best epoch is picked by")
    log_wandb: bool = _run(False, "log to Weights & Biases")
    wandb_project: str | None = _run(None, "project there")
    wandb_tags: tuple[str, ...] = _run((), "tags there")
    wandb_resume_id: str = _run("", "run there that is resumed")

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
            raise UserError("class_weights and sampler would both make up for rare classes; give one")
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
