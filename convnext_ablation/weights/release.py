"""A release: `config.json` as timm writes it with the hash of the weights in it, and the weights.

"weights": {"file": "model.safetensors", "sha256": "...", "size": 112...}
"trained": what the figures of the model card were computed from
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convnext_ablation.errors import UserError
from convnext_ablation.weights import hub
from convnext_ablation.weights.integrity import check_content, classes_in, refuse_pickle

__all__ = ["CONFIG", "WEIGHTS", "Release", "read_release"]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
HUB, FOLDER = "hf-hub:", "local-dir:"  # timm's words for them

_logger = logging.getLogger(__name__)
# what a release must not set: where weights come from, which is the release itself
_SOURCES = {"url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load"}
_OUR_ARGUMENTS = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "weights_from"}


@dataclass(frozen=True)
class Release:
    """What was published of a trained network.

    Attributes:
        name: ``namespace/name@commit``, or the folder.
        folder: The folder, None if it lies on a hub.
        config: Its `config.json`.
        cache_dir: The cache that it was fetched into, None for the hub's own.
    """

    name: str
    folder: Path | None
    config: Mapping[str, Any] = field(repr=False)
    cache_dir: str | Path | None = None

    @property
    def architecture(self) -> str:
        """Name of the network."""
        return self.config["architecture"]

    @property
    def num_classes(self) -> int:
        """Classes that it tells apart."""
        return self.config["num_classes"]

    @property
    def label_names(self) -> tuple[str, ...] | None:
        """Names of the classes in the order of their numbers, None if it doesn't say."""
        names = self.config.get("label_names")
        return tuple(names) if isinstance(names, list) else None

    @property
    def model_args(self) -> dict[str, Any]:
        """Arguments that the network was made with."""
        arguments = self.config.get("model_args") or {}
        return {name: value for name, value in arguments.items() if name not in _OUR_ARGUMENTS}

    @property
    def sha256(self) -> str | None:
        """SHA-256 of the weights, None if it doesn't say."""
        return (self.config.get("weights") or {}).get("sha256")

    @property
    def trained(self) -> Mapping[str, Any]:
        """What the figures of its card were computed from."""
        return self.config.get("trained") or {}

    @property
    def tag(self) -> str:
        """What stands behind the network's name in its own name, empty if nothing does."""
        return self.name.partition("@")[0].replace("\\", "/").rpartition("/")[2].partition(".")[2]

    def pretrained_cfg(self) -> dict[str, Any]:
        """Preprocessing, classes and the rest, as timm's `PretrainedCfg` takes it, without the weights."""
        cfg = {**self.config["pretrained_cfg"], "num_classes": self.num_classes}
        for name in ("label_names", "label_descriptions"):
            if name in self.config:
                cfg[name] = self.config[name]
        cfg = {key: _tuple(value) for key, value in cfg.items() if key in _cfg_fields()}
        channels = self.model_args.get("in_chans")
        if channels:
            cfg["input_size"] = (channels, *cfg.get("input_size", (3, 224, 224))[1:])
        on_hub = {} if self.folder else {"hf_hub_id": self.name}
        return {**cfg, **on_hub, "architecture": self.architecture, "tag": self.tag or None}

    def weights(self) -> Path:
        """Fetches the weights and checks them: their hash, once a file; that they are safetensors; classes.

        Raises:
            UserError: They can't be had, or aren't what was published: a hub's cache then drops them.
        """
        file = (self.config.get("weights") or {}).get("file", WEIGHTS)
        name = f"{self.name}: {file}"
        if self.folder:
            path = self.folder / file
            if not path.is_file():
                raise UserError(f"{name}: missing; pickles are not read, have it published as safetensors")
        else:
            path = hub.fetch(self.name, file, self.cache_dir)
        refuse_pickle(path, name)
        if self.sha256:
            self._check_hash(path, name)
        elif self.folder:
            _logger.warning("%s has no hash of the weights, so they are not checked", self.folder / CONFIG)
        found = classes_in(path, name)
        if found != self.num_classes:
            raise UserError(
                f"{name}: tells {found or 'no'} classes apart, {CONFIG} says {self.num_classes}; "
                "have it published again"
            )
        return path

    def _check_hash(self, path: Path, name: str) -> None:
        assert self.sha256 is not None
        try:
            size, published = path.stat().st_size, self.config["weights"].get("size")
            if published not in (None, size):
                raise UserError(
                    f"{name}: refused: it has {size} bytes, published are {published}; the file is cut short "
                    "or not the one that was published"
                )
            check_content(path, self.sha256, name)
        except UserError as error:
            if self.folder:
                raise UserError(f"{error}; copy it again") from error
            hub.forget(path)
            raise UserError(f"{error}; it was removed from the cache, so try again") from error


