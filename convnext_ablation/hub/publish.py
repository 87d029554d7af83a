"""A finished run made into a release, in a folder or on a hub: all of it or nothing.

A release is `model.safetensors`, `config.json` as timm writes it with the weights' SHA-256 and what the
figures were computed from, and a model card.
"""

from __future__ import annotations

import filecmp
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from timm.data import resolve_data_config
from timm.models import clean_state_dict

from convnext_ablation.errors import UserError
from convnext_ablation.files import sha256_of, write_text, written_whole
from convnext_ablation.hub.card import CardFacts, Sibling, model_card, recipe_of
from convnext_ablation.hub.finished_run import FinishedRun
from convnext_ablation.models import zoo  # noqa: F401  registers the networks
from convnext_ablation.models.cost import count_gmacs, count_parameters
from convnext_ablation.training.arguments import PREPROCESSING
from convnext_ablation.weights.release import CONFIG, WEIGHTS

__all__ = ["CARD", "FILES", "Draft", "Target", "drafted", "into_folder", "target_of"]

CARD = "README.md"
FILES = (CONFIG, WEIGHTS, CARD)
HUB = "hf-hub:"
_REPOSITORY = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"


@dataclass(frozen=True)
class Target:
    """Where a release goes: to a repository of the hub, or into a folder.

    Attributes:
        repository: ``namespace/name``; empty for a folder.
        folder: The folder; None for the hub.
    """

    repository: str = ""
    folder: Path | None = None

    @property
    def name(self) -> str:
        """Name of the release."""
        return self.repository.partition("/")[2] if self.folder is None else self.folder.resolve().name

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
    """A release that is made and nowhere yet but in a folder that is removed again.

    Attributes:
        folder: Holds `FILES`.
        target: Where it is to go.
        card: The model card.
        config: What `config.json` says.
        run: What it was made from.
    """

    folder: Path
    target: Target
    card: str = field(repr=False)
    config: Mapping[str, Any] = field(repr=False)
    run: FinishedRun = field(repr=False)

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file."""
        return {name: (self.folder / name).stat().st_size for name in FILES}


@contextmanager
def drafted(
    run: FinishedRun, target: Target, license: str = "", siblings: Sequence[Sibling] = ()
) -> Iterator[Draft]:
    """Makes a release of a run; its files are removed when the context is left.

    Args:
        run: The run.
        target: Where it is to go.
        license: Identifier of the licence of the weights; empty if none is to be stated.
        siblings: The other networks of its study.

    Raises:
        UserError: The weights aren't the network's, or it can't be made.
    """
    parent = target.folder.resolve().parent if target.folder is not None else None
    where = parent if parent is not None and parent.is_dir() else None  # on one disk it need only be renamed
    try:
        scratch = tempfile.TemporaryDirectory(prefix=".publish-", dir=where)
    except OSError as error:
        raise UserError(
            f"{where or tempfile.gettempdir()}: can't be written to ({error.strerror})"
        ) from error
    with scratch as folder:
        yield _draft(Path(folder) / "release", run, target, license, siblings)


def _draft(
    folder: Path, run: FinishedRun, target: Target, license: str, siblings: Sequence[Sibling]
) -> Draft:
    folder.mkdir()
    model = _network(run)
    settings = {name: value for name in PREPROCESSING if (value := run.saved.get(name))}
    data_config = resolve_data_config(settings, model=model)
    gmacs = count_gmacs(model, data_config["input_size"])
    _write_weights(folder / WEIGHTS, model, run)
    sha256 = sha256_of(folder / WEIGHTS)
    config = {
        **_timm_config(model, run, data_config, license),
        "weights": {"file": WEIGHTS, "sha256": sha256, "size": (folder / WEIGHTS).stat().st_size},
        "trained": _trained(run),
    }
    write_text(folder / CONFIG, json.dumps(config, indent=2) + "\n")
    facts = CardFacts(
        name=target.name,
        repository=target.repository,
        run=run,
        architecture=config["architecture"],
        classes=config["num_classes"],
        parameters=count_parameters(model),
        gmacs=gmacs,
        data_config=data_config,
        sha256=sha256,
        license=license,
        siblings=siblings,
    )
    card = model_card(facts)
    write_text(folder / CARD, card)
    return Draft(folder, target, card, config, run)


def _network(run: FinishedRun) -> torch.nn.Module:
    """The network without weights."""
    arguments = run.arguments
    if not timm.is_model(arguments.model):
        raise UserError(f"{run.folder}: its network {arguments.model} is not in timm's registry")
    options = {"num_classes": arguments.num_classes, "global_pool": arguments.gp}
    try:
        return timm.create_model(
            arguments.model,
            in_chans=arguments.channels,
            device="meta",
            **{name: value for name, value in options.items() if value is not None},
            **arguments.model_kwargs,
        )
    except (RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{run.folder}: its network {arguments.model} can't be made: {reason}") from error


def _write_weights(path: Path, model: torch.nn.Module, run: FinishedRun) -> None:
    """Writes the run's weights from where its checkpoint is mapped into memory, without a copy of all."""
    weights = clean_state_dict(run.weights())
    expected = {name: value.shape for name, value in model.state_dict().items()}
    odd = sorted(set(weights) ^ set(expected)) or [
        name for name, shape in expected.items() if weights[name].shape != shape
    ]
    if odd:
        raise UserError(
            f"{run.folder}: its weights aren't those of {run.arguments.model} as args.yaml has it; "
            f"{odd[0]} differs"
        )
    contiguous = {name: value.contiguous() for name, value in weights.items()}
    try:
        with written_whole(path) as temporary:
            save_file(contiguous, temporary, {"format": "pt"})
    except SafetensorError as error:  # a full disk, too
        raise UserError(f"{path.name}: can't be written: {' '.join(str(error).split())}") from error


