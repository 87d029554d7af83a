"""Effect of bfloat16 and int8 on trained networks: top-1 and agreement with float32, image by image.

    python benchmarks/precision_accuracy.py runs/*/runs/model_* --output results/precision_accuracy.csv

Each RUN is a finished run of a study or of `train.py`: a folder with `args.yaml` and `model_best.pth.tar`.
The network predicts the test split in float32, under bf16 autocast, with weights and images cast to bf16, and
as `export --int8` writes it, calibrated on val. Loss and metrics are computed in float32 each time. A row
summarizes a network's runs (seeds): the change in top-1 with its 95 % interval, paired by seed and image
(`convnext_ablation.study.stats.effects`), and the share of images with the same predicted class. With one
seed, the interval covers the sampling of images only. Rows of other networks in the file are kept.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import SHORT, VERSIONS, Row, in_processes, parsed, parser_of, read_rows, small_run, write_rows
from torch import nn

import convnext_ablation.models.zoo  # noqa: F401  registers the networks
from convnext_ablation.errors import UserError
from convnext_ablation.inference.export import Deployed, load_onnx, write_onnx
from convnext_ablation.inference.quantize import batches, calibrating, quantize
from convnext_ablation.machine import available_cores, processor_name
from convnext_ablation.study.stats.effects import paired_difference
from convnext_ablation.training.distributed import Processes, make_deterministic
from convnext_ablation.training.evaluation import evaluate
from convnext_ablation.training.loop import ARGUMENTS_FILE
from convnext_ablation.training.predictions import Predictions
from convnext_ablation.training.splits import open_split
from convnext_ablation.training.trained_arguments import ValidationArguments
from convnext_ablation.training.validation import Validation
from convnext_ablation.yaml_files import read_yaml

BASELINE = "float32"
FORMS = ("autocast", "cast", "int8")


class Cast(nn.Module):
    """A network with bf16 weights that casts its images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.to(torch.bfloat16)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W) -> (B, classes)``."""
        return self.model(images.to(torch.bfloat16))


class Int8(nn.Module):
    """A run's network in int8, which takes normalized images and puts out log-probabilities."""

    def __init__(self, validation: Validation) -> None:
        super().__init__()
        self.network = Deployed(validation.model, validation.data_config)
        images, config = open_split(validation.run, "validation"), validation.data_config
        calibration = [pixels for pixels, _ in batches(images, calibrating(images), config)]
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "float32.onnx"), Path(folder, "int8.onnx")
            write_onnx(self.network, torch.from_numpy(calibration[0]), {}, source)
            quantize(source, target, calibration)
            self.run = load_onnx(target)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """``(B, C, H, W) -> (B, classes)``."""
        pixels = ((images - self.network.shift) / self.network.scale).round().to(torch.uint8)
        return torch.from_numpy(self.run(pixels.permute(0, 2, 3, 1).numpy())).clamp(min=1e-30).log()


def predict(run: Path, data_dir: str, form: str, split: str) -> tuple[str, Predictions]:
    """Name of a run's network, and its predictions on a split with the best epoch's weights."""
    make_deterministic(threads=1)
    processes = Processes(torch.device("cpu"))
    given = {"checkpoint": str(run), "data_dir": data_dir, "split": split, "device": "cpu", "workers": 0}
    validation = Validation(ValidationArguments.of(given), processes)
    kinds: dict[str, Callable[[], nn.Module]] = {
        "cast": lambda: Cast(validation.model),
        "int8": lambda: Int8(validation),
    }
    model = kinds.get(form, lambda: validation.model)()
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    if form == "autocast":
        context = partial(torch.autocast, "cpu", torch.bfloat16)
    found = evaluate(model, validation.images, validation.run, validation.data_config, processes, context)
    return validation.run.model, found


def compared(model: str, of: dict[str, list[Predictions]]) -> list[Row]:
    """A network's rows: each form against float32, paired by seed."""
    full = of[BASELINE]
    if any(not np.array_equal(each.ids, full[0].ids) for each in full):
        raise UserError(f"{model}: its runs were tested on different images; compare one data set at a time")
    rows = []
    for form in of:
        low = of[form]
        if form == BASELINE:
            continue
        change = paired_difference(_right(low), _right(full))
        loss = np.mean([one.loss - other.loss for one, other in zip(low, full, strict=True)])
        agree = np.mean([one.top5[:, 0] == other.top5[:, 0] for one, other in zip(low, full, strict=True)])
        within = max(abs(change.low), abs(change.high)) <= 0.001
        rows.append(
            {
                "model": model,
                "form": form,
                "seeds": len(full),
                "images": len(full[0].ids),
                "top1_float32_percent": f"{100 * _right(full).mean():.3f}",
                "top1_percent": f"{100 * _right(low).mean():.3f}",
                "change_points": f"{100 * change.estimate:+.3f}",
                "low_points": f"{100 * change.low:+.3f}",
                "high_points": f"{100 * change.high:+.3f}",
                "within_0.1_points": "yes" if within else "not shown",
                "agreement_percent": f"{100 * agree:.3f}",
                "loss_change": f"{loss:+.5f}",
                "machine": processor_name(),
                **VERSIONS,
            }
        )
    return rows


def _right(predictions: Sequence[Predictions]) -> Any:
    return np.stack([each.correct for each in predictions])


def main() -> None:
    """Predicts in all forms, and writes the comparison."""
    parser = parser_of(__doc__)
    parser.add_argument("runs", type=Path, nargs="*" if SHORT else "+", help="folders of finished runs")
    parser.add_argument("--split", default="test", help="what is predicted")
    parser.add_argument("--data-dir", help="where the data are, if elsewhere than when the runs were made")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS, help="compared with float32")
    parser.add_argument("--jobs", type=int, default=available_cores())
    options = parsed(parser)
    options.runs = options.runs or [small_run(options.output.parent)]
    data = {run: options.data_dir or read_yaml(run / ARGUMENTS_FILE)["data_dir"] for run in options.runs}
    forms = (BASELINE, *options.forms)
    jobs = [(run, folder, form, options.split) for run, folder in data.items() for form in forms]
    found: dict[int, tuple[str, Predictions]] = {}
    for number, (model, predictions) in in_processes(predict, jobs, options.jobs):
        found[number] = model, predictions
        print(f"{len(found)}/{len(jobs)} {model} {jobs[number][2]}: {predictions.top1:.3f} %", flush=True)
    networks: Any = defaultdict(lambda: defaultdict(list))
    for (_, folder, form, _), (_, (model, predictions)) in zip(jobs, sorted(found.items()), strict=True):
        networks[model, Path(folder).name][form].append(predictions)
    rows = [{"data": name, **row} for (model, name), of in networks.items() for row in compared(model, of)]
    made = [(row["data"], row["model"], row["form"]) for row in rows]
    kept = [row for row in read_rows(options.output) if (row["data"], row["model"], row["form"]) not in made]
    write_rows(options.output, [*kept, *rows])
    for row in rows:
        print(*row.values())


if __name__ == "__main__":
    main()
