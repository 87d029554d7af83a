"""Trained weights from any source, with the network and the settings that they belong to."""

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

# arguments that come with the weights of a run unless given
_OF_THE_RUN = (
    "model", "model_kwargs", "num_classes", "gp", "in_chans", "input_size", "img_size", "input_img_mode",
    "crop_pct", "mean", "std", "interpolation",
)  # fmt: skip


class TrainedWeights:
    """The weights of a file, run or release, or the pretrained weights of a network's name.

    Args:
        asked: What to load; without a checkpoint, the pretrained weights of the network's name.

    Attributes:
        arguments: Those given, completed by those that come with the weights.
        taken: The arguments that come with the weights, and their values.
        names: Class names in the order of their numbers; empty if unknown.
        whose: Source of the weights, for messages.

    Raises:
        UserError: There are no weights, or they don't name their network.
    """

    def __init__(self, asked: TrainedArguments) -> None:
        self._asked, arguments, path = asked, asked.run, asked.checkpoint
        self.whose, self._checkpoint, self._saved = path or arguments.model, None, {}
        self._pretrained: list[str] = []  # lines on pretrained weights
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
            if arguments.img_size and (size := self._saved.pop("input_size", None)):  # timm prefers it
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
        """Whether the weights are in a file, which `load` reads."""
        return self._checkpoint is not None

    def data_config(self, model: nn.Module) -> dict[str, Any]:
        """Preprocessing of the network's images, from timm's `resolve_data_config`."""
        config = self.arguments.preprocessing()
        if self._asked.crop_mode:
            config["crop_mode"] = self._asked.crop_mode
        return resolve_data_config(config, model=model, use_test_size=not self._asked.use_train_size)

    def network(self, classes: int | None, processes: Processes) -> nn.Module:
        """Builds the network on its device with this many classes; `load` loads the weights of a file."""
        arguments = replace(self.arguments, pretrained=self.arguments.pretrained or self._checkpoint is None)
        model: Any = create_network(arguments, classes, processes, say=self._pretrained.append)
        if self._checkpoint is None:
            names = model.pretrained_cfg.get("label_names") or ()
            self.names = [names[key] for key in sorted(names, key=int)] if isinstance(names, dict) else names
        if len(self.names) != model.num_classes:  # names of another head
            self.names = ()
        return model

    def load(self, model: nn.Module, kind: str = "") -> str:
        """Loads the weights of a file into a network; returns what was loaded, in one line.

        Args:
            model: The network.
            kind: ``plain`` or ``averaged``; by default those that the run evaluated, or else as in
                `Checkpoint.weights`.
        """
        if self._checkpoint is None:
            return "".join(self._pretrained)
        evaluated = "plain" if self._saved.get("model_ema_force_cpu") else ""
        loaded = self._checkpoint.load(model, kind or evaluated)
        if self._checkpoint.averaged and kind == "plain":
            picked = self._saved.get("model_ema") and not self._saved.get("model_ema_force_cpu")
            by = ", by which the run picked its best epoch" if picked else ""
            loaded += f"; --use-ema uses the averaged ones{by}"
        return loaded


def _file_in(path: str) -> str:
    """The checkpoint in the folder of a run, or timm's name for a release in a folder; else the path."""
    folder = Path(path)
    if not path or not folder.is_dir():
        return path
    if (folder / CONFIG).is_file():
        return f"{FOLDER}{path}"
    if not (folder / BEST).is_file():
        raise UserError(f"{path}: is no run and no release, it has neither {BEST} nor {CONFIG}; name a file")
    return str(folder / BEST)


def _told(checkpoint: Checkpoint, model: str) -> dict[str, Any]:
    """What a checkpoint or its release says about its network."""
    release = release_of(checkpoint.path)
    saved = checkpoint.arguments | ({"num_classes": release.num_classes} if release else {})
    saved["model"] = checkpoint.architecture or saved.get("model")
    if saved.get("num_classes") is None:
        cfg = timm.get_pretrained_cfg(model or saved["model"] or "", allow_unregistered=True)
        saved["num_classes"] = classes_of(checkpoint.weights(), str(cfg and cfg.classifier))
    return saved
