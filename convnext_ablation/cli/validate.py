"""`validate.py`: how well weights do on a split, every image counted once, alone or under torchrun."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from timm.data import resolve_data_config
from timm.models import load_checkpoint
from timm.utils import natural_key, reparameterize_model

from convnext_ablation.cli.train import guarded, prepare_torch, together
from convnext_ablation.dataclass_options import option, options_of
from convnext_ablation.errors import UserError
from convnext_ablation.inference import OptimizedNetwork, optimize_for_inference
from convnext_ablation.models import zoo  # noqa: F401  registers the networks
from convnext_ablation.training.arguments import DATASET_HELP, PREPROCESSING, TrainingArguments
from convnext_ablation.training.checkpoints import load_checkpoint as read_run
from convnext_ablation.training.console import Console
from convnext_ablation.training.distributed import Processes, start_processes
from convnext_ablation.training.evaluation import Predictions, evaluate
from convnext_ablation.training.exclusion import excluded_ids, side_by_side, without
from convnext_ablation.training.images import Images, UnreadableImages
from convnext_ablation.training.parser import build_parser, given_arguments
from convnext_ablation.training.parts import create_network, create_precision
from convnext_ablation.training.splits import count_classes, open_split
from convnext_ablation.training.validation_results import (
    network_result,
    write_classes,
    write_predictions,
    write_results,
)

_data = partial(option, group="Data")
_model = partial(option, group="Model")
_images = partial(option, group="Preparation of the images")
_device = partial(option, group="Device")
_results = partial(option, group="Results")


@dataclass(frozen=True, kw_only=True)
class ValidationArguments:
    """The arguments of timm's `validate.py` that image classification uses, and a few of ours."""

    data_dir: str | None = _data(None, "folder of the data set, with a folder or a .tar a split")
    dataset: str = _data("", DATASET_HELP)
    split: str = _data("validation", "split to evaluate on; '' if data_dir itself is it")
    num_samples: int | None = _data(None, "images in the split of an iterable data set")
    dataset_download: bool = _data(False, "let torch/ data sets download themselves")
    class_map: str = _data("", "file that maps class names to numbers")
    input_key: str | None = _data(None, "name of the images' column")
    input_img_mode: str | None = _data(None, "PIL mode that images are converted to")
    target_key: str | None = _data(None, "name of the labels' column")
    dataset_trust_remote_code: bool = _data(False, "let hfds/ data sets run code of their repository")
    skip_bad_images: int = _data(0, "go on with up to so many images that can't be decoded, and list them")
    exclude: str = _data("", "file of image ids; the figures without these images are given, too")

    model: str = _model("", "name of the network; the checkpoint's if not given")
    pretrained: bool = _model(False, "take pretrained weights, as without --checkpoint")
    checkpoint: str = _model("", "file of the weights, or a folder of such files")
    use_ema: bool = _model(False, "take the averaged weights of the checkpoint")
    num_classes: int | None = _model(None, "classes; the checkpoint's or the data's if not given")
    gp: str | None = _model(None, "global pool")
    reparam: bool = _model(False, "fold what can be folded first")
    model_kwargs: Mapping[str, Any] = _model({}, "arguments of the network")

    img_size: int | None = _images(None, "side of the images in pixels")
    in_chans: int | None = _images(None, "channels of the images")
    input_size: tuple[int, ...] | None = _images(None, "channels, height and width of the images")
    use_train_size: bool = _images(
        False, "take the size of training where the weights have another for tests"
    )
    crop_pct: float | None = _images(None, "share of the resized image that the centre crop keeps")
    crop_mode: str | None = _images(None, "how it is cropped: squash, border, center")
    mean: tuple[float, ...] | None = _images(None, "mean of the pixels that is subtracted")
    std: tuple[float, ...] | None = _images(None, "deviation of the pixels that is divided by")
    interpolation: str = _images("", "interpolation when resizing")

    device: str = _device("cuda", "device: cuda, cpu")
    batch_size: int = _device(256, "images a process takes at a time")
    workers: int = _device(4, "processes that load data")
    pin_mem: bool = _device(False, "pin memory for faster transfer to a GPU")
    channels_last: bool = _device(False, "keep tensors in channels_last memory format")
    amp: bool = _device(False, "automatic mixed precision; without it, float32")
    amp_dtype: Literal["float16", "bfloat16"] = _device("float16", "lower precision of it")
    model_dtype: Literal["float32", "float16", "bfloat16"] | None = _device(None, "type of the weights")
    fast_norm: bool = _device(False, "timm's faster norms under AMP")
    torchcompile: str | None = _device(None, "compile the network with this backend")
    torchcompile_mode: str | None = _device(None, "mode of torch.compile")
    optimize: bool = _device(
        False, "take the network's fastest exact form, measured first; --model-dtype says in which type"
    )
    seed: int = _device(42, "seed of what an iterable data set draws")

    results_file: str = _results("", "file to write the result to, as timm's script writes it")
    results_format: Literal["csv", "json"] = _results("csv", "its format")
    predictions_file: str = _results("", "file to write a line for each image to: .csv, or .npz for NumPy")
    per_class_file: str = _results("", "CSV file to write a line for each class to")

    def __post_init__(self) -> None:
        """Checks types and values."""
        for name, known in ARGUMENTS.items():
            object.__setattr__(self, name, known.check(getattr(self, name)))
        if Path(self.predictions_file).suffix not in ("", ".csv", ".npz"):
            raise UserError(f"predictions_file is {self.predictions_file}; name it .csv or .npz")
        if not self.model and not self.checkpoint:
            raise UserError("no network is given; name it with --model, or a --checkpoint")
        if self.optimize and (self.amp or self.torchcompile):
            other = "--amp; --model-dtype bfloat16 computes in it" if self.amp else "--torchcompile"
            raise UserError(f"--optimize can't be combined with {other}")

    def for_run(self, saved: Mapping[str, Any]) -> TrainingArguments:
        """The arguments under the names that training has for them.

        Args:
            saved: Arguments of the run that the weights are of; they hold where nothing is given.
        """
        names = {field.name for field in fields(TrainingArguments)} & set(ARGUMENTS)
        given = {name: getattr(self, name) for name in names}
        for name in _OF_THE_RUN:
            if not given[name] and saved.get(name):
                given[name] = saved[name]
        return TrainingArguments(
            **{**given, "val_split": self.split, "val_num_samples": self.num_samples, "test_split": None}
        )


