"""Users' releases: their content, and how to find them on a hub or in a folder.

A release consists of the weights and timm's `config.json` with two more keys:

"weights": {"file": "model.safetensors", "sha256": "...", "size": 112...}
"trained": data, results and settings behind the figures of the model card
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from timm.models import PretrainedCfg

from convnext_ablation.errors import UserError
from convnext_ablation.files import check_name, refuse_stand_in
from convnext_ablation.weights.download import check_hash, check_safetensors, fetch, releases_on_hub

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_MOST_CONFIG = 16 << 20  # bytes; a config with the class names of ImageNet-21k has 2 MiB
HUB, FOLDER = "hf-hub:", "local-dir:"  # timm's prefixes
HUB_VARIABLE, FOLDER_VARIABLE = "CONVNEXT_ABLATION_HUB", "CONVNEXT_ABLATION_WEIGHTS"

_logger = logging.getLogger(__name__)
# fields that a release must not set, since the weights come from the release itself
_SOURCES = {"url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load"}
_LABELS = ("label_names", "label_descriptions")
# arguments of entry points that aren't the network's; `weights_from` is from earlier versions
_OUR_ARGUMENTS = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "weights_from"}


@dataclass(frozen=True)
class Release:
    """A published trained network."""

    name: str  # ``namespace/name@commit``, or the folder
    folder: Path | None  # None if on a hub
    cache_dir: str | Path | None  # download cache; None for the hub's default
    architecture: str
    num_classes: int
    label_names: tuple[str, ...] | None  # in index order; None if not given
    model_args: Mapping[str, Any]  # arguments with which the network was created
    file: str  # file name of the weights
    sha256: str | None  # of the weights; None if not given
    trained: Mapping[str, Any] = field(repr=False)  # data, results and settings behind the reported figures
    config: Mapping[str, Any] = field(repr=False)  # the whole `config.json`

    @property
    def kind(self) -> str:
        """Whether the weights are ``plain`` or ``averaged`` (EMA); empty if unknown."""
        return {"plain": "plain", "ema": "averaged"}.get(str(self.trained.get("weights")), "")

    def pretrained_cfg(self) -> dict[str, Any]:
        """Preprocessing, classes and other fields of timm's `PretrainedCfg`, without the weights."""
        # a newer timm's config may have more fields
        known = {each.name for each in dataclasses.fields(PretrainedCfg)} - _SOURCES
        labels = {name: self.config[name] for name in _LABELS if name in self.config}
        cfg = {**self.config["pretrained_cfg"], "num_classes": self.num_classes, **labels}
        cfg = {key: tuple(value) if isinstance(value, list) else value for key, value in cfg.items()}
        if channels := self.model_args.get("in_chans"):
            cfg["input_size"] = (channels, *cfg.get("input_size", (3, 224, 224))[1:])
        cfg = {key: value for key, value in cfg.items() if key in known}
        on_hub = {} if self.folder else {"hf_hub_id": self.name}
        tag = PurePath(self.name.partition("@")[0]).name.partition(".")[2]  # empty if the name has no tag
        return {**cfg, **on_hub, "architecture": self.architecture, "tag": tag or None}

    def weights(self) -> Path:
        """Downloads the weights if needed; raises a `UserError` if they aren't the published ones."""
        name = f"{self.name}: {self.file}"
        if self.folder is None:
            path = fetch(self.name, self.file, self.cache_dir, self.sha256)
        else:
            path = self.folder / self.file
            if not path.is_file():
                raise UserError(f"{name}: missing; pickles are not read, have it published as safetensors")
            refuse_stand_in(path, name)
            if self.sha256:
                check_hash(path, self.sha256, name)
            else:
                _logger.warning("%s has no hash of the weights: not checked", path.parent / CONFIG)
        check_safetensors(path, name, self.num_classes)
        return path


def read_release(where: str | Path, cache_dir: str | Path | None = None) -> Release:
    """Reads the `config.json` of a release, without reading or downloading the weights.

    Args:
        where: ``hf-hub:namespace/name``, optionally with ``@revision``; or a folder, optionally with the
            prefix ``local-dir:``.
        cache_dir: Cache folder; by default the hub's.
    """
    text = str(where)
    if text.startswith(HUB):
        repository = text.removeprefix(HUB)
        path = fetch(repository, CONFIG, cache_dir)
        name = f"{repository.partition('@')[0]}@{path.parent.name}"  # pin the weights to the same commit
        return _read(path, name, None, cache_dir)
    folder = Path(text.removeprefix(FOLDER)).expanduser()
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"{folder}: there is no release, it has no {CONFIG}; for one on a hub write {HUB}NAMESPACE/NAME"
        )
    return _read(folder / CONFIG, str(folder), folder, None)


def release_of(weights: Path) -> Release | None:
    """The release in the folder of a weights file that includes that file; None if there is none."""
    with suppress(UserError):
        release = read_release(weights.parent)
        return release if release.file == weights.name else None
    return None


