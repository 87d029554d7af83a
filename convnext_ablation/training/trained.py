"""Trained weights, wherever they are: what they say of their network, and the network with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
from timm.data import resolve_data_config
from torch import nn

from convnext_ablation.errors import UserError
from convnext_ablation.models.checkpoint_files import Checkpoint, read_checkpoint
from convnext_ablation.models.layouts import classes_of
from convnext_ablation.training.distributed import Processes
from convnext_ablation.training.history import BEST
from convnext_ablation.training.network import create_network
from convnext_ablation.training.trained_arguments import TrainedArguments
from convnext_ablation.weights.release import CONFIG, FOLDER, HUB, read_release, release_of

# what a run's own weights are used with if nothing else is given
_OF_THE_RUN = (
    "model", "model_kwargs", "num_classes", "gp", "in_chans", "input_size", "img_size", "input_img_mode",
    "crop_pct", "mean", "std", "interpolation",
)  # fmt: skip


class TrainedWeights:
    """The weights of a file, a run or a release, or else those that a network's name stands for.

    Args:
        asked: What was asked for; without a checkpoint, the pretrained weights of the network's name.

    Attributes:
        arguments: Those given, and those that the weights come with where they were not given.
        taken: The latter, and their values.
        names: Of the classes, in the order of their numbers; empty if they aren't known.
        whose: What the weights are of, for messages.

    Raises:
        UserError: There are none, or they don't say of which network they are.
    """

    def __init__(self, asked: TrainedArguments) -> None:
        self._asked, arguments, path = asked, asked.run, asked.checkpoint
        self.whose, self._checkpoint, self._saved = path or arguments.model, None, {}
        self._pretrained: list[str] = []  # what is said of pretrained weights
        self.names: Sequence[str] = ()
        path = _file_in(path)
        if path.startswith((FOLDER, HUB)):
            if arguments.model:
                raise UserError(f"{self.whose} says of which network it is; leave --model out")
            channels = arguments.in_chans or read_release(path).model_args.get("in_chans")
            arguments, path = replace(arguments, model=path, in_chans=channels), ""
        if path:
            self._checkpoint = checkpoint = read_checkpoint(path)
            self._saved = _told(checkpoint, arguments.model)
            if arguments.img_size and (size := self._saved.pop("input_size", None)):  # timm would go by it
                self._saved["in_chans"] = self._saved.get("in_chans") or size[0]
            if arguments.input_size:
                self._saved.pop("img_size", None)
            release = release_of(checkpoint.path)
            self.names = checkpoint.classes or (release and release.label_names) or ()
        found = {
            name: self._saved[name]
            for name in _OF_THE_RUN
            if not getattr(arguments, name) and self._saved.get(name)
        }
        self.arguments = replace(arguments, **found)
        self.taken = [f"{name} {getattr(self.arguments, name)}" for name in found]
        if not self.arguments.model:
            raise UserError(f"{path}: doesn't say what network it is of; give --model")

    @property
    def in_file(self) -> bool:
        """Whether they are in a file, and `load` loads them."""
        return self._checkpoint is not None

    def data_config(self, model: nn.Module) -> dict[str, Any]:
        """How images are made ready for the network, as timm's `resolve_data_config` has it."""
        config = self.arguments.preprocessing()
        if self._asked.crop_mode:
            config["crop_mode"] = self._asked.crop_mode
        return resolve_data_config(config, model=model, use_test_size=not self._asked.use_train_size)

    def network(self, classes: int | None, processes: Processes) -> nn.Module:
        """Makes the network on its device, for so many classes; those of a file are loaded by `load`."""
        arguments = replace(self.arguments, pretrained=self.arguments.pretrained or self._checkpoint is None)
        model: Any = create_network(arguments, classes, processes, say=self._pretrained.append)
        if self._checkpoint is None:
            names = model.pretrained_cfg.get("label_names") or ()
            self.names = [names[key] for key in sorted(names, key=int)] if isinstance(names, dict) else names
        if len(self.names) != model.num_classes:  # of another head
            self.names = ()
        return model

    def load(self, model: nn.Module, kind: str = "") -> str:
        """Loads the weights of a file into `network`; returns what was loaded, in a line, of a release, too.

        Args:
            model: The network.
            kind: Of the weights, plain or averaged; those that were evaluated in the run if not given, or
                else as `Checkpoint.weights` takes it.
        """
        if self._checkpoint is None:
            return "".join(self._pretrained)
        evaluated = "plain" if self._saved.get("model_ema_force_cpu") else ""
        loaded = self._checkpoint.load(model, kind or evaluated)
        if self._checkpoint.averaged and kind == "plain":
            picked = self._saved.get("model_ema") and not self._saved.get("model_ema_force_cpu")
            by = ", by which the run picked its best epoch" if picked else ""
            loaded += f"; --use-ema takes the averaged ones{by}"
        return loaded


def _file_in(path: str) -> str:
    """The checkpoint in the folder of a run, or what timm calls a release in a folder; else the path."""
    folder = Path(path)
    if not path or not folder.is_dir():
        return path
    if (folder / CONFIG).is_file():
        return f"{FOLDER}{path}"
    if not (folder / BEST).is_file():
        raise UserError(f"{path}: is no run and no release, it has neither {BEST} nor {CONFIG}; name a file")
    return str(folder / BEST)


def _told(checkpoint: Checkpoint, model: str) -> dict[str, Any]:
    """What a checkpoint, or the release that it is of, says of its network."""
    release = release_of(checkpoint.path)
    saved = checkpoint.arguments | ({"num_classes": release.num_classes} if release else {})
    saved["model"] = checkpoint.architecture or saved.get("model")
    if saved.get("num_classes") is None:
        cfg = timm.get_pretrained_cfg(model or saved["model"] or "", allow_unregistered=True)
        saved["num_classes"] = classes_of(checkpoint.weights(), str(cfg and cfg.classifier))
    return saved
