"""What two processes do together: torchrun runs it for `test_training_distributed.py`."""

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
    folder = Path(sys.argv[1])
    for name, settings in json.loads((folder / "cases.json").read_text()).items():
        trainer = Trainer(TrainingArguments(**settings), folder / name, processes)
        if name != "test":
            trainer.run()
            continue
        predictions = trainer.evaluate("test")
        if processes.is_first:
            predictions.save(folder / "test.npz")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
