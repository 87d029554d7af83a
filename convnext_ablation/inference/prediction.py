"""The classes of pictures without labels: the work of `convnext-ablation predict`."""

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

_EXAMPLE = 4  # images that the fastest form is measured with on a CPU: 16 take four times as long
# fewer images take less time than to find the network's fastest form, or to compile it
_WORTH_MEASURING, _WORTH_COMPILING = 256, 20_000
_READ, _UNREADABLE = 0, -100  # in the place of a label; the latter is no class for torch's losses
_BLANK = 64  # pixels of a side
_MOST = 200  # characters of a reason


@dataclass(frozen=True)
class Answers:
    """What a network said of each picture, in their order.

    Attributes:
        classes: The most probable ones, best first, ``(N, K)``.
        probabilities: Of these, ``(N, K)``.
        unread: Why a picture has none, by its number.
    """

    classes: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    unread: Mapping[int, str]


class Prediction:
    """A network with its weights, and what is known of its classes.

    Attributes:
        loaded: What was loaded from the checkpoint, in a line; empty without one.
        taken: Arguments that were taken from the run of the checkpoint, and their values.
        labels: What the classes are called, in the order of their numbers; empty if that isn't known.
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
        self.labels = self._labels(weights)
        self.data_config = weights.data_config(self.model)

    def _labels(self, weights: TrainedWeights) -> list[str]:
        """What the classes are called: by the map, by the weights, or by ImageNet, which timm's are of."""
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
        """Has the network see each picture once.

        Args:
            pictures: What it is to see.
            progress: Called with the pictures done, and the pictures in all; it may raise.
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
        """The run with as many images at a time as its device takes, and no more workers than batches."""
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
        """The form of the network that is the fastest for so many pictures."""
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
    """Pictures of which some can't be read: they come as a blank one, marked in the place of the label."""

    def __init__(self, images: Images) -> None:
        super().__init__(images, 0, 1)

    def __getitem__(self, number: int) -> tuple[Any, int]:
        """A picture, prepared, and its mark."""
        try:
            return super().__getitem__(number)[0], _READ
        except UnreadableImageError:
            return self.transform(Image.new(self.images.mode, (_BLANK, _BLANK))), _UNREADABLE

    def why_unread(self, number: int) -> str:
        """Why a picture can't be read, in some words."""
        try:
            super().__getitem__(number)
        except UnreadableImageError as error:
            cause = error.__cause__
            # of a file that can't be read, whose path stands in the row
            reason = getattr(cause and cause.__cause__, "strerror", None) or str(cause)
            return printable(" ".join(reason.split()) or type(cause).__name__)[:_MOST]
        return "could be read at the second try only"
