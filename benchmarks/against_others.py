"""Inference of the five stages against other projects' code, with the same weights and outputs.

    python benchmarks/against_others.py --fgvc path/to/11785-FGVC --convnext path/to/ConvNeXt \
        --output results/speed_against_others.csv

Their networks run as their users run them: `model.eval()` without gradients, in float32. Ours is the result
of `optimize_for_inference` for the same stage with their weights. Both take turns in one process. Each stage
has one process per setting of glibc's allocator: `default`, and `tuned`, which is
`convnext_ablation.machine.KEEP_MEMORY`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import timm
import torch
from common import SHORT, VERSIONS, Row, parsed, parser_of, ratio_columns, read_rows, write_rows
from torch import nn

import convnext_ablation
from convnext_ablation.machine import KEEP_MEMORY, processor_name
from convnext_ablation.models.convert import checkpoint_filter_fn
from convnext_ablation.timing import interleaved

# their Model V is the official code, and imports a module that is missing from their repository
FGVC = {
    "model_i": ("ResNet", "resnet50"),
    "model_ii": ("ResNet_c1", "resnet50_c1"),
    "model_iii": ("ResNet_c12", "resnet50_c12"),
    "model_iv": ("ResNet_c123", "resnet50_c123"),
}


def main() -> None:
    """Measures all pairs, or one pair in its own process."""
    parser = parser_of(__doc__)
    parser.add_argument("--fgvc", required=not SHORT, help="checkout of the 11785-FGVC project")
    parser.add_argument("--convnext", required=not SHORT, help="checkout of the official ConvNeXt")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[16])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parsed(parser, batch_size=[1], rounds=1)
    if options.one:
        print(json.dumps(measured(*json.loads(options.one), options.rounds)))
        return
    if options.short and not options.fgvc:
        options.fgvc = options.convnext = stand_ins(options.output.parent)
    pairs = [(name, "11785-FGVC", str(Path(options.fgvc) / "Models"), *where) for name, where in FGVC.items()]
    pairs.append(("model_v", "official", str(Path(options.convnext) / "models"), "convnext", "convnext_tiny"))
    pairs = pairs[:: len(pairs) - 1] if options.short else pairs
    rows = read_rows(options.output)
    keys = ("model", "other", "allocator", "batch_size", "processor")
    known = {tuple(row[key] for key in keys) for row in rows}
    for batch_size in options.batch_size:
        for pair in pairs:
            for allocator in ("default", "tuned"):
                if (*pair[:2], allocator, str(batch_size), processor_name()) not in known:
                    rows.append(in_a_process([*pair, allocator, batch_size], allocator))
                    print(rows[-1], flush=True)
                    write_rows(options.output, rows)


def stand_ins(folder: Path) -> str:
    """Writes modules that stand for the checkouts in the short form: Models I and V of this package."""
    for where, name in ("Models/ResNet.resnet50", "model_i"), ("models/convnext.convnext_tiny", "model_v"):
        module, function = where.rsplit(".", 1)
        path = folder / f"{module}.py"
        path.parent.mkdir()
        path.write_text(f"import timm\n\ndef {function}():\n    return timm.create_model({name!r})\n")
    return str(folder)


def in_a_process(pair: list[Any], allocator: str) -> Row:
    """Measures a pair under one allocator setting, which glibc reads at process start."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    if allocator == "tuned":
        environment.update(KEEP_MEMORY)
    command = [sys.executable, *sys.argv, "--one", json.dumps(pair)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@torch.no_grad()
def measured(
    name: str,
    whose: str,
    folder: str,
    module: str,
    function: str,
    allocator: str,
    batch_size: int,
    rounds: int,
) -> Row:
    """Times their network and ours with the same weights in turn; returns a row."""
    theirs = getattr(imported(folder, module), function)().eval()
    with_trained_values(theirs)
    ours = timm.create_model(name).eval()
    ours.load_state_dict(checkpoint_filter_fn(theirs.state_dict(), ours))
    x = torch.randn(batch_size, 3, 224, 224)
    fast = convnext_ablation.optimize_for_inference(ours, x)
    expected = theirs(x)
    times = interleaved({"theirs": lambda: theirs(x), "ours": lambda: fast(x)}, rounds=rounds)
    ratio = times["ours"].times_faster_than(times["theirs"])
    return {
        "model": name,
        "other": whose,
        "allocator": allocator,
        "batch_size": batch_size,
        "other_ms": round(1e3 * times["theirs"].median, 1),
        "ours_ms": round(1e3 * times["ours"].median, 1),
        **ratio_columns(ratio, ("ratio", "lowest", "highest"), digits=2),
        "difference": f"{(fast(x) - expected).abs().max() / expected.abs().max():.1e}",
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "processor": processor_name(),
        **VERSIONS,
        "convnext_ablation": convnext_ablation.__version__,
    }


def imported(folder: str, module: str) -> ModuleType:
    """Imports one of their modules, which is not in a package."""
    sys.path.insert(0, folder)
    return __import__(module)


def with_trained_values(model: nn.Module) -> None:
    """Gives norms, biases and layer scales values like those after training, so that differences show."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.uniform_(0.5, 1.2)
        if isinstance(getattr(module, "bias", None), nn.Parameter):
            module.bias.normal_(0, 0.1)
        if isinstance(getattr(module, "gamma", None), nn.Parameter):
            module.gamma.uniform_(0.1, 0.5)


if __name__ == "__main__":
    main()
