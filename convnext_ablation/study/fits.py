"""Whether a study's networks can be made, take its images and fit the weights that they start from."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping

import timm
import torch

from convnext_ablation.errors import UserError, in_one_line
from convnext_ablation.study.experiment import Run, Study
from convnext_ablation.training.distributed import Processes
from convnext_ablation.training.network import create_network

Shapes = Mapping[str, torch.Size]


def check_networks(study: Study, classes: int) -> None:
    """Makes each network without its values, passes an image through, and loads the files it starts from.

    Raises:
        UserError: A network can't be made, can't take images of the recipe's size, or doesn't fit its
            weights or what the phase before trains.
    """
    runs = study.one_run_each()
    shapes = {run.point.key: _shapes(run) for run in runs}
    files = {run.arguments.pretrained_path: run for run in study.all_runs()}
    for path, run in files.items():
        if path:
            try:
                create_network(run.arguments, classes, Processes(torch.device("cpu")))
            except UserError as error:
                raise UserError(f"--init {path}: {error}") from error
    if study.start is None:
        return
    for before in study.start.one_run_each():
        if before.point.components is not None and before.point.key in shapes:
            # timm makes weights for three channels fit any number
            channels = runs[0].arguments.channels if before.arguments.channels == 3 else None
            _check_same(study.start.phase, before, _shapes(before, channels), shapes[before.point.key])


def _shapes(run: Run, channels: int | None = None) -> Shapes:
    """The shapes of a network's parameters, without a classifier; an image has been passed through.

    It has other `channels` than the run's, if these are given.
    """
    arguments = run.arguments
    size = run.input_size
    kwargs = json.dumps(dict(arguments.model_kwargs), sort_keys=True)
    return _shapes_of(arguments.model, kwargs, (channels or size[0], *size[1:]))


@functools.cache
def _shapes_of(model: str, kwargs: str, size: tuple[int, ...]) -> Shapes:
    with in_one_line(f"{model}: can't be made"):
        network = timm.create_model(
            model, num_classes=0, in_chans=size[0], device="meta", **json.loads(kwargs)
        ).eval()
    with in_one_line(f"{model}: can't take images of {size[1]} x {size[2]} px"), torch.no_grad():
        network(torch.empty(1, *size, device="meta"))
    return {name: each.shape for name, each in network.state_dict().items()}


def _check_same(phase: str, run: Run, before: Shapes, now: Shapes) -> None:
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            told = (" x ".join(map(str, each[name])) if name in each else "none" for each in (before, now))
            raise UserError(
                f"starts from phase {phase}, whose {run.point.key} does not fit: {name} is "
                + " there, and here ".join(told)
            )
