"""Training and inference of the five stages on one NVIDIA card, against timm's networks, within 12 minutes.

    python benchmarks/gpu.py --output results/gpu/gpu.csv

A plan of `convnext-ablation bench` commands, most important first. When time is up, the rest is left out and
named. The baseline is the step of timm's `benchmark.py --amp --amp-dtype bfloat16 --channels-last` with
ResNet-50 (Models I to IV) or ConvNeXt-T (Model V). In inference its weights are in bfloat16, which is faster
than autocast. Ours are in channels_last, and then compiled (training) or from `optimize_for_inference`.
`seeds_at_once.py` is run before what is compiled.

Each command adds its rows, with medians of the rounds in turn and 95 % intervals, to `bench.csv` and
`bench.md` beside `--output`. `--output` has the same rows with the card, driver and libraries, and with the
peak memory that PyTorch allocates for a network alone, in channels_last. The same command resumes.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from common import Row, parsed, parser_of, read_rows, write_rows
from timm.optim import create_optimizer_v2
from torch.nn.functional import cross_entropy

from convnext_ablation.bench.arguments import CHANNELS_LAST, COMPILED, INFERENCE, OPTIMIZED, TRAINING
from convnext_ablation.cli import main as cli
from convnext_ablation.machine import default_device, device_name
from convnext_ablation.models.components import STAGES

TIMMS = {"model_i": "resnet50", "model_v": "convnext_tiny"}  # the same networks in timm
SMALL = {"model_i_atto": "test_resnet", "model_v_atto": "test_convnext"}  # of the short form
SEEDS = Path(__file__).with_name("seeds_at_once.py")


class Part(NamedTuple):
    """A command: networks in a form, beside timm's in channels_last."""

    form: str
    mode: str
    size: int  # side of the images in pixels
    networks: tuple[str, ...]
    timms: str

    def command(self, folder: Path, batch_size: int, rounds: int, dtype: str) -> list[str]:
        """The arguments of `convnext-ablation`."""
        setting = ["--mode", self.mode, "--img-size", str(self.size), "--batch-size", str(batch_size)]
        setting += ["--dtype", dtype, "--forms", self.form, "--rounds", str(rounds)]
        setting += ["--baseline", f"{self.timms}:{CHANNELS_LAST}", "--output", str(folder)]
        return ["bench", *self.networks, *setting]


def plan(short: bool) -> list[Part]:
    """All parts, the most important first; the short form compiles nothing."""
    modes = TRAINING, INFERENCE
    if short:
        pairs = zip(modes, SMALL.items(), strict=True)
        return [Part(CHANNELS_LAST, mode, 32, (timms, ours), timms) for mode, (ours, timms) in pairs]
    parts = []
    for fast, size, mode, ours in itertools.product((False, True), (224, 112), modes, STAGES):
        form = (COMPILED if mode == TRAINING else OPTIMIZED) if fast else CHANNELS_LAST
        both = (TIMMS[ours], ours) if ours in TIMMS else (ours,)
        parts.append(Part(form, mode, size, both, TIMMS.get(ours, "resnet50")))
    return parts


def machine() -> Row:
    """The card, its driver, and the versions of CUDA and cuDNN; empty without a card."""
    if default_device() == "cpu":
        return {"card": "", "driver": "", "cuda": "", "cudnn": ""}
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    driver = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    versions = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return {"card": device_name("cuda"), "driver": driver, **versions}


def peak_mb(model: str, mode: str, size: int, batch_size: int, dtype: torch.dtype) -> str:
    """MiB that PyTorch allocates at most for a network's steps; empty on a CPU, or if memory is short."""
    device = default_device()
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        network = timm.create_model(model).to(device, memory_format=torch.channels_last)
        images = torch.randn(batch_size, 3, size, size, device=device).to(memory_format=torch.channels_last)
        if mode == TRAINING:
            optimizer = create_optimizer_v2(network, opt="sgd", lr=1e-4)
            targets = torch.zeros(batch_size, dtype=torch.long, device=device)
            for _ in range(2):
                with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                    loss = cross_entropy(network(images), targets)
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        else:
            with torch.inference_mode():
                network.eval().to(dtype)(images.to(dtype))
    except torch.cuda.OutOfMemoryError:
        return ""
    return "" if device == "cpu" else f"{torch.cuda.max_memory_allocated() / 2**20:.0f}"


def main() -> None:
    """Runs the parts of the plan until time is up."""
    parser = parser_of(__doc__)
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--rounds", type=int, default=7)
    # oneDNN's bfloat16 gradients of small maps are wrong: convnext_ablation/training/cpu_convs.py
    options = parsed(parser, batch_size=2, dtype="float32", rounds=3)
    if default_device() == "cpu" and not options.short:
        parser.error("there is no GPU here that torch can use; --short runs on a CPU")
    begun, longest = time.monotonic(), 0.0
    folder, card = options.output.parent, machine()
    memory: dict[tuple[str, ...], str] = {}
    asked, dtype = (options.batch_size, options.rounds, options.dtype), getattr(torch, options.dtype)
    parts = plan(options.short)
    for number, part in enumerate(parts):
        if part.form != CHANNELS_LAST and parts[number - 1].form == CHANNELS_LAST:
            seeds_at_once(folder / "seeds_at_once.csv")
        start = time.monotonic()
        if start - begun + longest > 60 * options.minutes:
            left = [f"{each.networks[-1]} {each.form} {each.mode} {each.size}" for each in parts[number:]]
            print(f"time is up; left out: {', '.join(left)}")
            break
        if code := cli.main(part.command(folder, *asked)):
            sys.exit(code)
        for model in dict.fromkeys((part.timms, *part.networks)):
            where = model, part.mode, str(part.size)
            if where not in memory:
                memory[where] = peak_mb(model, part.mode, part.size, options.batch_size, dtype)
        write_rows(options.output, [described(row, memory, card) for row in read_rows(folder / "bench.csv")])
        longest = max(longest, time.monotonic() - start)
    print(f"written to {options.output}")


def seeds_at_once(output: Path) -> None:
    """Times several seeds of small networks together, for two minutes at most."""
    try:
        forms = "--device cuda --ways vmap grouped compiled --seeds 4 16".split()
        subprocess.run([sys.executable, SEEDS, *forms, "--output", output], check=True, timeout=120)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        print(f"{SEEDS.name}: {error}")


def described(row: Row, memory: Mapping[tuple[str, ...], str], card: Row) -> Row:
    """A row of `bench.csv` with the peak memory of its network in channels_last, and the card."""
    where = row["model"], row["mode"], row["train_img_size"] or row["infer_img_size"]
    return {**row, "peak_mb": memory.get(where, "") if row["form"] == CHANNELS_LAST else "", **card}


if __name__ == "__main__":
    main()