def _cfg_fields() -> set[str]:
    """What this timm's `PretrainedCfg` has; that of a newer one may have had more."""
    from timm.models import PretrainedCfg

    return {field.name for field in dataclasses.fields(PretrainedCfg)} - _SOURCES


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def read_release(where: str | Path, cache_dir: str | Path | None = None) -> Release:
    """Reads what a release says of itself; of the weights nothing is read or fetched yet.

    Args:
        where: ``hf-hub:namespace/name``, with ``@revision`` if not the newest is wanted;
            ``local-dir:folder``; or the folder as a path.
        cache_dir: Another cache than the hub's own.

    Raises:
        UserError: There is none, or it is damaged.
    """
    if isinstance(where, str) and where.startswith(HUB):
        repository = where.removeprefix(HUB)
        path = hub.fetch(repository, CONFIG, cache_dir)
        name = f"{repository.partition('@')[0]}@{path.parent.name}"  # its weights are that commit's
        return Release(name, None, _config(path, name), cache_dir)
    if isinstance(where, str) and not where.startswith(FOLDER):
        raise UserError(f"{where!r}: write {HUB}NAMESPACE/NAME for a hub, {FOLDER}PATH for a folder")
    folder = Path(where.removeprefix(FOLDER) if isinstance(where, str) else where).expanduser()
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: there is no release, {folder / CONFIG} is missing")
    return Release(str(folder), folder, _config(folder / CONFIG, str(folder)))


def _config(path: Path, name: str) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{name}: {CONFIG} can't be read ({error}); have it published again") from error
    wrong = _first_wrong(config)
    if wrong:
        raise UserError(f"{name}: {CONFIG} {wrong}; have it published again")
    return config


def _first_wrong(config: Any) -> str | None:
    """What makes a config useless, None if nothing does."""
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        return "names no architecture"
    cfg = config.get("pretrained_cfg")
    if not isinstance(cfg, dict):
        return "has no pretrained_cfg, the preprocessing"
    config.setdefault("num_classes", cfg.get("num_classes"))
    classes, labels = config["num_classes"], config.get("label_names")
    if not isinstance(classes, int) or classes < 0:
        return f"says num_classes is {classes!r}"
    if labels is not None and len(labels) != classes:
        return f"names {len(labels)} classes, and says there are {classes}"
    if not isinstance(config.get("model_args") or {}, dict):
        return "has model_args that are none"
    return _wrong_weights(config.get("weights"))


def _wrong_weights(weights: Any) -> str | None:
    if weights is None:
        return None
    if not isinstance(weights, dict):
        return "doesn't say which file the weights are"
    file, sha256 = str(weights.get("file", WEIGHTS)), str(weights.get("sha256", ""))
    if not re.fullmatch(r"[\w-][\w.-]*\.safetensors", file):
        return f"names {file!r} as the weights; only a .safetensors file beside it is taken"
    if not re.fullmatch("[0-9a-f]{64}", sha256):
        return "has no SHA-256 of the weights"
    return None
