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
    checkpoint: str = _model("", "weights: a file, a run or release folder, or hf-hub:NAME")
    use_train_size: bool = _model(False, "use the training image size even if the weights have a test size")
    crop_mode: Literal["squash", "border", "center"] | None = _model(None, "input image crop mode")

    def __post_init__(self) -> None:
        """Checks types and values."""
        for name, known in options_of(type(self)).items():
            object.__setattr__(self, name, known.check(getattr(self, name)))
        if not self.run.model and not self.checkpoint:
            raise UserError("no network is given; name it with --model, or a --checkpoint")


@dataclass(frozen=True, kw_only=True)
class ValidationArguments(TrainedArguments):
    """The arguments of timm's `validate.py` that image classification uses, and a few of ours."""

    split: str = _data("validation", "split to evaluate; '' if data_dir itself is the split")
    exclude: str = _data("", "file of image ids; also report results without these images")
    use_ema: bool = _model(False, "use the checkpoint's EMA weights")
    reparam: bool = _model(False, "reparameterize the model first")
    optimize: bool = _model(False, "use the fastest exact form, benchmarked first, in --model-dtype")
    results_file: str = _results("", "output file for results, in the format of timm's script")
    results_format: Literal["csv", "json"] = _results("csv", "format of the results file")
    predictions_file: str = _results("", "output CSV file for per-image predictions")
    per_class_file: str = _results("", "output CSV file for per-class precision, recall and F1")
    report_dir: str = _results("", "output folder for figures of classes, confusions and calibration")

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

    no_optimize: bool = _model(False, "use the network as is, not its fastest exact form")
    topk: int = _results(1, "number of top classes to output per image", "[1, 1000000]")
    label_type: Literal["none", "name", "description", "detailed"] = _results(
        "description", "type of ImageNet class labels"
    )
    fullname: bool = _results(False, "output full paths, not file names")
    results_dir: str = _results("", "output folder, created if missing")
    results_file: str = _results("", "results file name; from model and size if not given")
    results_format: tuple[str, ...] | None = _results(
        None,
        "results formats; from the file's extension if not given, or csv",
        choices=("csv", "json", "parquet"),
    )
    force: bool = _results(False, "overwrite existing files")
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
    "data_dir": {"help": "same as an INPUT"},
    "model": {"default": "", "help": "model name; by default the checkpoint's"},
    "pretrained": {"help": "use the model's pretrained weights (the default without --checkpoint)"},
    "num_classes": {"help": "number of classes; by default the checkpoint's"},
    "class_map": {"help": "file that maps class names to numbers; by default the checkpoint's"},
    "batch_size": {"default": "32 on a CPU, 256 on a GPU", "help": "batch size"},
    "device": {"default": "", "help": "device: cuda, cpu (default: cuda if there is a GPU)"},
    "workers": {"help": "data loading workers"},
}
for _name, _changes in _CHANGED.items():
    PREDICTION_ARGUMENTS[_name] = PREDICTION_ARGUMENTS[_name]._replace(**_changes)
# those of `export`
EXPORT_ARGUMENTS = {
    name: PREDICTION_ARGUMENTS[name]
    for name in (
        "model", "num_classes", "class_map", "img_size", "in_chans", "input_size", "crop_pct", "mean", "std",
        "interpolation", "model_kwargs", "use_train_size", "crop_mode", "label_type", "force",
    )
}  # fmt: skip
EXPORT_ARGUMENTS["model"] = EXPORT_ARGUMENTS["model"]._replace(help="model name of a checkpoint without one")
FORMATS = {"onnx": ".onnx", "aoti": ".pt2", "torchscript": ".pt"}  # of `export`, and their file endings