def _timm_config(
    model: Any, run: FinishedRun, data_config: Mapping[str, Any], license: str
) -> dict[str, Any]:
    """What timm's `push_to_hf_hub` writes, for weights in timm's own names."""
    arguments, cfg = run.arguments, model.pretrained_cfg
    options = dict(arguments.model_kwargs)
    if arguments.channels != 3:
        options["in_chans"] = arguments.channels
    if arguments.gp:
        options["global_pool"] = arguments.gp
    same_size = tuple(data_config["input_size"][1:]) == tuple(cfg["input_size"][1:])
    config = {
        "architecture": cfg["architecture"],
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        **({"global_pool": pool} if (pool := _global_pool(model)) else {}),
        **({"label_names": list(run.data.classes)} if run.data.classes else {}),
        **({"model_args": options} if options else {}),
    }
    pretrained_cfg = {
        "custom_load": False,
        **{name: data_config[name] for name in ("input_size", "interpolation", "crop_pct", "crop_mode")},
        "fixed_input_size": bool(cfg.get("fixed_input_size")),
        **{name: data_config[name] for name in ("mean", "std")},
        "num_classes": model.num_classes,
        "pool_size": cfg.get("pool_size") if same_size else None,
        "first_conv": cfg.get("first_conv"),
        "classifier": cfg.get("classifier"),
        **({"license": license} if license else {}),
    }
    return {**config, "pretrained_cfg": pretrained_cfg}


def _global_pool(model: Any) -> str:
    """Name of the global pool, which timm's networks have in one of two places; empty if it isn't found."""
    pool = getattr(model, "global_pool", None) or getattr(getattr(model, "head", None), "global_pool", None)
    name = getattr(pool, "pool_type", pool)
    return name if isinstance(name, str) else ""


def _trained(run: FinishedRun) -> dict[str, Any]:
    """What the card's figures were computed from, so that they can be computed again."""
    results = [
        {
            "split": result.split,
            "images": result.images,
            "correct": result.correct,
            "top1": result.top1,
            "top5": result.top5,
            "picked_on": result.picked_on,
        }
        for result in run.results
    ]
    return {
        "data": run.data.name,
        "manifest_sha256": run.data.fingerprint or None,
        "results": results,
        "weights": "ema" if run.ema else "plain",
        "epoch": run.best.epoch,
        "epochs": run.epochs,
        "seed": run.arguments.seed,
        "versions": dict(run.versions),
        "recipe": recipe_of(run.saved),
    }


def into_folder(draft: Draft) -> str:
    """Puts a release into its folder.

    Returns:
        What was done, in a line.

    Raises:
        UserError: The folder holds something else.
    """
    folder = draft.target.folder
    assert folder is not None
    folder = folder.resolve()
    if not folder.exists() or not any(folder.iterdir()):
        os.replace(draft.folder, folder)
        return f"published {folder}"
    held = {path.name for path in folder.iterdir()}
    if held != set(FILES):
        raise UserError(
            f"{folder}: holds {', '.join(sorted(held - set(FILES))[:3]) or 'half a release'}; "
            "publish into a folder of the release's own"
        )
    if all(filecmp.cmp(folder / name, draft.folder / name, shallow=False) for name in FILES):
        return f"{folder} holds just this already; nothing to do"
    before = draft.folder.with_name("before")
    os.replace(folder, before)
    try:
        os.replace(draft.folder, folder)
    except BaseException:
        os.replace(before, folder)
        raise
    shutil.rmtree(before, ignore_errors=True)
    return f"published {folder} anew, in place of what it held"
