"""Initial weights of a study's networks: finding them, their origin, and whether they fit."""

from __future__ import annotations

import functools
import glob
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch

from convnext_ablation.errors import UserError, in_one_line
from convnext_ablation.models import zoo
from convnext_ablation.models.checkpoint_files import checkpoint_hash, read_checkpoint
from convnext_ablation.models.components import SWITCHES
from convnext_ablation.study.designs.contrasts import Point
from convnext_ablation.study.experiment import Run, Study, Weights
from convnext_ablation.training.checks import pass_images
from convnext_ablation.training.distributed import Processes
from convnext_ablation.training.network import check_finite, create_network
from convnext_ablation.weights.download import fetch

MODEL, SEED = "{model}", "{pretraining_seed}"
# arguments in which pre-trainings of the same origin may differ
_OWN = (
    "model", "model_kwargs", "seed", "lr", "data_dir", "data", "device", "output", "experiment", "resume",
    "workers", "log_interval", "checkpoint_hist", "config", "local_rank", "world_size", "rank", "distributed",
    "prefetcher", "pretrained_path", "initial_checkpoint", "test_split", "recovery_interval",
)  # fmt: skip
UNKNOWN = "not told"


def find_weights(pattern: str | None, points: Sequence[Point], seeds: Sequence[int]) -> tuple[Weights, ...]:
    """Finds each network's weights; the pattern may contain ``{model}``, ``{pretraining_seed}`` and ``*``."""
    if not pattern:
        if seeds:
            raise UserError("--pretraining-seeds: say where the pre-trained weights are, with --init")
        return ()
    if MODEL not in pattern and len(points) > 1:
        raise UserError(f"--init {pattern}: names one file for {len(points)} networks; write {MODEL} in it")
    if seeds and SEED not in pattern:
        raise UserError(f"--init {pattern}: names one file for all pre-training seeds; write {SEED} in it")
    if SEED in pattern and not seeds:
        raise UserError(f"--init {pattern}: needs seeds; give --pretraining-seeds")
    starts: list[int | None] = [*seeds] or [None]
    found = [(point, seed, _file(pattern, point, seed)) for seed in starts for point in points]
    return tuple(
        Weights(point.key, seed, str(path.resolve()), checkpoint_hash(path), _origin(path, point))
        for point, seed, path in found
    )


def check_published(points: Sequence[Point], recipe_name: str) -> None:
    """Raises `UserError` if a network has no published weights for `pretrained=True`."""
    # switches rule out published weights; timm's other models get only an image size, and adapt their weights
    missing = [
        each.key
        for each in points
        if (each.components is not None and each.model_kwargs) or not zoo.has_weights(each.model)
    ]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise UserError(
            f"the recipe {recipe_name} fine-tunes, and no weights are published of "
            f"{', '.join(missing[:5])}{more}; give --init PATTERN, or --from-scratch"
        )


def fetch_published(study: Study) -> dict[str, str]:
    """Downloads all published initial weights into the hub's cache before training starts.

    Returns:
        The `weights_hash` of each model that starts from published weights.

    Raises:
        UserError: A download failed.
    """
    found = {}
    for run in study.one_run_each():
        name = run.point.model
        if name in found or not run.arguments.pretrained or run.weights or run.after:
            continue
        config = timm.get_pretrained_cfg(name)
        if name.partition(".")[0] not in zoo.model_names() and config.hf_hub_id:
            fetch(config.hf_hub_id, "model.safetensors")  # raises one-line errors
        found[name] = weights_hash(name)
    return found


def weights_hash(model: str) -> str:
    """SHA-256 of the parameter names and values that `pretrained=True` loads, whatever the file format."""
    state, digest = timm.create_model(model, pretrained=True).state_dict(), hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].numpy().tobytes())
    return digest.hexdigest()


def _file(pattern: str, point: Point, seed: int | None) -> Path:
    name = pattern.replace(MODEL, point.key).replace(SEED, str(seed))
    if Path(name).is_file():
        return Path(name)
    found = sorted(glob.glob(name))
    if len(found) == 1 and Path(found[0]).is_file():
        return Path(found[0])
    problem = f"fits {len(found)} files, such as {found[0]} and {found[1]}" if found[1:] else "no such file"
    raise UserError(f"--init {name}: {problem}; {point.label} would start from it")


