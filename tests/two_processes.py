"""What two processes do together, for `test_training_distributed.py`: torchrun runs it on a file of cases."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch.distributed as dist

import convnext_ablation  # noqa: F401  registers the networks
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.distributed import make_deterministic, start_processes
from convnext_ablation.training.loop import Trainer


def main() -> None:
    make_deterministic(threads=1)
    processes = start_processes("cpu")
    cases = json.loads(Path(sys.argv[1]).read_text())
    for name, settings in cases["training"].items():
        Trainer(TrainingArguments(**settings), Path(sys.argv[2]) / name, processes).run()
    for name, settings in cases["evaluation"].items():
        trainer = Trainer(TrainingArguments(**settings), Path(sys.argv[2]) / name, processes)
        predictions = trainer.evaluate("test")
        if processes.is_first:
            predictions.save(Path(sys.argv[2]) / f"{name}.npz")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
