"""Classification of unlabelled images: the work of `convnext-ablation predict`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data import ImageNetInfo, infer_imagenet_subset
from torch import nn

from convnext_ablation.console import printable
from convnext_ablation.data.class_names import names_of, read_class_map
from convnext_ablation.data.unlabelled import Unlabelled
from convnext_ablation.errors import UserError
from convnext_ablation.inference.optimize import optimize_for_inference
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.checks import dry_run
from convnext_ablation.training.distributed import Processes
from convnext_ablation.training.evaluation import predict
from convnext_ablation.training.images import EvaluatedImages, Images, UnreadableImageError
from convnext_ablation.training.loaders import evaluation_loader, worker_errors
from convnext_ablation.training.network import check_finite, compiled, create_precision, memory_format
from convnext_ablation.training.trained import TrainedWeights
from convnext_ablation.training.trained_arguments import PredictionArguments

_EXAMPLE = 4  # batch for measuring the fastest form on a CPU; 16 takes four times as long
# below these numbers of images, measuring forms or compiling takes longer than it saves
_WORTH_MEASURING, _WORTH_COMPILING = 256, 20_000
_READ, _UNREADABLE = 0, -100  # used as labels; torch's losses ignore -100
_BLANK = 64  # side in pixels
_MOST = 200  # longest reason in characters


@dataclass(frozen=True)
class Answers:
    """A network's predictions for each image, in order.

    Attributes:
        classes: Most probable classes, best first, ``(N, K)``.
        probabilities: Their probabilities, ``(N, K)``.
        unread: Reasons why images have no prediction, by index.
    """

    classes: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    unread: Mapping[int, str]


class Prediction:
    """A network with its weights and class names.

    Attributes:
        loaded: What was loaded from the checkpoint, in one line; empty without one.
        taken: Arguments taken from the checkpoint's run, and their values.
        labels: Class names or descriptions in the order of their numbers; empty if unknown.
        names: Class names of the weights in that order, as folders are called; empty if unknown.
    """

    def __init__(self, arguments: PredictionArguments) -> None:
        self.arguments = arguments
        self.device = torch.device(arguments.run.device)
        weights = TrainedWeights(arguments)
        self.run, self.taken = weights.arguments, weights.taken
        dry_run(self.run, trains=False)
        self.model: Any = weights.network(self.run.num_classes, Processes(self.device))
        if not self.model.num_classes:
            raise UserError(f"{weights.whose}: has no classes; give weights with a classifier")
        self.loaded = weights.load(self.model)
        check_finite(self.model, weights.whose)
        self.model.eval()
        self.names = weights.names
        self.labels = self._labels(weights)
        self.data_config = weights.data_config(self.model)

    def _labels(self, weights: TrainedWeights) -> list[str]:
        """Class names from the class map, the weights, or ImageNet for timm's weights."""
        kind, classes = self.arguments.label_type, int(self.model.num_classes)
        names, cfg = weights.names, self.model.pretrained_cfg
        if path := self.run.class_map:
            names = names_of(read_class_map(Path(path)))
            if len(names) != classes:
                raise UserError(f"{path}: names {len(names)} classes, and the network has {classes}")
        described = {} if path else cfg.get("label_descriptions") or {}
        subset = None if names or weights.in_file else infer_imagenet_subset(self.model)
        if kind == "none" or not (names or subset):
            return []
        if names:
            return [described.get(name, name) if kind != "name" else name for name in names]
        info = ImageNetInfo(subset)
        if kind == "name":
            return [info.index_to_label_name(number) for number in range(classes)]
        return [info.index_to_description(number, kind == "detailed") for number in range(classes)]

    def answers(self, pictures: Unlabelled, progress: Callable[[int, int], None]) -> Answers:
        """Predicts each image once.

        Args:
            pictures: The images.
            progress: Called with the images done, and their total; it may raise.
        """
        run = self.sized(len(pictures))
        network = self._network(len(pictures), run)
        precision = create_precision(run, self.device)[0]
        images = _Pictures(Images(pictures, run.image_mode, ""))
        loader = evaluation_loader(images, run, self.data_config, self.device)
        with worker_errors():
            found = predict(
                network,
                loader,
                memory_format(run),
                precision,
                on_batch=lambda _, done: progress(done, len(pictures)),
                most=self.arguments.topk,
            )
        unread = {int(index): images.why_unread(int(index)) for index in np.flatnonzero(found["targets"])}
        odd = np.flatnonzero(~np.isfinite(found["probability"]).all(axis=1))
        unread |= {int(index): "the network's logits aren't finite" for index in odd}
        return Answers(found["top5"], found["probability"], unread)

    def sized(self, pictures: int) -> TrainingArguments:
        """The run with the largest batch that fits the device, and no more workers than batches."""
        size, weight = self.run.batch_size, next(self.model.parameters())
        while self.device.type == "cuda":
            try:
                with create_precision(self.run, self.device)[0](), torch.inference_mode():
                    self.model(weight.new_zeros(size, *self.data_config["input_size"]))
                break
            except torch.cuda.OutOfMemoryError as error:
                if self.arguments.batch_given or size == 1:
                    raise UserError(
                        f"{size} images don't fit the GPU; give a smaller --batch-size"
                    ) from error
                size //= 2
        batches = -(-pictures // size)
        return replace(self.run, batch_size=size, workers=min(self.run.workers, batches - 1))

    def _network(self, pictures: int, run: TrainingArguments) -> nn.Module:
        """The network's fastest form for this many images."""
        network: nn.Module = self.model
        if run.torchcompile:
            network = compiled(network, run)
        elif not (self.arguments.no_optimize or run.amp) and pictures >= _WORTH_MEASURING:
            weight = next(self.model.parameters())
            images = _EXAMPLE if self.device.type == "cpu" else run.batch_size
            example = torch.randn(images, *self.data_config["input_size"]).to(weight.device, weight.dtype)
            tries_compiled = None if pictures >= _WORTH_COMPILING else False
            network = optimize_for_inference(network, example, compiled=tries_compiled)
        return network


class _Pictures(EvaluatedImages):
    """Images of which some can't be read: these become blank images with an `_UNREADABLE` label."""

    def __init__(self, images: Images) -> None:
        super().__init__(images, 0, 1)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        """A preprocessed image, and its mark."""
        try:
            return super().__getitem__(number)[0], _READ
        except UnreadableImageError:
            return self.transform(Image.new(self.images.mode, (_BLANK, _BLANK))), _UNREADABLE

    def why_unread(self, number: int) -> str:
        """Why an image can't be read."""
        try:
            super().__getitem__(number)
        except UnreadableImageError as error:
            cause = error.__cause__
            # for a file that can't be read; the row has its path
            reason = getattr(cause and cause.__cause__, "strerror", None) or str(cause)
            return printable(" ".join(reason.split()) or type(cause).__name__)[:_MOST]
        return "could be read at the second try only"
