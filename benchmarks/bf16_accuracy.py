"""What bfloat16 changes in the answers of trained networks: top-1 and agreement with float32, image by image.

    python benchmarks/bf16_accuracy.py runs/*/runs/model_* --output results/bf16_accuracy.csv

Each RUN is a finished run of a study, or of `train.py`: a folder with `args.yaml` and `model_best.pth.tar`.
Its network predicts the test split in float32, under bf16 autocast, and with weights and images cast to bf16;
the loss and what is counted are in float32 each time. A row has what a network's runs, its seeds, give
together: the change of top-1 with its 95 % interval, paired by seed and image
(`convnext_ablation.study.stats.effects`), and the share of images on which both say the same class. With one
seed the interval is over images alone.

With --predictions what was predicted is kept in a folder, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import multiprocessing
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
import yaml
from timm.data import resolve_data_config
from torch import nn

import convnext_ablation.models.zoo  # noqa: F401  registers the networks
from convnext_ablation.errors import UserError
from convnext_ablation.files import written_whole
from convnext_ablation.machine import available_cores, end_with_parent, keep_memory, processor_name
from convnext_ablation.study.stats.effects import paired_difference
from convnext_ablation.training.arguments import PREPROCESSING, TrainingArguments
from convnext_ablation.training.checkpoints import load_checkpoint
from convnext_ablation.training.distributed import Processes, make_deterministic
from convnext_ablation.training.evaluation import evaluate
from convnext_ablation.training.history import BEST
from convnext_ablation.training.network import create_network
from convnext_ablation.training.predictions import Predictions
from convnext_ablation.training.settings import known_settings
from convnext_ablation.training.splits import open_split

BASELINE = "float32"
FORMS = (BASELINE, "autocast", "cast")


class Cast(nn.Module):
    """A network with weights in bf16, which casts its images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.to(torch.bfloat16)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W) -> (B, classes)``."""
        return self.model(images.to(torch.bfloat16))


def read_arguments(run: Path, data_dir: str | None) -> TrainingArguments:
    """The arguments of a run, with its data elsewhere if said so.

    Raises:
        UserError: The folder isn't that of a run.
    """
    for name in ("args.yaml", BEST):
        if not (run / name).is_file():
            raise UserError(f"{run}: has no {name}; give the folders of finished runs")
    path = run / "args.yaml"
    settings = known_settings(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))
    arguments = TrainingArguments(**settings)
    return replace(arguments, device="cpu", workers=0, data_dir=data_dir or arguments.data_dir)


def predict(run: Path, arguments: TrainingArguments, form: str, split: str, limit: int | None) -> Predictions:
    """Predicts a split with the best epoch's weights."""
    make_deterministic(threads=1)
    processes = Processes(torch.device("cpu"))
    images = open_split(arguments, split)
    if limit:
        images.reader = _Some(images.reader, limit)
    model = create_network(arguments, arguments.num_classes or len(images.classes), processes)
    model.load_state_dict(load_checkpoint(run / BEST)["state_dict"])
    given = {name: getattr(arguments, name, None) for name in PREPROCESSING}
    data_config = resolve_data_config({name: value for name, value in given.items() if value}, model=model)
    if form == "cast":
        model = Cast(model)
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    if form == "autocast":
        context = partial(torch.autocast, "cpu", torch.bfloat16)
    return evaluate(model, images, arguments, data_config, processes, context)


class _Some:
    """Reads some of a split's images, evenly spaced."""

    def __init__(self, reader: Any, count: int) -> None:
        self.reader, self.class_to_idx = reader, reader.class_to_idx
        self.indices = np.linspace(0, len(reader) - 1, min(count, len(reader))).round().astype(int)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, number: int) -> Any:
        return self.reader[int(self.indices[number])]

    def filename(self, number: int) -> str:
        return self.reader.filename(int(self.indices[number]))


