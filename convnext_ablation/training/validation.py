"""Evaluation of weights on a split: the work of `validate.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from timm.utils import reparameterize_model

from convnext_ablation.training.checks import dry_run
from convnext_ablation.training.classification import write_classes
from convnext_ablation.training.distributed import Processes
from convnext_ablation.training.evaluation import evaluate
from convnext_ablation.training.network import check_finite, compiled, create_precision
from convnext_ablation.training.predictions import Predictions, excluded_ids, without, write_predictions
from convnext_ablation.training.splits import count_classes, number_as_trained, open_split
from convnext_ablation.training.trained import TrainedWeights
from convnext_ablation.training.trained_arguments import ValidationArguments

_MOST_IMAGES = 16  # largest batch for measuring the fastest form


class Validation:
    """A network with its weights, the images of a split, and its predictions.

    Attributes:
        loaded: What was loaded, in one line.
        taken: Arguments taken from the checkpoint's run, and their values.
        predictions: Those of all images, set by `evaluate`.
        kept: Those without the excluded images, if images are excluded.
    """

    predictions: Predictions
    kept: Predictions | None = None
    loaded = ""

    def __init__(self, arguments: ValidationArguments, processes: Processes) -> None:
        self.arguments, self.processes = arguments, processes
        weights = TrainedWeights(arguments)
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
        self.data_config = weights.data_config(self.model)

    def evaluate(
        self,
        on_progress: Callable[[int, int], None],
        optimize: Callable[[torch.nn.Module, torch.Tensor], Any],
    ) -> None:
        """Predicts every image once, shared by all processes, and writes the files asked for.

        Args:
            on_progress: Called with the images done by all processes, and their total.
            optimize: Returns a network's fastest form for images like an example.
        """
        model: Any = self.model
        if self.arguments.optimize:
            weight = next(model.parameters())
            images = torch.randn(min(self.run.batch_size, _MOST_IMAGES), *self.data_config["input_size"])
            model = optimize(model, images.to(weight.device, weight.dtype))
        self.predictions = evaluate(
            compiled(model, self.run),
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
        """The results that timm's script reports, and the accuracies without the excluded images."""
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