def _origin(path: Path, point: Point) -> str:
    """Describes how weights were pre-trained; raises `UserError` if they are another network's."""
    checkpoint = read_checkpoint(path)
    arguments = checkpoint.arguments
    checkpoint.weights()
    _check_network(path, point, checkpoint.architecture, arguments)
    if not arguments:
        kept = checkpoint.content.get("source_format")
        return f"converted from {kept}" if kept else UNKNOWN
    data = arguments.get("dataset") or Path(str(arguments.get("data_dir") or "unnamed data")).name
    size = arguments.get("input_size") or (arguments.get("img_size"),)
    rest = {name: value for name, value in arguments.items() if name not in _OWN}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True, default=str).encode()).hexdigest()
    return f"{data}, {size[-1]} px, {arguments.get('epochs')} epochs (arguments {digest[:8]})"


def _check_network(path: Path, point: Point, arch: object, arguments: Mapping[str, Any]) -> None:
    if not isinstance(arch, str) or arch not in zoo.model_names():
        return
    kwargs = dict(arguments.get("model_kwargs") or {})  # only switches change weight shapes
    components = zoo.components_of(arch).with_(**{name: kwargs[name] for name in SWITCHES if name in kwargs})
    if components != point.components or arch.endswith("_atto") != point.model.endswith("_atto"):
        raise UserError(f"{path}: holds {arch}, not {point.key}; correct --init")


def check_networks(study: Study, classes: int) -> None:
    """Builds each network on the meta device, runs a forward pass, and loads its initial weights.

    Prints what each file provided.

    Raises:
        UserError: A network can't be built, can't take the recipe's images, or doesn't fit its initial
            weights or its counterpart in the starting phase.
    """
    runs = study.one_run_each()
    shapes = {run.point.key: _shapes(run) for run in runs}
    said: dict[str, list[str]] = {}
    for path, run in {run.arguments.pretrained_path: run for run in study.all_runs()}.items():
        for line in _loaded(path, run, classes) if path else ():
            said.setdefault(line.removeprefix(f"{path}: "), []).append(str(path))
    for line, paths in said.items():
        more = f" and {len(paths) - 1} more" if paths[1:] else ""
        print(f"{paths[0]}{more}: {line}", file=sys.stderr)
    for run in study.start.one_run_each() if study.start else ():
        if run.point.components is not None and run.point.key in shapes:
            # timm adapts three-channel weights to any number of channels
            channels = runs[0].arguments.channels if run.arguments.channels == 3 else None
            _check_same(run, _shapes(run, channels), shapes[run.point.key])


def _loaded(path: str, run: Run, classes: int) -> list[str]:
    """Loads a run's initial weights; returns the loader's messages."""
    lines: list[str] = []
    try:
        network = create_network(run.arguments, classes, Processes(torch.device("cpu")), say=lines.append)
        check_finite(network, path)
    except UserError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise UserError(f"--init {path}: {reason}") from error
    return lines


def _shapes(run: Run, channels: int | None = None) -> Mapping[str, torch.Size]:
    """Shapes of a network's parameters and buffers without the classifier, after a test forward pass.

    `channels` replaces the run's number of input channels.
    """
    size = run.input_size
    kwargs = json.dumps(dict(run.arguments.model_kwargs), sort_keys=True)
    return _shapes_of(run.arguments.model, kwargs, (channels or size[0], *size[1:]))


@functools.cache
def _shapes_of(model: str, kwargs: str, size: tuple[int, ...]) -> Mapping[str, torch.Size]:
    with in_one_line(f"{model}: can't be made"):
        network = timm.create_model(
            model, num_classes=0, in_chans=size[0], device="meta", **json.loads(kwargs)
        )
    pass_images(network, model, size)
    return {name: each.shape for name, each in network.state_dict().items()}


def _check_same(run: Run, before: Mapping[str, torch.Size], now: Mapping[str, torch.Size]) -> None:
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            there, here = (" x ".join(map(str, each.get(name, ["none"]))) for each in (before, now))
            raise UserError(
                f"starts from phase {run.phase}, whose {run.point.key} does not fit: {name} is {there} "
                f"there, and here {here}"
            )