ARGUMENTS = options_of(ValidationArguments)
# what a run's own weights are evaluated with if nothing else is given
_OF_THE_RUN = (
    "model", "model_kwargs", "num_classes", "gp", "in_chans", "input_size", "img_size", "crop_pct", "mean",
    "std", "interpolation",
)  # fmt: skip
_MOST_IMAGES = 16  # of the example that the fastest form is measured with
# what timm's validate.py takes besides
TIMM_ONLY = (
    "aot_autograd", "crop_border_pixels", "fuser", "log_freq", "metrics_avg", "naflex_loader",
    "naflex_max_seq_len", "no_prefetcher", "num_gpu", "real_labels", "retry", "test_pool", "tf_preprocessing",
    "torchscript", "valid_labels",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `validate.py`.

    Args:
        argv: Its arguments, those of the process if None.

    Returns:
        The exit code: 0, or 2 for what the user can mend.
    """
    return guarded("validate.py", lambda: _validate(_parse(argv)))


def _parse(argv: Sequence[str] | None) -> ValidationArguments:
    parser = build_parser(
        "validate.py", "Evaluates weights as timm's validate.py does, each image exactly once.", ARGUMENTS
    )
    return ValidationArguments(**given_arguments(parser, argv, TIMM_ONLY))


def _validate(arguments: ValidationArguments) -> int:
    processes = start_processes(arguments.device)
    prepare_torch(processes.device)
    results = []
    for checkpoint in _checkpoints(arguments.checkpoint):
        one = replace(arguments, checkpoint=checkpoint)
        result = _evaluated(one, processes)
        if checkpoint != arguments.checkpoint:
            result["checkpoint"] = checkpoint
        results.append(result)
    if processes.is_first:
        results.sort(key=lambda result: -result["top1"])
        if arguments.results_file:
            write_results(Path(arguments.results_file), results, arguments.results_format)
        print(f"--result\n{json.dumps(results if len(results) > 1 else results[0], indent=4)}")
    return 0


def _checkpoints(path: str) -> list[str]:
    if not path or not Path(path).is_dir():
        return [path]
    found = [file for pattern in ("*.pth.tar", "*.pth", "*.safetensors") for file in Path(path).glob(pattern)]
    if not found:
        raise UserError(f"{path}: there is no .pth.tar, .pth or .safetensors file in it")
    return sorted(map(str, found), key=natural_key)


class _Evaluation:
    """A network with its weights, and the images it is evaluated on."""

    def __init__(self, arguments: ValidationArguments, processes: Processes) -> None:
        saved = _saved_arguments(arguments.checkpoint)
        run = arguments.for_run(saved)
        self.taken = [
            f"{name} {value}"
            for name in _OF_THE_RUN
            if (value := getattr(run, name)) and not getattr(arguments, name)
        ]
        if not run.model:
            raise UserError(f"{arguments.checkpoint}: doesn't say what network it is of; give --model")
        self.images = open_split(run, arguments.split)
        self.excluded = _excluded(arguments, self.images)
        self.classes = count_classes(
            replace(run, train_split=arguments.split), {arguments.split: self.images}
        )
        pretrained = arguments.pretrained or not arguments.checkpoint
        self.run = replace(run, pretrained=pretrained, num_classes=self.classes)
        self.model = create_network(self.run, self.classes, processes)
        if arguments.checkpoint:
            _load(self.model, arguments)
        if arguments.reparam:
            self.model = reparameterize_model(self.model)
        settings = {name: getattr(self.run, name, getattr(arguments, name, None)) for name in PREPROCESSING}
        self.data_config = resolve_data_config(
            {name: value for name, value in settings.items() if value},
            model=self.model,
            use_test_size=not arguments.use_train_size,
        )


def _excluded(arguments: ValidationArguments, images: Any) -> set[str] | None:
    """Images that the file of ``--exclude`` names; None without one."""
    if not arguments.exclude:
        return None
    if not isinstance(images, Images):
        raise UserError("images of an iterable data set have no ids; leave --exclude away")
    return excluded_ids(Path(arguments.exclude), images, arguments.split)


def _saved_arguments(checkpoint: str) -> dict[str, Any]:
    """The arguments of the run that a checkpoint is of, as far as it has them."""
    if not checkpoint.endswith((".pth.tar", ".pth", ".pt")):
        return {}
    state = read_run(Path(checkpoint))
    saved = state.get("args") or {}
    saved = dict(saved if isinstance(saved, Mapping) else vars(saved))
    if isinstance(state.get("arch"), str):
        saved["model"] = state["arch"]
    return saved


def _load(model: torch.nn.Module, arguments: ValidationArguments) -> None:
    try:
        load_checkpoint(model, arguments.checkpoint, use_ema=arguments.use_ema)
    except (KeyError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{arguments.checkpoint}: can't be loaded: {reason}") from error


def _evaluated(arguments: ValidationArguments, processes: Processes) -> dict[str, Any]:
    it: _Evaluation = together(processes, lambda: _Evaluation(arguments, processes))
    unreadable = UnreadableImages(arguments.skip_bad_images)
    model = it.model
    if arguments.optimize:
        model = _optimized(it)
    if arguments.torchcompile:
        model = torch.compile(model, backend=arguments.torchcompile, mode=arguments.torchcompile_mode)  # type: ignore[assignment]
    console = Console() if processes.is_first else None
    try:
        predictions = evaluate(
            model,
            it.images,
            it.run,
            it.data_config,
            processes,
            unreadable,
            create_precision(it.run, processes.device)[0],
            console.progress if console is not None else lambda images, of: None,
        )
    finally:
        if console is not None:
            console.close()
    bad = {image for part in processes.gather(list(unreadable.reasons)) for image in part}
    kept = None if it.excluded is None else without(predictions, it.excluded)
    if processes.is_first:
        if it.taken:
            print(f"as in the run of {arguments.checkpoint}: {', '.join(it.taken)}")
        for image in sorted(bad):
            print(f"left out, can't be decoded: {image}")
        _write_details(arguments, predictions, it)
        print(
            f"{it.run.model}: top-1 {predictions.top1:.3f} %, top-5 {predictions.top5_accuracy:.3f} %, "
            f"loss {predictions.loss:.4f}, {len(predictions.targets)} images, {it.classes} classes"
        )
        if kept is not None:
            print(side_by_side(predictions, kept))
    return network_result(it.run.model, it.model, it.data_config, predictions, kept)


def _optimized(it: _Evaluation) -> OptimizedNetwork:
    """The network's fastest form for batches as they will come."""
    weight = next(it.model.parameters())
    images = torch.randn(min(it.run.batch_size, _MOST_IMAGES), *it.data_config["input_size"])
    return optimize_for_inference(it.model, images.to(weight.device, weight.dtype))


def _write_details(arguments: ValidationArguments, predictions: Predictions, it: _Evaluation) -> None:
    if arguments.per_class_file:
        names = it.images.classes if isinstance(it.images, Images) else []
        write_classes(Path(arguments.per_class_file), predictions, it.classes, names)
    if arguments.predictions_file:
        write_predictions(Path(arguments.predictions_file), predictions)
