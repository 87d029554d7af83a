"""A release made of a finished run, before it is published.

A release is `model.safetensors`, `config.json` as timm writes it with the weights' SHA-256 and what the
figures were computed from, and a model card.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from timm.data import resolve_data_config
from timm.models import clean_state_dict, save_for_hf

from convnext_ablation.errors import UserError, first_line, in_one_line
from convnext_ablation.files import sha256_of, write_text
from convnext_ablation.hub.card import Sibling, model_card, recipe_of
from convnext_ablation.hub.finished_run import FinishedRun
from convnext_ablation.models import zoo  # noqa: F401  registers the networks
from convnext_ablation.models.cost import count_gmacs, count_parameters
from convnext_ablation.training.arguments import PREPROCESSING
from convnext_ablation.weights.release import CONFIG, HUB, WEIGHTS

__all__ = ["CARD", "FILES", "Draft", "Target", "drafted", "target_of"]

CARD = "README.md"
FILES = (CONFIG, WEIGHTS, CARD)
_REPOSITORY = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
_PREPROCESSING = ("input_size", "interpolation", "crop_pct", "crop_mode", "mean", "std")


@dataclass(frozen=True)
class Target:
    """Where a release goes: to a repository of the hub, ``namespace/name``, or into a folder."""

    repository: str = ""
    folder: Path | None = None

    @property
    def name(self) -> str:
        """Name of the release."""
        return self.repository.partition("/")[2] if self.folder is None else self.folder.resolve().name

    @property
    def link(self) -> str:
        """How the card of another release of a study links to it."""
        return f"https://huggingface.co/{self.repository}" if self.repository else f"../{self.name}"

    def __str__(self) -> str:
        """The repository as timm names it, or the folder."""
        return f"{HUB}{self.repository}" if self.folder is None else str(self.folder)


def target_of(text: str) -> Target:
    """Tells a repository from a folder.

    Args:
        text: ``namespace/name``, or a path that can't be taken for one, such as ``./name``.

    Raises:
        UserError: It could be either.
    """
    on_hub = text.startswith(HUB)
    name = text.removeprefix(HUB)
    if on_hub or re.fullmatch(_REPOSITORY, name):
        if not re.fullmatch(_REPOSITORY, name):
            raise UserError(f"{text}: a repository is {HUB}NAMESPACE/NAME")
        if not on_hub and Path(name.partition("/")[0]).is_dir():
            raise UserError(f"{text}: write ./{name} for the folder, or {HUB}{name} for the hub")
        return Target(repository=name)
    if "/" not in name and not name.startswith((".", "~")):
        raise UserError(f"{text}: write NAMESPACE/{name} for the hub, or ./{name} for a folder")
    return Target(folder=Path(text).expanduser())


@dataclass(frozen=True)
class Draft:
    """A release that is made and nowhere yet but in a folder, of `FILES`, that is removed again."""

    folder: Path
    target: Target
    run: FinishedRun = field(repr=False)
    config: Mapping[str, Any] = field(repr=False)  # what config.json says
    card: str = field(repr=False)


@contextmanager
def drafted(
    run: FinishedRun, target: Target, license: str = "", siblings: Sequence[Sibling] = ()
) -> Iterator[Draft]:
    """Makes a release of a run; its files are removed when the context is left.

    Raises:
        UserError: The weights aren't the network's, or it can't be made.
    """
    parent = target.folder.resolve().parent if target.folder is not None else None
    where = parent if parent is not None and parent.is_dir() else None  # on one disk it need only be renamed
    try:
        scratch = tempfile.TemporaryDirectory(prefix=".publish-", dir=where)
    except OSError as error:
        raise UserError(f"{where}: can't be written to ({error.strerror})") from error
    with scratch as folder:
        yield _draft(Path(folder) / "release", run, target, license, siblings)


def _draft(
    folder: Path, run: FinishedRun, target: Target, license: str, siblings: Sequence[Sibling]
) -> Draft:
    model = _network(run)
    settings = {name: value for name in PREPROCESSING if (value := run.saved.get(name))}
    data_config = resolve_data_config(settings, model=model)
    gmacs = count_gmacs(model, data_config["input_size"])
    config = _save(folder, model, run, data_config, license)
    name, parameters = target.name, count_parameters(model)
    card = model_card(run, name, target.repository, config, data_config, parameters, gmacs, license, siblings)
    write_text(folder / CARD, card)
    return Draft(folder, target, run, config, card)


def _network(run: FinishedRun) -> Any:
    """The network, without memory for weights."""
    arguments = run.arguments
    if not timm.is_model(arguments.model):
        raise UserError(f"{run.folder}: its network {arguments.model} is not in timm's registry")
    with in_one_line(f"{run.folder}: its network {arguments.model} can't be made"):
        return timm.create_model(arguments.model, device="meta", **_model_args(run))


def _model_args(run: FinishedRun) -> dict[str, Any]:
    """Arguments that the network was made with, but for the place of its first weights."""
    arguments = run.arguments
    options = {
        "in_chans": arguments.channels,
        "num_classes": arguments.num_classes,
        "global_pool": arguments.gp,
    }
    options |= {name: value for name, value in arguments.model_kwargs.items() if name != "weights_from"}
    return {name: value for name, value in options.items() if value is not None}


def _save(
    folder: Path, model: Any, run: FinishedRun, data_config: Mapping[str, Any], license: str
) -> dict[str, Any]:
    """Writes weights and `config.json` by timm's own function; returns what the latter says."""
    weights = {name: value.contiguous() for name, value in clean_state_dict(run.weights()).items()}
    with in_one_line(f"{run.folder}: its weights aren't those of {run.arguments.model} as args.yaml has it"):
        model.load_state_dict(weights, assign=True)
    cfg = model.pretrained_cfg
    same_size = tuple(data_config["input_size"][1:]) == tuple(cfg["input_size"][1:])
    # what the weights that it was started from were published with is left out: licence, source, test size
    model.pretrained_cfg = {
        "architecture": cfg["architecture"],
        **{name: data_config[name] for name in _PREPROCESSING},
        **({"pool_size": cfg["pool_size"]} if same_size and cfg.get("pool_size") else {}),
        **{name: cfg[name] for name in ("fixed_input_size", "first_conv", "classifier") if name in cfg},
        "num_classes": model.num_classes,
        **({"license": license} if license else {}),
    }
    labels = {"label_names": list(run.data.classes)} if run.data.classes else {}
    try:
        with in_one_line("the release can't be written"):
            save_for_hf(model, str(folder), labels, _model_args(run), safe_serialization=True)
    except SafetensorError as error:  # a full disk, too
        raise UserError(f"{WEIGHTS}: can't be written: {first_line(error)}") from error
    config = {
        **json.loads((folder / CONFIG).read_text(encoding="utf-8")),
        "weights": {
            "file": WEIGHTS,
            "sha256": sha256_of(folder / WEIGHTS),
            "size": (folder / WEIGHTS).stat().st_size,
        },
        "trained": _trained(run),
    }
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    return config


def _trained(run: FinishedRun) -> dict[str, Any]:
    """What the card's figures were computed from, so that they can be computed again."""
    names = ("split", "images", "correct", "top1", "top5", "picked_on")
    return {
        "data": run.data.name,
        "manifest_sha256": run.data.fingerprint or None,
        "results": [{name: getattr(result, name) for name in names} for result in run.results],
        "weights": "ema" if run.ema else "plain",
        "epoch": run.best.epoch,
        "epochs": run.epochs,
        "seed": run.arguments.seed,
        "versions": dict(run.versions),
        "recipe": recipe_of(run.saved),
    }
