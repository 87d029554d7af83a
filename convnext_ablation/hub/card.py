"""The model card of a release: Markdown, with metadata from which the hub shows the results."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import PurePath
from typing import Any

import timm
import yaml
from huggingface_hub import EvalResult, ModelCardData

from convnext_ablation.data.folder import KNOWN_FAULTS
from convnext_ablation.hub.finished_run import FinishedRun
from convnext_ablation.models import zoo
from convnext_ablation.models.components import FAMILIES
from convnext_ablation.page import render
from convnext_ablation.training.arguments import ARGUMENTS, RETIRED
from convnext_ablation.training.settings import TIMM_ONLY

# arguments that don't describe the training, or that depend on the machine
_OF_THE_MACHINE = {
    "data", "data_dir", "device", "device_modules", "experiment", "log_interval", "log_tensorboard",
    "log_wandb", "output", "pin_mem", "recovery_interval", "checkpoint_hist", "resume", "wandb_project",
    "wandb_resume_id", "wandb_tags", "workers",
}  # fmt: skip
_FILES = ("class_map", "initial_checkpoint", "pretrained_path")  # shown without their folders
_HUB_NAMES = {"imagenet": "imagenet-1k"}  # ids of data sets on the hub


def model_card(
    run: FinishedRun, name: str, config: Mapping[str, Any], license: str = "", **shown: Any
) -> str:
    """Renders the model card as Markdown; deterministic.

    Args:
        run: The published run.
        name: Name of the release.
        config: The release's `config.json`.
        license: The hub's identifier of the licence; empty if none is stated.
        **shown: Other template variables: `repository` on the hub or "", `images` (timm's data config),
            number of `parameters`, and `gmacs` per image.
    """
    architecture = config["architecture"]
    is_ours = architecture in zoo.model_names()
    return render(
        "model_card.md",
        metadata=_metadata(run, name, license, is_ours),
        run=run,
        arguments=run.arguments,
        name=name,
        config=config,
        license=license,
        is_ours=is_ours,
        label=_label(architecture),
        known_fault=KNOWN_FAULTS.get(run.data.name),
        start=_start(run),
        recipe=yaml.safe_dump(recipe_of(run.saved)).strip(),
        **shown,
    )


def _metadata(run: FinishedRun, name: str, license: str, is_ours: bool) -> ModelCardData:
    data = run.data.name
    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Image classification",
            dataset_type=_HUB_NAMES.get(data, data),
            dataset_name=data,
            dataset_split=result.split,
            metric_type=kind,
            metric_name=f"{metric} accuracy (%)",
            metric_value=round(value, 3),
        )
        for result in run.results
        for kind, metric, value in (
            ("accuracy", "Top-1", result.top1),
            ("top_5_accuracy", "Top-5", result.top5),
        )
    ]
    tags = ["image-classification", "timm", "convnext_ablation"]
    return ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        license=license or None,
        tags=tags if is_ours else tags[:2],
        datasets=[_HUB_NAMES[data]] if data in _HUB_NAMES else None,
        metrics=["accuracy"] if results else None,
        model_name=name if results else None,
        eval_results=results or None,
    )


def _label(architecture: str) -> str:
    name = architecture.removesuffix("_atto")
    width = " at a quarter of the width" if name != architecture else ""
    for variants in FAMILIES.values():
        if name in variants:
            return f"`{architecture}`, {variants[name].label} ({variants[name].adds}){width}"
    return f"`{architecture}`"


def _start(run: FinishedRun) -> str:
    arguments = run.arguments
    file = arguments.initial_checkpoint or arguments.pretrained_path
    if file:
        return f"the weights in `{PurePath(file).name}`"
    if not arguments.pretrained:
        return "random weights"
    licence = ""
    with suppress(RuntimeError):  # a user's release, whose tag timm doesn't know
        cfg = timm.get_pretrained_cfg(arguments.model)
        licence = f", whose licence is {cfg.license}" if cfg is not None and cfg.license else ""
    return f"the pretrained weights `{arguments.model}`{licence}"


def recipe_of(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The training arguments of a run's `args.yaml` that differ from the defaults."""
    ours = {name: known.default for name, known in ARGUMENTS.items()}
    defaults = {**dict.fromkeys(TIMM_ONLY), **RETIRED, **ours}
    recipe = {}
    for name, value in saved.items():
        default = defaults.get(name, value)  # omit arguments unknown to both scripts
        default = list(default) if isinstance(default, tuple) else default
        if name in _OF_THE_MACHINE or value == default or (not value and not default):
            continue
        recipe[name] = PurePath(value).name if name in _FILES else value
    return recipe
