"""The arguments of `validate.py` and `predict`, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from convnext_ablation.dataclass_options import Option, option, options_of
from convnext_ablation.errors import UserError
from convnext_ablation.machine import default_device
from convnext_ablation.training.arguments import ARGUMENTS, TrainingArguments

_data = partial(option, group="Data")
_model = partial(option, group="Model")
_results = partial(option, group="Results")
# arguments of `train.py` that both programs have ...
_SHARED = (
    "data_dir", "model", "pretrained", "num_classes", "class_map", "img_size", "in_chans", "input_size",
    "crop_pct", "mean", "std", "interpolation", "batch_size", "channels_last", "model_kwargs", "torchcompile",
    "torchcompile_mode", "device", "amp", "amp_dtype", "model_dtype", "workers",
)  # fmt: skip
# ... and of `validate.py` alone
_VALIDATION = (
    "dataset", "dataset_download", "input_img_mode", "input_key", "target_key", "dataset_trust_remote_code",
    "skip_bad_images", "gp", "fast_norm", "pin_mem", "seed",
)  # fmt: skip
# further arguments of timm's validate.py
TIMM_ONLY = (
    "aot_autograd", "crop_border_pixels", "fuser", "log_freq", "metrics_avg", "naflex_loader",
    "naflex_max_seq_len", "no_prefetcher", "num_gpu", "num_samples", "real_labels", "retry", "test_pool",
    "tf_preprocessing", "torchscript", "valid_labels",
)  # fmt: skip
_ON_CPU, _ON_GPU = 32, 256  # batch sizes


@dataclass(frozen=True, kw_only=True)
class TrainedArguments:
    """The arguments that both programs have."""

    run: TrainingArguments  # those shared with `train.py`
    checkpoint: str = _model("", "weights: a file, the folder of a run or release, or hf-hub:NAME")
    use_train_size: bool = _model(False, "take the size of training where the weights have another for tests")
    crop_mode: Literal["squash", "border", "center"] | None = _model(None, "how images are cropped")

    def __post_init__(self) -> None:
        """Checks types and values."""
        for name, known in options_of(type(self)).items():
            object.__setattr__(self, name, known.check(getattr(self, name)))
        if not self.run.model and not self.checkpoint:
            raise UserError("no network is given; name it with --model, or a --checkpoint")


@dataclass(frozen=True, kw_only=True)
class ValidationArguments(TrainedArguments):
    """The arguments of timm's `validate.py` that image classification uses, and a few of ours."""

    split: str = _data("validation", "split to evaluate on; '' if data_dir itself is it")
    exclude: str = _data("", "file of image ids; the figures without these images are given, too")
    use_ema: bool = _model(False, "take the averaged weights of the checkpoint")
    reparam: bool = _model(False, "fold what can be folded first")
    optimize: bool = _model(False, "take the fastest exact form, measured first, in --model-dtype")
    results_file: str = _results("", "file to write the result to, as timm's script writes it")
    results_format: Literal["csv", "json"] = _results("csv", "its format")
    predictions_file: str = _results("", "CSV file to write a line for each image to")
    per_class_file: str = _results("", "CSV file to write precision, recall and F1 of each class to")
    report_dir: str = _results("", "folder to write figures of classes, confusions and calibration to")

    def __post_init__(self) -> None:
        """Checks types and values."""
        super().__post_init__()
        for file in filter(None, (self.results_file, self.predictions_file, self.per_class_file)):
            if Path(file).is_dir() or not Path(file).parent.is_dir():
                raise UserError(f"{file}: can't be written; give a file in a folder that is there")
        folder = Path(self.report_dir)
        if (folder.exists() and not folder.is_dir()) or not folder.parent.is_dir():
            raise UserError(f"{folder}: can't be a folder; --report-dir takes one in a folder that is there")
        if self.optimize and (self.run.amp or self.run.torchcompile):
            other = "--amp; --model-dtype bfloat16 computes in it" if self.run.amp else "--torchcompile"
            raise UserError(f"--optimize can't be combined with {other}")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> ValidationArguments:
        """Makes the arguments from the given values, by name."""
        return cls(**_divided(cls, VALIDATION_ARGUMENTS, given))


@dataclass(frozen=True, kw_only=True)
class PredictionArguments(TrainedArguments):
    """Arguments of timm's `inference.py`, and a few of ours."""

    no_optimize: bool = _model(False, "take the network as it is, not its fastest exact form")
    topk: int = _results(1, "classes to give for each image, the most probable first", "[1, 1000000]")
    label_type: Literal["none", "name", "description", "detailed"] = _results(
        "description", "what classes of ImageNet are called"
    )
    fullname: bool = _results(False, "give paths, not names, of files")
    results_dir: str = _results("", "folder of the results, made if it isn't there")
    results_file: str = _results("", "file of the results; from network and size if not given")
    results_format: tuple[str, ...] | None = _results(
        None,
        "their formats; by the file's extension if not given, or csv",
        choices=("csv", "json", "parquet"),
    )
    force: bool = _results(False, "overwrite what is there")
    batch_given: bool = False  # whether the batch size was given

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> PredictionArguments:
        """Makes the arguments from the given values, by name; imports torch to look for a GPU."""
        device, batch = given.get("device") or default_device(), given.get("batch_size")
        fitting = _ON_CPU if device.startswith("cpu") else _ON_GPU
        values = {**given, "device": device, "batch_size": fitting if batch is None else batch}
        return cls(batch_given=batch is not None, **_divided(cls, PREDICTION_ARGUMENTS, values))


def _divided(kind: type, options: Mapping[str, Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """Completes given values with defaults, and divides them into the run's arguments and the class's own."""
    values = {name: given.get(name, known.default) for name, known in options.items()}
    own = {name: values.pop(name) for name in options_of(kind)}
    return {"run": TrainingArguments(**values), **own}


VALIDATION_ARGUMENTS = {name: ARGUMENTS[name] for name in ARGUMENTS if name in (*_SHARED, *_VALIDATION)}
VALIDATION_ARGUMENTS |= options_of(ValidationArguments)
VALIDATION_ARGUMENTS["batch_size"] = ARGUMENTS["batch_size"]._replace(default=256)
VALIDATION_ARGUMENTS["model"] = ARGUMENTS["model"]._replace(default="", help="by default the checkpoint's")
PREDICTION_ARGUMENTS = {name: ARGUMENTS[name] for name in _SHARED} | options_of(PredictionArguments)
_CHANGED: Mapping[str, Mapping[str, Any]] = {
    "data_dir": {"help": "the same as an INPUT"},
    "model": {"default": "", "help": "name of the network; by default the checkpoint's"},
    "pretrained": {"help": "take the pretrained weights of the name, as is done without a checkpoint"},
    "num_classes": {"help": "classes of the network; by default the checkpoint's"},
    "class_map": {"help": "file that maps names of classes to numbers; by default the checkpoint's"},
    "batch_size": {"default": "32 on a CPU, 256 on a GPU", "help": "images at a time"},
    "device": {"default": "", "help": "device: cuda, cpu (default: cuda if there is a GPU)"},
    "workers": {"help": "processes that load pictures"},
}
for _name, _changes in _CHANGED.items():
    PREDICTION_ARGUMENTS[_name] = PREDICTION_ARGUMENTS[_name]._replace(**_changes)
