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
from convnext_ablation.training.arguments import ARGUMENTS
from convnext_ablation.training.recipes import TIMM_ONLY

__all__ = ["CardFacts", "Sibling", "caveats", "model_card", "percent", "recipe_of"]

# of a run's arguments, those that say nothing of how it trained, or whose machine it was
_OF_THE_MACHINE = {
    "data", "data_dir", "device", "device_modules", "experiment", "log_interval", "log_tensorboard",
    "log_wandb", "output", "pin_mem", "recovery_interval", "checkpoint_hist", "resume", "wandb_project",
    "wandb_resume_id", "wandb_tags", "workers",
}  # fmt: skip
_FILES = ("class_map", "initial_checkpoint", "pretrained_path")  # only their names are told
_HUB_NAMES = {"imagenet": "imagenet-1k"}  # of data sets that stand on the hub

CONVNEXT = """@inproceedings{liu2022convnet,
  title = {A ConvNet for the 2020s},
  author = {Liu, Zhuang and Mao, Hanzi and Wu, Chao-Yuan and Feichtenhofer, Christoph and Darrell, Trevor and Xie, Saining},
  booktitle = {CVPR},
  year = {2022}
}"""  # noqa: E501
TIMM = """@misc{rw2019timm,
  author = {Ross Wightman},
  title = {PyTorch Image Models},
  year = {2019},
  doi = {10.5281/zenodo.4414861},
  howpublished = {\\url{https://github.com/huggingface/pytorch-image-models}}
}"""


@dataclass(frozen=True)
class Sibling:
    """Another network of the same study.

    Attributes:
        name: Of its release.
        link: Where it is.
        results: What is known of it, a test first.
    """

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
        classes: How many it tells apart.
        parameters: How many it has.
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
    sections = {
        "Results": _results(facts.run.results),
        "What these figures don't say": _bullets(caveats(facts.run)),
        "The network": _network(facts),
        "How it was trained": _training(facts.run),
        "How to load it": _loading(facts),
        "The other networks of the study": _siblings(facts.siblings),
        "Licence": _licence(facts),
        "Citation": f"```bibtex\n{CONVNEXT}\n{TIMM}\n```" if facts.is_ours else f"```bibtex\n{TIMM}\n```",
    }
    text = "\n\n".join(f"## {title}\n\n{section}" for title, section in sections.items() if section)
    return f"---\n{_metadata(facts).to_yaml()}\n---\n\n# {facts.name}\n\n{_summary(facts)}\n\n{text}\n"


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


def _summary(facts: CardFacts) -> str:
    run = facts.run
    what = _label(facts.architecture)
    weights = "the averaged weights (EMA)" if run.ema else "the weights"
    return (
        f"{what}, trained on {run.data.name} ({facts.classes} classes, "
        f"{_size(facts.data_config)} px): {weights} after epoch {run.best.epoch}, counted from 0, of "
        f"{run.epochs}."
    )


def _label(architecture: str) -> str:
    name, _, atto = architecture.partition("_atto")
    width = " at a quarter of the width" if architecture.endswith("_atto") and not atto else ""
    for variants in FAMILIES.values():
        if name in variants:
            variant = variants[name]
            return f"`{architecture}`, {variant.label} ({variant.adds}){width}"
    return f"`{architecture}`"


def _size(data_config: Mapping[str, Any]) -> str:
    return " x ".join(map(str, data_config["input_size"][1:]))


def _results(results: Sequence[SplitResult]) -> str:
    if not results:
        return ""
    lines = ["| split | images | top-1 % [95 %] | top-5 % | |", "|---|---:|---:|---:|---|"]
    for result in results:
        images = "not known" if result.images is None else str(result.images)
        note = "the epoch was picked on it" if result.picked_on else "read once, after training"
        lines.append(f"| {result.split} | {images} | {percent(result)} | {result.top5:.2f} | {note} |")
    return "\n".join(lines) + "\n\nThe intervals are over images."


def percent(result: SplitResult) -> str:
    """Top-1 in percent with its interval, as far as there is one."""
    if result.interval is None:
        return f"{result.top1:.2f}"
    return f"{result.top1:.2f} [{100 * result.interval.low:.2f}, {100 * result.interval.high:.2f}]"


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


