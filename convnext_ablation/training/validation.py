"""Weights on a split: the arguments and the work of `validate.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from timm.data import resolve_data_config
from timm.utils import reparameterize_model

from convnext_ablation.dataclass_options import option, options_of
from convnext_ablation.errors import UserError, in_one_line
from convnext_ablation.machine import compile_network
from convnext_ablation.training.arguments import ARGUMENTS, TrainingArguments
from convnext_ablation.training.checks import dry_run
from convnext_ablation.training.classification import write_classes
from convnext_ablation.training.distributed import Processes
from convnext_ablation.training.evaluation import evaluate
from convnext_ablation.training.network import check_finite, create_precision
from convnext_ablation.training.predictions import (
    Predictions,
    excluded_ids,
    without,
    write_predictions,
)
from convnext_ablation.training.splits import count_classes, number_as_trained, open_split
from convnext_ablation.training.trained import TrainedWeights

_data = partial(option, group="Data")
_model = partial(option, group="Model")
_results = partial(option, group="Results")
# of `train.py`, under the same names
_SHARED = (
    "data_dir", "dataset", "dataset_download", "class_map", "input_img_mode", "input_key", "target_key",
    "dataset_trust_remote_code", "skip_bad_images", "model", "pretrained", "num_classes", "gp", "img_size",
    "in_chans", "input_size", "crop_pct", "mean", "std", "interpolation", "batch_size", "channels_last",
    "fast_norm", "model_kwargs", "torchcompile", "torchcompile_mode", "device", "amp", "amp_dtype",
    "model_dtype", "workers", "pin_mem", "seed",
)  # fmt: skip
# what timm's validate.py takes besides
TIMM_ONLY = (
    "aot_autograd", "crop_border_pixels", "fuser", "log_freq", "metrics_avg", "naflex_loader",
    "naflex_max_seq_len", "no_prefetcher", "num_gpu", "num_samples", "real_labels", "retry", "test_pool",
    "tf_preprocessing", "torchscript", "valid_labels",
)  # fmt: skip
_MOST_IMAGES = 16  # of the example that the fastest form is measured with


@dataclass(frozen=True, kw_only=True)
class ValidationArguments:
    """The arguments of timm's `validate.py` that image classification uses, and a few of ours."""

    run: TrainingArguments  # those that `train.py` has too
    split: str = _data("validation", "split to evaluate on; '' if data_dir itself is it")
    exclude: str = _data("", "file of image ids; the figures without these images are given, too")
    checkpoint: str = _model("", "weights: a file, the folder of a run or release, or hf-hub:NAME")
    use_ema: bool = _model(False, "take the averaged weights of the checkpoint")
    reparam: bool = _model(False, "fold what can be folded first")
    use_train_size: bool = _model(False, "take the size of training where the weights have another for tests")
    crop_mode: Literal["squash", "border", "center"] | None = _model(None, "how images are cropped")
    optimize: bool = _model(False, "take the fastest exact form, measured first, in --model-dtype")
    results_file: str = _results("", "file to write the result to, as timm's script writes it")
    results_format: Literal["csv", "json"] = _results("csv", "its format")
    predictions_file: str = _results("", "CSV file to write a line for each image to")
    per_class_file: str = _results("", "CSV file to write precision, recall and F1 of each class to")
    report_dir: str = _results("", "folder to write figures of classes, confusions and calibration to")

    def __post_init__(self) -> None:
        """Checks types and values."""
        for name, known in _OWN.items():
            object.__setattr__(self, name, known.check(getattr(self, name)))
        if not self.run.model and not self.checkpoint:
            raise UserError("no network is given; name it with --model, or a --checkpoint")
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
        """Makes the arguments of those that were given, by name."""
        own = {name: value for name, value in given.items() if name in _OWN}
        shared = {name: VALIDATION_ARGUMENTS[name].default for name in _SHARED}
        shared |= {name: value for name, value in given.items() if name not in _OWN}
        return cls(run=TrainingArguments(**shared), **own)


_OWN = options_of(ValidationArguments)
VALIDATION_ARGUMENTS = {name: ARGUMENTS[name] for name in _SHARED} | _OWN
VALIDATION_ARGUMENTS["batch_size"] = ARGUMENTS["batch_size"]._replace(default=256)
VALIDATION_ARGUMENTS["model"] = ARGUMENTS["model"]._replace(default="", help="by default the checkpoint's")