def _read(path: Path, name: str, folder: Path | None, cache_dir: str | Path | None) -> Release:
    if path.stat().st_size > _MOST_CONFIG:
        raise UserError(f"{name}: {CONFIG} has more than {_MOST_CONFIG >> 20} MiB; have it published again")
    try:
        config = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise UserError(f"{name}: {CONFIG} can't be read ({error}); have it published again") from error
    cfg, labels, arguments = config.get("pretrained_cfg"), config.get("label_names"), config.get("model_args")
    weights = {"sha256": "0" * 64} if config.get("weights") is None else config["weights"]
    classes: Any = config.get("num_classes", cfg.get("num_classes") if isinstance(cfg, dict) else None)
    valid = {
        "architecture": isinstance(config.get("architecture"), str),
        "pretrained_cfg": isinstance(cfg, dict),
        "num_classes": isinstance(classes, int) and classes >= 0,
        "label_names, one a class": labels is None
        or (isinstance(labels, (list, dict)) and len(labels) == classes),
        "model_args": isinstance(arguments or {}, dict),
        "trained": isinstance(config.get("trained") or {}, dict),
        f"weights, a file beside {CONFIG} and its SHA-256": isinstance(weights, dict)
        and re.fullmatch(r"[\w-][\w.-]*\.safetensors", str(weights.get("file", WEIGHTS)))
        and re.fullmatch("[0-9a-f]{64}", str(weights.get("sha256"))),
    }
    wrong = [entry for entry, is_valid in valid.items() if not is_valid]
    if wrong:
        raise UserError(f"{name}: {CONFIG} has no valid {wrong[0]}; have it published again")
    file = check_name(str(weights.get("file", WEIGHTS)), f"{name}: {CONFIG}: the file of the weights")
    return Release(
        name,
        folder,
        cache_dir,
        architecture=config["architecture"],
        num_classes=classes,
        label_names=tuple(labels) if isinstance(labels, list) else None,
        model_args={key: value for key, value in (arguments or {}).items() if key not in _OUR_ARGUMENTS},
        file=file,
        sha256=weights["sha256"] if config.get("weights") is not None else None,
        trained=config.get("trained") or {},
        config=config,
    )


@dataclass(frozen=True)
class Place:
    """Location of a user's releases: a folder, or a namespace of a hub."""

    name: str  # the folder; or the namespace, optionally with ``@revision``
    folder: Path | None  # None for a namespace

    def names(self, model: str, cache_dir: str | Path | None = None) -> list[str]:
        """Names of the releases of a network, ``<model>.<tag>``."""
        if self.folder is None:
            return releases_on_hub(self.name.partition("@")[0], model, cache_dir)
        return sorted(path.parent.name for path in self.folder.glob(f"{model}.*/{CONFIG}"))

    def read(self, name: str, cache_dir: str | Path | None = None) -> Release:
        """Reads the release `name`, ``<model>.<tag>``; raises a `UserError` if there is none."""
        if self.folder is None:
            namespace, at, revision = self.name.partition("@")
            return read_release(f"{HUB}{namespace}/{name}{at}{revision}", cache_dir)
        if not (self.folder / name / CONFIG).is_file():
            held = ", ".join(self.names(name.partition(".")[0]))
            hint = f"it has {held}" if held else "publish a run into it with `convnext-ablation publish`"
            raise UserError(f"{self.folder} has no {name}; {hint}")
        return read_release(self.folder / name)


def place_from_environment() -> Place | None:
    """The place set by environment variables; None if unset."""
    namespace = os.environ.get(HUB_VARIABLE, "").removeprefix(HUB)
    folder = os.environ.get(FOLDER_VARIABLE, "").removeprefix(FOLDER)
    if namespace and folder:
        raise UserError(f"{HUB_VARIABLE} and {FOLDER_VARIABLE} are both set; unset one of them")
    if folder and not Path(folder).expanduser().is_dir():
        raise UserError(f"{FOLDER_VARIABLE} is {folder}, and there is no such folder")
    if namespace and not re.fullmatch("[^/@]+(@.*)?", namespace):
        raise UserError(f"{HUB_VARIABLE} is {namespace!r}; write NAMESPACE or NAMESPACE@REVISION")
    if folder:
        return Place(folder, Path(folder).expanduser())
    return Place(namespace, None) if namespace else None


def find_release(name: str, tag: str, place: Place, cache_dir: str | Path | None = None) -> Release:
    """Finds the release of a network by tag, or the only one if `tag` is empty; a `UserError` if none."""
    held = [f"{name}.{tag}"] if tag else place.names(name, cache_dir)
    if not held:
        raise UserError(
            f"{place.name} has no weights of {name}; publish a run there, `convnext-ablation publish`"
        )
    if len(held) > 1:
        raise UserError(f"{place.name} has {', '.join(held[:8])}; name the one you want")
    release = place.read(held[0], cache_dir)
    if release.architecture != name:
        own_name = f"{FOLDER if release.folder else HUB}{release.name}"
        raise UserError(
            f"{release.name}: holds weights of {release.architecture}, not of {name}; load it as {own_name}"
        )
    return release