def predicted(job: tuple[Path, TrainingArguments, str, str, int | None], kept: Path) -> Path:
    """Predicts unless it was done before; returns the file."""
    run, _, form, split, limit = job
    name = hashlib.sha256(f"{run.resolve()} {split} {limit}".encode()).hexdigest()[:16]
    path = kept / f"{name}-{form}.npz"
    if not path.is_file():
        predict(*job).save(path)
    return path


def compared(
    model: str, runs: Sequence[Path], of: dict[tuple[Path, str], Predictions]
) -> list[dict[str, Any]]:
    """The rows of a network: each form of bf16 against float32."""
    full = [of[run, BASELINE] for run in runs]
    if any(not np.array_equal(each.ids, full[0].ids) for each in full):
        raise UserError(f"{model}: its runs were tested on different images; compare one data set at a time")
    rows = []
    for form in FORMS[1:]:
        low = [of[run, form] for run in runs]
        change = paired_difference(_right(low), _right(full))
        loss = np.mean([one.loss - other.loss for one, other in zip(low, full, strict=True)])
        agree = np.mean([one.top5[:, 0] == other.top5[:, 0] for one, other in zip(low, full, strict=True)])
        rows.append(
            {
                "model": model,
                "form": form,
                "seeds": len(runs),
                "images": len(full[0].ids),
                "top1_float32_percent": f"{100 * _right(full).mean():.3f}",
                "top1_bf16_percent": f"{100 * _right(low).mean():.3f}",
                "change_points": f"{100 * change.estimate:+.3f}",
                "low_points": f"{100 * change.low:+.3f}",
                "high_points": f"{100 * change.high:+.3f}",
                "within_0.1_points": "yes"
                if max(abs(change.low), abs(change.high)) <= 0.001
                else "not shown",
                "agreement_percent": f"{100 * agree:.3f}",
                "loss_change": f"{loss:+.5f}",
            }
        )
    return rows


def _right(predictions: Sequence[Predictions]) -> Any:
    return np.stack([each.correct for each in predictions])


def start() -> None:
    """Readies a process."""
    end_with_parent()
    keep_memory()


def main() -> None:
    """Predicts in all forms, and writes what they come to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs")
    parser.add_argument("--output", type=Path, required=True, help="CSV file to write")
    parser.add_argument("--split", default="test", help="what is predicted")
    parser.add_argument("--images", type=int, help="so many images only, evenly spaced")
    parser.add_argument("--data-dir", help="where the data are, if elsewhere than when the runs were made")
    parser.add_argument("--predictions", type=Path, help="folder to keep predictions in, to go on from")
    parser.add_argument("--jobs", type=int, default=available_cores())
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    arguments = {run: read_arguments(run, options.data_dir) for run in options.runs}
    jobs = [
        (run, settings, form, options.split, options.images)
        for run, settings in arguments.items()
        for form in FORMS
    ]
    of: dict[tuple[Path, str], Predictions] = {}
    with tempfile.TemporaryDirectory() as temporary:
        kept = options.predictions or Path(temporary)
        kept.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn"), start) as pool:
            futures = {pool.submit(predicted, job, kept): job for job in jobs}
            for number, future in enumerate(as_completed(futures), start=1):
                run, settings, form, *_ = futures[future]
                of[run, form] = Predictions.load(future.result())
                top1 = of[run, form].top1
                print(f"{number}/{len(jobs)} {settings.model} {run.name} {form}: {top1:.3f} %", flush=True)
    networks = defaultdict(list)
    for run, settings in arguments.items():
        networks[settings.model, Path(str(settings.data_dir)).name].append(run)
    versions = {"machine": processor_name(), "torch": torch.__version__, "timm": timm.__version__}
    rows = [
        {"data": data, **row, **versions}
        for (model, data), runs in networks.items()
        for row in compared(model, runs, of)
    ]
    with written_whole(options.output) as path, open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(*row.values())


if __name__ == "__main__":
    main()
