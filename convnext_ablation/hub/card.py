"""The model card of a release: Markdown for people, and metadata by which the hub shows the results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import timm
import yaml
from huggingface_hub import EvalResult, ModelCardData
from timm.models import get_arch_pretrained_cfgs

from convnext_ablation.data.folder import KNOWN_FAULTS
from convnext_ablation.hub.finished_run import FinishedRun, SplitResult
from convnext_ablation.models import zoo
from convnext_ablation.models.components import FAMILIES
from convnext_ablation.page import render
from convnext_ablation.training.arguments import ARGUMENTS
from convnext_ablation.training.recipes import TIMM_ONLY

__all__ = ["CardFacts", "Sibling", "caveats", "model_card", "recipe_of"]

# of a run's arguments, those that say nothing of how it trained, or whose machine it was
_OF_THE_MACHINE = {
    "data", "data_dir", "device", "device_modules", "experiment", "log_interval", "log_tensorboard",
    "log_wandb", "output", "pin_mem", "recovery_interval", "checkpoint_hist", "resume", "wandb_project",
    "wandb_resume_id", "wandb_tags", "workers",
}  # fmt: skip
_FILES = ("class_map", "initial_checkpoint", "pretrained_path")  # only their names are told
_HUB_NAMES = {"imagenet": "imagenet-1k"}  # of data sets that stand on the hub


@dataclass(frozen=True)
class Sibling:
    """Another network of the same study: the name of its release, where it is, its results, a test first."""

    name: str
    link: str
    results: Sequence[SplitResult]


@dataclass(frozen=True)
class CardFacts:
    """What a model card is made of.

    Attributes:
        name: Of the release.
        repository: ``namespace/name`` on the hub; empty for a folder.
        run: What it was published from.
        architecture: Name of the network.
        classes: Number of classes.
        parameters: Number of parameters.
        gmacs: Billions of multiply-accumulates of an image.
        data_config: How images are prepared for it, in timm's words.
        sha256: Of the weights.
        license: Its identifier on the hub; empty if none is stated.
        siblings: The other networks of the study.
    """

    name: str
    repository: str
    run: FinishedRun
    architecture: str
    classes: int
    parameters: int
    gmacs: float
    data_config: Mapping[str, Any]
    sha256: str
    license: str = ""
    siblings: Sequence[Sibling] = ()

    @property
    def is_ours(self) -> bool:
        """Whether the network is one of this package's."""
        return self.architecture in zoo.model_names()


def model_card(facts: CardFacts) -> str:
    """Writes the model card; the same facts give the same text."""
    return render(
        "model_card.md",
        metadata=_metadata(facts),
        facts=facts,
        run=facts.run,
        arguments=facts.run.arguments,
        config=facts.data_config,
        label=_label(facts.architecture),
        size=" x ".join(map(str, facts.data_config["input_size"][1:])),
        numbers=lambda values: ", ".join(f"{value:g}" for value in values),
        caveats=list(caveats(facts.run)),
        start=_start(facts.run),
        script=_script(facts.run),
        recipe=yaml.safe_dump(recipe_of(facts.run.saved)).strip(),
    )


def _metadata(facts: CardFacts) -> ModelCardData:
    data = facts.run.data.name
    results = [
        EvalResult(
            task_type="image-classification",
            task_name="Image classification",
            dataset_type=_HUB_NAMES.get(data, data),
            dataset_name=data,
            dataset_split=result.split,
            metric_type=kind,
            metric_name=f"{name} accuracy (%)",
            metric_value=round(value, 3),
        )
        for result in facts.run.results
        for kind, name, value in (
            ("accuracy", "Top-1", result.top1),
            ("top_5_accuracy", "Top-5", result.top5),
        )
    ]
    tags = ["image-classification", "timm", "convnext_ablation"]
    return ModelCardData(
        library_name="timm",
        pipeline_tag="image-classification",
        license=facts.license or None,
        tags=tags if facts.is_ours else tags[:2],
        datasets=[_HUB_NAMES[data]] if data in _HUB_NAMES else None,
        metrics=["accuracy"] if results else None,
        model_name=facts.name if results else None,
        eval_results=results or None,
    )


def _label(architecture: str) -> str:
    name = architecture.removesuffix("_atto")
    width = " at a quarter of the width" if name != architecture else ""
    for variants in FAMILIES.values():
        if name in variants:
            variant = variants[name]
            return f"`{architecture}`, {variant.label} ({variant.adds}){width}"
    return f"`{architecture}`"


def caveats(run: FinishedRun) -> Iterator[str]:
    """What a reader must know of the figures."""
    arguments, splits = run.arguments, [result.split for result in run.results]
    if not run.results:
        other = "plain" if run.ema else "averaged (EMA)"
        yield f"There are none: the run evaluated its {other} weights, and these are the others."
    elif run.results[0].picked_on:
        yield (
            f"The epoch was picked by {arguments.eval_metric} on {splits[0]}, which the figures are of: they "
            "are too high; no other split was tested."
        )
    elif len(run.results) > 1:
        yield (
            f"The epoch was picked by {arguments.eval_metric} on {splits[1]}; the figures on {splits[1]} are "
            f"therefore too high. Judge by {splits[0]}."
        )
    if run.results:
        yield (
            f"This is one run, with seed {arguments.seed}: another seed gives another figure, and the "
            "intervals don't include that."
        )
    if run.by_timm and run.results:
        precision = f", under AMP in {arguments.amp_dtype}" if arguments.amp else ""
        yield (
            f"The figures are timm's own{precision}; where several processes evaluate, it counts some images "
            "twice."
        )
    if any(result.interval is None for result in run.results):
        yield "The number of images wasn't known here, so there is no interval."
    if run.data.name in KNOWN_FAULTS:
        yield KNOWN_FAULTS[run.data.name]
    if not run.data.classes:
        yield "The names of the classes weren't known here; the release has their numbers only."


def _script(run: FinishedRun) -> str:
    """How to call the script that trained."""
    script = "train.py"
    if run.by_timm and run.arguments.model.partition(".")[0] in zoo.model_names():
        script = "-m convnext_ablation.stock path/to/timm/train.py"
    if run.processes is not None and run.processes > 1:
        return f"torchrun --nproc-per-node {run.processes} {script}"
    return f"python {script}"


def _start(run: FinishedRun) -> str:
    arguments = run.arguments
    file = arguments.initial_checkpoint or arguments.pretrained_path
    if file:
        return f"the weights in `{PurePath(file).name}`"
    if not arguments.pretrained:
        return "random weights"
    tagged = get_arch_pretrained_cfgs(arguments.model) if timm.is_model(arguments.model) else {}
    whole = arguments.model if "." in arguments.model else next(iter(tagged), "")  # without a tag, the first
    cfg = tagged.get(whole)  # none for a release of one's own
    licence = f", whose licence is {cfg.license}" if cfg is not None and cfg.license else ""
    return f"the pretrained weights `{arguments.model}`{licence}"


def recipe_of(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a run's `args.yaml` that say how it trained, where they aren't the defaults."""
    defaults = {**{name: known.default for name, known in ARGUMENTS.items()}, **TIMM_ONLY}
    recipe = {}
    for name, value in saved.items():
        default = defaults.get(name, value)  # what neither script knows is left out
        default = list(default) if isinstance(default, tuple) else default
        if name in _OF_THE_MACHINE or value == default or (not value and not default):
            continue
        recipe[name] = PurePath(value).name if name in _FILES else value
    return recipe