class Validation:
    """A network with its weights, the images of a split, and what it makes of them.

    Attributes:
        loaded: What was loaded, in a line.
        taken: Arguments that were taken from the run of the checkpoint, and their values.
        predictions: Of all images, from `evaluate` on.
        kept: Those without the excluded images, if any are to be.
    """

    predictions: Predictions
    kept: Predictions | None = None
    loaded = ""

    def __init__(self, arguments: ValidationArguments, processes: Processes) -> None:
        self.arguments, self.processes = arguments, processes
        weights = TrainedWeights(arguments.run, arguments.checkpoint)
        run, self.taken = weights.arguments, weights.taken
        dry_run(run, trains=False)
        self.images = open_split(run, arguments.split)
        self.excluded: set[str] | None = None
        if arguments.exclude:
            path, ids = Path(arguments.exclude), self.images.ids()
            self.excluded = excluded_ids(path, ids, self.images.name, arguments.split)
        classes = run.num_classes
        if weights.in_file and classes is None:
            split = replace(run, train_split=arguments.split)
            classes = len(weights.names) or count_classes(split, {arguments.split: self.images})
        model: Any = weights.network(classes, processes)
        self.model, self.classes = model, int(model.num_classes)
        self.run = replace(run, num_classes=self.classes)
        number_as_trained(self.images, weights.names, self.classes, run.class_map, weights.whose)
        self.loaded = weights.load(self.model, "averaged" if arguments.use_ema else "plain")
        check_finite(self.model, arguments.checkpoint or self.run.model)
        if arguments.reparam:
            self.model = reparameterize_model(self.model)
        config = self.run.preprocessing()
        if arguments.crop_mode:
            config["crop_mode"] = arguments.crop_mode
        self.data_config = resolve_data_config(
            config, model=self.model, use_test_size=not arguments.use_train_size
        )

    def evaluate(
        self,
        on_progress: Callable[[int, int], None],
        optimize: Callable[[torch.nn.Module, torch.Tensor], Any],
    ) -> None:
        """Predicts every image once, by all processes together, and writes the files asked for.

        Args:
            on_progress: Called with the images done by all processes, and the images in all.
            optimize: Finds a network's fastest form for images like an example.
        """
        model: Any = self.model
        if self.arguments.optimize:
            weight = next(model.parameters())
            images = torch.randn(min(self.run.batch_size, _MOST_IMAGES), *self.data_config["input_size"])
            model = optimize(model, images.to(weight.device, weight.dtype))
        if self.run.torchcompile:
            with in_one_line(f"torchcompile {self.run.torchcompile}"):
                model = compile_network(model, backend=self.run.torchcompile, mode=self.run.torchcompile_mode)
        self.predictions = evaluate(
            model,
            self.images,
            self.run,
            self.data_config,
            self.processes,
            create_precision(self.run, self.processes.device)[0],
            on_progress,
        )
        if self.excluded is not None:
            self.kept = without(self.predictions, self.excluded)
        if not self.processes.is_first:
            return
        if self.arguments.per_class_file:
            path, names = Path(self.arguments.per_class_file), self.images.classes
            write_classes(path, self.predictions, self.classes, names)
        if self.arguments.predictions_file:
            write_predictions(Path(self.arguments.predictions_file), self.predictions)

    def result(self) -> dict[str, Any]:
        """What timm's script says of a network, and the figures without the excluded images."""
        top1, top5 = self.predictions.top1, self.predictions.top5_accuracy
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        result = {
            "model": self.run.model,
            "top1": round(top1, 4),
            "top1_err": round(100 - top1, 4),
            "top5": round(top5, 4),
            "top5_err": round(100 - top5, 4),
            "param_count": round(parameters / 1e6, 2),
            "img_size": self.data_config["input_size"][-1],
            "crop_pct": self.data_config["crop_pct"],
            "interpolation": self.data_config["interpolation"],
        }
        if self.kept is not None:
            result["top1_without_excluded"] = round(self.kept.top1, 4)
            result["top5_without_excluded"] = round(self.kept.top5_accuracy, 4)
            result["excluded"] = len(self.predictions.ids) - len(self.kept.ids)
        if self.images.left_out:
            result["left_out"] = self.images.left_out
        return result
