"""What determines a training run, under the names, types and defaults of timm's `train.py`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from convnext_ablation.errors import UserError, unknown_name


@dataclass(frozen=True, kw_only=True)
class TrainingArguments:
    """The arguments of timm's `train.py` that this package's loop follows, with timm's defaults.

    Values that make no sense are refused when the object is made.

    Raises:
        UserError: A value is out of its range.
    """

    # data
    data_dir: str = ""  # image folder with a folder a split
    train_split: str = "train"
    val_split: str = "validation"
    # model
    model: str = "resnet50"
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)
    num_classes: int | None = None  # from the data if None
    input_size: tuple[int, int, int] | None = None  # channels, height, width; the model's own if None
    crop_pct: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str = ""
    drop: float = 0.0
    drop_path: float | None = None
    # optimizer
    opt: str = "sgd"
    opt_eps: float | None = None
    opt_betas: tuple[float, ...] | None = None
    momentum: float = 0.9
    weight_decay: float = 2e-5
    clip_grad: float | None = None
    clip_mode: str = "norm"
    layer_decay: float | None = None
    opt_kwargs: Mapping[str, Any] = field(default_factory=dict)
    # learning rate
    lr: float | None = None
    sched: str = "cosine"
    sched_on_updates: bool = False
    epochs: int = 300
    warmup_epochs: int = 5
    warmup_prefix: bool = False
    warmup_lr: float = 1e-5
    min_lr: float = 0.0
    cooldown_epochs: int = 0
    # batches and augmentation
    batch_size: int = 128
    validation_batch_size: int | None = None
    no_aug: bool = False
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    hflip: float = 0.5
    vflip: float = 0.0
    color_jitter: float | None = 0.4
    aa: str | None = None
    reprob: float = 0.0
    remode: str = "pixel"
    recount: int = 1
    smoothing: float = 0.1
    train_interpolation: str = "random"
    # machine
    device: str = "cuda"
    channels_last: bool = False
    amp: bool = False
    amp_dtype: str = "float16"
    workers: int = 4
    seed: int = 42

    def __post_init__(self) -> None:
        """Turns YAML's lists into tuples and checks the values."""
        for name in ("input_size", "mean", "std", "scale", "ratio", "opt_betas"):
            value = getattr(self, name)
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.lr is not None and not (self.lr > 0 and math.isfinite(self.lr)):
            raise UserError(f"lr is {self.lr}; it must be above 0")
        if self.amp_dtype not in ("float16", "bfloat16"):
            raise unknown_name("amp_dtype", self.amp_dtype, ("float16", "bfloat16"))

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values that YAML and JSON can hold."""
        plain = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}


ARGUMENTS = tuple(argument.name for argument in fields(TrainingArguments))