def _network(facts: CardFacts) -> str:
    config = facts.data_config
    rows = [
        f"{facts.parameters / 1e6:.2f} M parameters, {facts.gmacs:.3f} GMACs an image of {_size(config)} px",
        f"images: resized to {1 / config['crop_pct']:.3f} times the crop ({config['interpolation']}), "
        f"{config['crop_mode']} crop of {_size(config)} px; mean {_numbers(config['mean'])}, "
        f"standard deviation {_numbers(config['std'])}",
        f"SHA-256 of `model.safetensors`: `{facts.sha256}`",
    ]
    return _bullets(rows)


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)


def _training(run: FinishedRun) -> str:
    arguments = run.arguments
    script = "timm's `train.py`" if run.by_timm else "`train.py` of convnext_ablation"
    processes = "an unknown number of" if run.processes is None else str(run.processes)
    images = f"{arguments.batch_size} x {processes} processes"
    if arguments.grad_accum_steps > 1:
        images += f" x {arguments.grad_accum_steps} batches added up"
    rows = [
        f"data: {run.data.name}, split {arguments.train_split}"
        + (f"; SHA-256 of its manifest: `{run.data.fingerprint}`" if run.data.fingerprint else ""),
        f"start: {_start(run)}",
        f"by {script}, {run.epochs} epochs, {images} an update, seed {arguments.seed}",
        "versions: "
        + (", ".join(f"{name} {value}" for name, value in run.versions.items()) or "not recorded"),
    ]
    recipe = yaml.safe_dump(recipe_of(run.saved)).strip()
    command = f"{_script(run)} path/to/{run.data.name} -c recipe.yaml"
    return f"{_bullets(rows)}\n\n```\n{command}\n```\n\nwith this as `recipe.yaml`:\n\n```yaml\n{recipe}\n```"


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
    """The arguments of a run that say how it trained, where they aren't the defaults.

    Args:
        saved: Its `args.yaml`.
    """
    defaults = {**{name: known.default for name, known in ARGUMENTS.items()}, **TIMM_ONLY}
    recipe = {}
    for name, value in saved.items():
        default = defaults.get(name, value)  # what neither script knows is left out
        default = list(default) if isinstance(default, tuple) else default
        if name in _OF_THE_MACHINE or value == default or (not value and not default):
            continue
        recipe[name] = PurePath(value).name if name in _FILES else value
    return recipe


def _loading(facts: CardFacts) -> str:
    source = f"hf-hub:{facts.repository}" if facts.repository else f"local-dir:path/to/{facts.name}"
    ours = "import convnext_ablation  # registers the network\n" if facts.is_ours else ""
    code = (
        f"```python\nimport timm\n{ours}\n"
        f'model = timm.create_model("{source}", pretrained=True).eval()\n'
        "config = timm.data.resolve_model_data_config(model)\n"
        "transform = timm.data.create_transform(**config, is_training=False)\n```"
    )
    if not facts.is_ours or not facts.name.startswith(f"{facts.architecture}."):
        return code
    variable = "CONVNEXT_ABLATION_HUB" if facts.repository else "CONVNEXT_ABLATION_WEIGHTS"
    place = facts.repository.partition("/")[0] or "path/to"
    return (
        f"{code}\n\nWith `{variable}={place}`, `timm.create_model({facts.name!r}, pretrained=True)` does the "
        "same, and checks the SHA-256; `convnext-ablation verify "
        f"{facts.name} --data FOLDER` computes the figures above again."
    )


def _siblings(siblings: Sequence[Sibling]) -> str:
    if not siblings:
        return ""
    lines = ["| network | split | top-1 % [95 %] |", "|---|---|---:|"]
    rows = [
        f"| [{sibling.name}]({sibling.link}) | {result.split} | {percent(result)} |"
        for sibling in siblings
        for result in sibling.results[:1]
    ]
    return "\n".join([*lines, *rows])


def _licence(facts: CardFacts) -> str:
    if facts.license:
        return (
            f"The weights are published under `{facts.license}`. The data they were trained on have terms of "
            "their own."
        )
    return "None is stated: ask whoever published the weights before you use them."


def _bullets(rows: Iterator[str] | Sequence[str]) -> str:
    return "\n".join(f"- {row}" for row in rows)
