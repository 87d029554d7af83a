"""`convnext-ablation predict`: the predicted classes of unlabelled images."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import torch

from convnext_ablation.console import Progress, counted, printable, table
from convnext_ablation.data.unlabelled import Unlabelled, find_pictures
from convnext_ablation.data.walk import skipped_lines
from convnext_ablation.errors import UserError
from convnext_ablation.files import write_csv, write_text, written_whole
from convnext_ablation.inference.prediction import Answers, Prediction
from convnext_ablation.training.distributed import StopRequest, check_device, prepare_torch
from convnext_ablation.training.trained_arguments import PredictionArguments

_ENDINGS = {".csv": "csv", ".json": "json", ".parquet": "parquet"}
_SHOWN = 10  # largest number of images whose classes are printed


def run(args: argparse.Namespace) -> None:
    """Runs the command.

    Raises:
        UserError: An argument, an input or the weights are invalid, or the results can't be written.
    """
    arguments = PredictionArguments.of(vars(args))
    inputs = [*args.inputs, *filter(None, [arguments.run.data_dir])]
    check_device(arguments.run.device)
    prepare_torch(torch.device(arguments.run.device))
    prediction = Prediction(arguments)
    files = _files(arguments, prediction)
    folder = next(iter(files)).parent
    with tempfile.TemporaryDirectory(prefix=".predict_", dir=folder) as scratch:
        _print(prediction)
        pictures = find_pictures(inputs, Path(scratch))
        for line in skipped_lines(pictures.skipped):
            print(f"skipped, {line}")
        with Progress("predicting") as progress, StopRequest() as stop:

            def move(done: int, total: int) -> None:
                progress.move(done, total)
                if stop():
                    print("convnext-ablation predict: stopped; nothing is written", file=sys.stderr)
                    raise SystemExit(128 + stop.signal)

            answers = prediction.answers(pictures, move)
    names = _names(pictures, arguments.fullname)
    columns = _columns(names, answers, prediction.labels)
    for file, form in files.items():
        _write(file, form, columns)
    if len(pictures) <= _SHOWN:
        cells = ([_short(cell) for cell in column] for column in columns.values())
        print(table(list(columns), zip(*cells, strict=True), words=range(len(columns)), fit=0))
    count = len(answers.unread)
    unread = f"; {count} of them can't be read, see the column error" if count else ""
    print(f"{', '.join(map(str, files))}: {counted(len(pictures), 'picture')}{unread}")


def _files(arguments: PredictionArguments, prediction: Prediction) -> dict[Path, str]:
    """Paths of the result files and their formats; raises `UserError` if one can't be written."""
    file = arguments.results_file
    ending = Path(file).suffix if Path(file).suffix in _ENDINGS else ""
    forms = arguments.results_format or (_ENDINGS.get(ending, "csv"),)
    stem = Path(arguments.results_dir, file.removesuffix(ending) or default_name(prediction))
    if arguments.results_dir:
        stem.parent.mkdir(parents=True, exist_ok=True)
    if not stem.name or not stem.parent.is_dir():
        raise UserError(f"{stem}: no file can be made there; give another --results-file, or --results-dir")
    files = {stem.with_name(f"{stem.name}.{form}"): form for form in forms}
    for path in files:
        if os.path.lexists(path) and not path.is_file():
            raise UserError(f"{path}: is no file, and is not replaced by one; choose another name")
        if path.exists() and not arguments.force:
            raise UserError(f"{path}: exists; give --force to overwrite it, or another --results-file")
    if "parquet" in forms and importlib.util.find_spec("pyarrow") is None:
        raise UserError("parquet needs pyarrow; pip install pyarrow, or give --results-format csv")
    return files


def default_name(prediction: Prediction) -> str:
    """The network's name and image size, for a file name."""
    name = PurePath(prediction.run.model.rpartition(":")[2]).name
    return f"{name}-{prediction.data_config['input_size'][-1]}"


def print_network(prediction: Prediction) -> None:
    """Prints where the weights are from, what came with them, and whether classes have names."""
    if prediction.loaded:
        print(prediction.loaded)
    if prediction.taken:
        print(f"taken from its run: {', '.join(prediction.taken)}")
    if not prediction.labels and prediction.arguments.label_type != "none":
        print("class names aren't known, so classes are numbered; name them with --class-map")


def _print(prediction: Prediction) -> None:
    print_network(prediction)
    if prediction.arguments.topk > (classes := int(prediction.model.num_classes)):
        print(f"--topk is {prediction.arguments.topk}, and there are {classes} classes: all are output")


def _names(pictures: Unlabelled, full: bool) -> list[str]:
    """Names of the images: file names, or full paths if file names repeat."""
    paths = [picture.name for picture in pictures.pictures]
    names = [path.rpartition("/")[2] for path in paths]
    if full:
        return paths
    if len(set(names)) < len(names):
        print("several files have the same name: paths are output, as with --fullname")
        return paths
    return names


def _columns(names: Sequence[str], answers: Answers, labels: Sequence[str]) -> dict[str, list[Any]]:
    """The results by column; with several classes per image, their columns are numbered by rank."""
    ranks = range(answers.classes.shape[1])
    read = [number not in answers.unread for number in range(len(names))]
    columns: dict[str, list[Any]] = {"filename": list(names)}
    values: dict[str, Callable[[int, int], Any]] = {
        "index": lambda row, rank: int(answers.classes[row, rank]),
        "label": lambda row, rank: labels[answers.classes[row, rank]],
        "prob": lambda row, rank: float(f"{answers.probabilities[row, rank]:.6g}"),
    }
    for column, value in values.items():
        for rank in ranks if labels or column != "label" else ():
            name = f"{column}_{rank}" if len(ranks) > 1 else column
            columns[name] = [value(row, rank) if there else None for row, there in enumerate(read)]
    return {**columns, "error": [answers.unread.get(row) for row in range(len(names))]}


def _write(path: Path, form: str, columns: Mapping[str, list[Any]]) -> None:
    """Writes the results; JSON and Parquet escape file names that aren't valid UTF-8."""
    if form == "csv":
        write_csv(path, list(columns), zip(*columns.values(), strict=True))
        return
    columns = {name: [_in_unicode(cell) for cell in column] for name, column in columns.items()}
    if form == "json":
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        write_text(path, json.dumps(rows, indent=4))
        return
    pyarrow = importlib.import_module("pyarrow")
    parquet = importlib.import_module("pyarrow.parquet")
    types = {"index": pyarrow.int64(), "prob": pyarrow.float64()}
    arrays = {
        name: pyarrow.array(column, types.get(name.partition("_")[0], pyarrow.string()))
        for name, column in columns.items()
    }
    with written_whole(path) as temporary:
        parquet.write_table(pyarrow.table(arrays), temporary)


def _in_unicode(cell: Any) -> Any:
    if not isinstance(cell, str):
        return cell
    return cell.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _short(cell: Any) -> str:
    return "" if cell is None else printable(f"{cell:.4f}" if isinstance(cell, float) else str(cell))
