"""Training in child processes: timm's own `train.py`, or several of ours under torchrun."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import timm
import yaml

from convnext_ablation import machine, stock
from convnext_ablation.data.folder import CLASSES
from convnext_ablation.data.layout import find_split
from convnext_ablation.errors import UserError
from convnext_ablation.files import sha256_of, write_text, written_whole
from convnext_ablation.models.checkpoint_files import read_checkpoint, save_weights
from convnext_ablation.models.layouts import unwrapped
from convnext_ablation.study.experiment import Run, Script
from convnext_ablation.training.arguments import TrainingArguments
from convnext_ablation.training.checkpoints import load_checkpoint
from convnext_ablation.training.history import BEST, LAST
from convnext_ablation.training.loop import StoppedError, Trainer

LOG, ARGUMENTS = "train.log", "script_args.yaml"
_START = "start.safetensors"  # initial weights for timm's script
_EARLIER_BEST = "earlier_best.pth.tar"  # timm's script forgets the best epoch when it resumes
_HALF_RENAMED = "tmp.pth.tar"  # timm removes last.pth.tar before renaming this file
# its processes inherit torchrun's standard input, and end when it closes
_TORCHRUN = ("torch.distributed.run", "--standalone", "--log-dir", os.devnull, "--nproc-per-node")
_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_TO_END = 20
# ours only, or passed on the command line
_NOT_TIMMS = ("data_dir", "resume", "output", "experiment", "test_split", "checkpoint_hist")


def find_script(path: str) -> Script:
    """Hashes timm's training script; raises `UserError` if there is no such file."""
    if not Path(path).is_file():
        raise UserError(f"--train-script {path}: no such file; to get timm's: {stock.clone_command()}")
    return Script(str(Path(path).resolve()), sha256_of(Path(path)), timm.__version__)


def check_arguments(arguments: TrainingArguments) -> None:
    """Raises `UserError` for arguments that timm's script doesn't have."""
    for name in ("class_weights", "early_stopping", "freeze", "sampler", "skip_bad_images"):
        if value := getattr(arguments, name):
            raise UserError(f"{name} is {value}, and timm's script has no such argument; leave one out")


def check_script(script: Script) -> None:
    """Raises `UserError` if the script or timm's version has changed since the study began."""
    found = find_script(script.path)
    if found.sha256 != script.sha256:
        raise UserError(f"{script.path}: has changed since the study began; give another --output")
    if found.timm != script.timm:
        raise UserError(
            f"timm {found.timm} is installed here, and the study's runs are made with {script.timm}; "
            f"pip install timm=={script.timm}"
        )


def train_elsewhere(run: Run, trainer: Trainer, folder: Path, should_stop: Callable[[], bool]) -> float:
    """Trains, resuming from the last checkpoint if there is one; returns the elapsed seconds.

    Raises:
        UserError: Training failed; the message quotes the log's error.
        StoppedError: `should_stop` became true.
    """
    if run.script:
        check_script(run.script)
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    if not _is_finished(folder, trainer.epochs):
        log = folder / LOG
        before = log.stat().st_size if log.exists() else 0
        code = _train(run, trainer.classes, folder, should_stop)
        if should_stop():
            raise StoppedError(folder / LAST, 0, 0)
        if code:
            what = "timm's script" if run.script else "training"
            raise UserError(f"{what} ended with code {code}: {_reason(log, before)} ({log})")
    if run.script:
        _keep_best(folder, run.arguments.decreasing_metric)
    return time.monotonic() - start


def _train(run: Run, classes: int, folder: Path, should_stop: Callable[[], bool]) -> int:
    if run.script:
        resume = _checkpoint(folder)
        if resume is not None:
            _keep_best(folder, run.arguments.decreasing_metric, aside=True)
        program = ["convnext_ablation.stock", run.script.path, "--checkpoint-hist", "1"]
        program += ["--resume", str(resume)] if resume else []
    else:
        program = ["convnext_ablation.cli.train", "--checkpoint-hist", "0", "--resume", "auto"]
    arguments = _arguments(run, classes)
    if run.script and run.arguments.pretrained_path:
        # as safetensors, which every timm version loads without pickle
        save_weights(folder / _START, unwrapped(read_checkpoint(run.arguments.pretrained_path).weights()))
        arguments["pretrained_path"] = str(folder / _START)
    write_text(folder / ARGUMENTS, yaml.safe_dump(arguments))
    together = [*_TORCHRUN, str(run.processes), machine.__file__] if run.processes > 1 else []
    command = [
        *(sys.executable, machine.__file__, *together, *program),
        *("-c", str(folder / ARGUMENTS), "--data-dir", str(run.arguments.data_dir)),
        *("--output", str(folder.parent), "--experiment", folder.name),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": str(run.threads)}
    with open(folder / LOG, "ab") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            while (code := process.poll()) is None and not should_stop():
                time.sleep(_SECONDS_BETWEEN_LOOKS)
            return code or 0
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_SECONDS_TO_END)
            process.kill()
            process.communicate()
            (folder / _START).unlink(missing_ok=True)


def _arguments(run: Run, classes: int) -> dict[str, object]:
    values = {**run.share().to_dict(), "num_classes": classes}
    if run.arguments.pretrained_path:
        values["pretrained"] = True  # without it, timm's script ignores the path
    root = Path(str(run.arguments.data_dir))
    for name in ("train_split", "val_split"):  # for an unknown split name, timm uses the parent folder
        if place := find_split(root, str(values[name])):
            values[name] = place.name
    listed = root / CLASSES
    if not run.arguments.class_map and listed.is_file():
        values["class_map"] = str(listed)
    return {name: value for name, value in values.items() if name not in _NOT_TIMMS}


def _checkpoint(folder: Path) -> Path | None:
    """The checkpoint to resume from, repaired if timm was killed while renaming; None if there is none."""
    last, temporary = folder / LAST, folder / _HALF_RENAMED
    if not last.is_file() and temporary.is_file():
        with suppress(UserError):
            load_checkpoint(temporary)
            temporary.replace(last)
    return last if last.is_file() else None


def _is_finished(folder: Path, epochs: int) -> bool:
    last = _checkpoint(folder)
    return (
        last is not None and (folder / BEST).is_file() and int(load_checkpoint(last)["epoch"]) + 1 >= epochs
    )


def _keep_best(folder: Path, decreasing: bool, aside: bool = False) -> None:
    """Keeps the better of the best checkpoints from before and after an interruption.

    With `aside`, it goes to another file, which timm's script doesn't overwrite.
    """
    earlier, best = folder / _EARLIER_BEST, folder / BEST
    metrics = {path: load_checkpoint(path)["metric"] for path in (earlier, best) if path.is_file()}
    better = (min if decreasing else max)(metrics, key=lambda path: float(metrics[path]), default=None)
    if better is not None and better != (earlier if aside else best):
        with written_whole(earlier if aside else best) as temporary:
            shutil.copyfile(better, temporary)  # not a link: the script may overwrite the file in place
    if not aside:
        earlier.unlink(missing_ok=True)


def _reason(log: Path, before: int) -> str:
    """Finds our error message, or else the last line before torchrun's, after byte `before` of a log."""
    text = log.read_bytes()[before:].decode(errors="replace")
    lines = list(filter(None, map(str.strip, text.splitlines())))
    lines = list(itertools.takewhile(lambda line: "torch/distributed/elastic/" not in line, lines))
    errors = [line for line in lines if line.startswith("train.py: error: ")]
    return [*(lines or ["it printed nothing"]), *errors][-1][:300]
