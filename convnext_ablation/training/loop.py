"""The training loop, built from timm's parts; a run stops and resumes at an exact batch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import yaml
from timm.utils import dispatch_clip_grad

from convnext_ablation.data.walk import SKIPPED, write_skipped
from convnext_ablation.errors import UserError
from convnext_ablation.files import remove_unfinished, write_text
from convnext_ablation.training.checkpoints import (
    copy_whole,
    keep_epochs,
    load_checkpoint,
    recovery_path,
    remove_recoveries,
    resume,
    save_checkpoint,
    state_of,
)
from convnext_ablation.training.distributed import seed_stream
from convnext_ablation.training.evaluation import EvaluationStoppedError, evaluate
from convnext_ablation.training.history import BEST, LAST, SUMMARY, Epoch, ranked, stops_early, write_summary
from convnext_ablation.training.loaders import worker_errors
from convnext_ablation.training.network import check_finite, memory_format, share_statistics
from convnext_ablation.training.parts import Losses, Parts
from convnext_ablation.training.predictions import Predictions

ARGUMENTS_FILE = "args.yaml"
TEST_RESULT, TEST_PREDICTIONS = "test.json", "test_predictions.npz"


class StoppedError(Exception):
    """The run stopped on request; it resumes from `checkpoint`."""

    def __init__(self, checkpoint: Path, epoch: int, step: int) -> None:
        super().__init__(f"stopped in epoch {epoch} after {step} batches")
        self.checkpoint = checkpoint


class Trainer(Parts):
    """One run: its parts, and the loop that trains them."""

    def run(self) -> list[Epoch]:
        """Trains to the last epoch, from the start or from a checkpoint; returns all epochs."""
        epoch, step, losses, resumed = resume(self)
        self._check_weights("at the start")
        if self.processes.is_first:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / ARGUMENTS_FILE, yaml.safe_dump(self.arguments.to_dict()))
            remove_unfinished(self.folder)
            remove_recoveries(self.folder, but=resumed and self.folder / resumed.name)
            (self.folder / SKIPPED).unlink(missing_ok=True)  # from before an interruption
            write_skipped(self.folder, self.left_out)
            last = self.folder / LAST  # a run resumed from timm's checkpoint may have none yet
            if self.history and last.is_file() and load_checkpoint(last)["epoch"] == self.history[-1].epoch:
                self._write_history()
        self.log.started(self.epochs, self.steps, epoch * self.steps + step)
        for past in self.history:
            self.log.epoch(past)
        while epoch < self.epochs and not stops_early(self.history, self.arguments):
            self._train_epoch(epoch, step, losses)
            self._finish_epoch(epoch, losses)
            epoch, step, losses = epoch + 1, 0, Losses(self.processes)
        if epoch < self.epochs:
            self.log.line(
                f"stopped early, after {epoch} of {self.epochs} epochs: {self.arguments.early_stopping} "
                f"evaluations without a better {self.metric} than that of epoch {self.best.epoch}"
            )
        return self.history

    @property
    def best(self) -> Epoch:
        """The epoch with the best metric, the first on ties."""
        best = self.best_epochs(1)
        if not best:
            raise UserError(f"{self.folder}: no epoch of this run has been evaluated")
        return best[0]

    @property
    def evaluated_model(self) -> torch.nn.Module:
        """The network to evaluate: the EMA if it is kept on the device, else the network itself."""
        if self.average is not None and self.arguments.evaluates_average:
            return self.average.module
        return self.model

    def load_best(self) -> dict[str, Any]:
        """Loads the best epoch's weights into `evaluated_model`; returns their checkpoint."""
        state = load_checkpoint(self.folder / BEST)
        weights = state["state_dict_ema" if self.arguments.evaluates_average else "state_dict"]
        self.evaluated_model.load_state_dict(weights)
        return state

    def evaluate(self, split: str) -> Predictions:
        """Predicts every image of a split with the current weights, in their dtype."""
        return evaluate(
            self.evaluated_model,
            self.splits[split],
            self.arguments,
            self.data_config,
            self.processes,
            on_progress=lambda images, of: self.log.evaluated(split, images, of),
            should_stop=self.should_stop,
        )

    def test(self) -> None:
        """Evaluates the best epoch's weights once on the test split, if there is one."""
        split, folder, best = self.arguments.test_split, self.folder, self.best
        if not split:
            return
        if (folder / TEST_RESULT).is_file():
            tested = json.loads((folder / TEST_RESULT).read_text()).get("epoch", best.epoch)
            if tested != best.epoch:
                told = f"{folder / TEST_RESULT} is of epoch {tested}, and the best is {best.epoch} now"
                self.log.line(f"WARNING: {told}; remove it to test that")
            return
        self.load_best()
        try:
            test = self.evaluate(split)
        except EvaluationStoppedError:
            raise StoppedError(folder / LAST, self.epochs, 0) from None
        if not self.processes.is_first:
            return
        test.save(folder / TEST_PREDICTIONS)
        result = {
            "split": split,
            "epoch": best.epoch,
            "images": len(test.targets),
            "top1_percent": test.top1,
            "top5_percent": test.top5_accuracy,
            "loss": test.loss,
        }
        if left_out := self.splits[split].left_out:
            result["left_out"] = left_out
        write_text(folder / TEST_RESULT, json.dumps(result, indent=2) + "\n")
        self.log.line(
            f"test, epoch {best.epoch}: top-1 {test.top1:.2f} %, top-5 {test.top5_accuracy:.2f} %, "
            f"{len(test.targets)} images" + (f", {left_out} left out" if left_out else "")
        )

    def _train_epoch(self, epoch: int, first: int, losses: Losses) -> None:
        """Trains on an epoch's batches, starting at `first`."""
        accumulate = self.arguments.grad_accum_steps
        shares = self._shares(epoch)
        self.wrapped.train()
        for part in self.frozen:
            self.model.get_submodule(part).eval()
        self.optimizer.zero_grad()
        self.train_images.start_at(epoch, first)
        # no batch is left if an evaluation was stopped, and timm's loader fails on an empty epoch
        batches, done = self.train_batches if first < self.steps else (), first
        with worker_errors():
            for step, (images, targets) in enumerate(batches, first):
                seed_stream(self.arguments.seed, "step", epoch, step, self.processes.rank)
                updates = (step + 1) % accumulate == 0 or step + 1 == self.steps
                losses.add(step, self.step(images, targets, shares[step // accumulate], updates))
                self.log.trained(epoch, step, len(targets) * self.processes.world_size)
                if updates:
                    self._after_update(epoch, step, losses)
                done = step + 1
        if done != self.steps:
            raise UserError(f"epoch {epoch}: {done} of {self.steps} batches came; resume with --workers 0")

    def _after_update(self, epoch: int, step: int, losses: Losses) -> None:
        """Updates EMA and learning rate; logs, saves or stops if due."""
        number = step // self.arguments.grad_accum_steps  # index within the epoch
        done = epoch * self.updates_per_epoch + number + 1
        if self.average is not None:
            self.average.update(self.model, step=done)
        learning_rate = self._learning_rate()
        self.scheduler.step_update(done)
        if number % self.arguments.log_interval == 0 or step + 1 == self.steps:
            self.log.update(epoch, step, losses.mean(self._named(epoch)), learning_rate)
        interval = self.arguments.recovery_interval
        stops = self.processes.any(self.should_stop())
        if stops or (interval and (number + 1) % interval == 0):
            path = self._save_recovery(epoch, step + 1, losses)
            if stops:
                raise StoppedError(path, epoch, step + 1)

    def _shares(self, epoch: int) -> Sequence[float]:
        """Divisor of the losses in each update: its number of batches, times its images' mean weight."""
        accumulate = self.arguments.grad_accum_steps
        batches = [min(accumulate, self.steps - first) for first in range(0, self.steps, accumulate)]
        if self.image_weights is None:
            return batches
        images = self.steps * self.arguments.batch_size * self.processes.world_size
        weights = self.image_weights[self.train_images.order(epoch)[:images]]
        updates = weights.split(self.images_an_update)
        return [each * float(update.mean()) for each, update in zip(batches, updates, strict=True)]

    def step(self, images: torch.Tensor, targets: torch.Tensor, share: float, updates: bool) -> torch.Tensor:
        """Accumulates a batch's gradients, divided by `share`, and updates if `updates`; returns the loss."""
        arguments = self.arguments
        images = self.erase(images).contiguous(memory_format=memory_format(arguments))
        # gradients are averaged over processes once per update
        alone = self.processes.world_size > 1 and not updates
        with self.wrapped.no_sync() if alone else nullcontext():  # type: ignore[operator]
            with self.precision():
                outputs = self.wrapped(images)
                # autocast computes losses in float32 on a GPU, but not on a CPU
                loss: torch.Tensor = self.loss(outputs.float() if arguments.amp else outputs, targets)
            scaled = loss / share if share != 1 else loss
            if self.scaler is not None:
                bound, mode = arguments.clip_grad, arguments.clip_mode
                self.scaler(scaled, self.optimizer, bound, mode, self.clipped, need_update=updates)
            else:
                scaled.backward()
                if updates and arguments.clip_grad is not None:
                    dispatch_clip_grad(self.clipped, arguments.clip_grad, mode=arguments.clip_mode)
                if updates:
                    self.optimizer.step()
        if updates:
            self.optimizer.zero_grad()
        return loss.detach()

    def _learning_rate(self) -> float:
        rates = [group["lr"] for group in self.optimizer.param_groups]
        return sum(rates) / len(rates)

    def _named(self, epoch: int) -> str:
        return f"{self.arguments.model}: epoch {epoch}, learning rate {self.arguments.lr:g}"

    def _finish_epoch(self, number: int, losses: Losses) -> None:
        """Evaluates, and writes the epoch's checkpoint and history."""
        arguments = self.arguments
        train_loss = losses.mean(self._named(number))
        self._check_weights(f"after epoch {number}")
        if self.processes.world_size > 1 and arguments.dist_bn and not arguments.sync_bn:
            for model in dict.fromkeys((self.model, self.evaluated_model)):
                share_statistics(
                    model, self.frozen, self.processes.world_size, mean=arguments.dist_bn == "reduce"
                )
        judged = (number + 1) % arguments.val_interval == 0 or number + 1 == self.epochs
        try:
            validation = self.evaluate(arguments.val_split) if arguments.val_split and judged else None
        except EvaluationStoppedError:
            path = self._save_recovery(number, self.steps, losses)
            raise StoppedError(path, number, self.steps) from None
        epoch = Epoch(
            epoch=number,
            train_loss=train_loss,
            eval_loss=validation.loss if validation else None,
            eval_top1=validation.top1 if validation else None,
            eval_top5=validation.top5_accuracy if validation else None,
            lr=self._learning_rate(),
            train_seconds=losses.seconds,
            images=self.steps * arguments.batch_size * self.processes.world_size,
        )
        self.scheduler.step(number + 1, epoch.metric(self.metric))
        self.history.append(epoch)
        state = state_of(self, number)
        if self.processes.is_first:
            save_checkpoint(self.folder / LAST, state)
            self._write_history()
            remove_recoveries(self.folder)
        self.log.epoch(epoch)
        if self.processes.any(self.should_stop()) and number + 1 < self.epochs:
            raise StoppedError(self.folder / LAST, number + 1, 0)

    def _check_weights(self, when: str) -> None:
        """Raises in all processes if a weight or EMA weight isn't finite in any of them."""

        def check() -> None:
            check_finite(self.model, f"{self.arguments.model} {when}")
            if self.average is not None:
                check_finite(self.average.module, f"averaged weights of {self.arguments.model} {when}")

        self.processes.together(check)

    def _write_history(self) -> None:
        """Writes the summary, and links the last checkpoint to its other names; idempotent."""
        write_summary(self.folder / SUMMARY, self.history, bool(self.arguments.val_split))
        last, best = self.history[-1].epoch, [epoch.epoch for epoch in self.best_epochs(len(self.history))]
        if best and best[0] == last:
            copy_whole(self.folder / LAST, self.folder / BEST)
        if self.arguments.checkpoint_hist:
            keep_epochs(self.folder, last, best[: self.arguments.checkpoint_hist])

    def best_epochs(self, count: int) -> list[Epoch]:
        """The epochs with the best metrics, the best first."""
        return ranked(self.history, self.metric, self.arguments.decreasing_metric)[:count]

    def _save_recovery(self, epoch: int, step: int, losses: Losses) -> Path:
        """Saves a mid-epoch checkpoint; timm's script reads it as the state after the previous epoch."""
        losses.mean(self._named(epoch))  # raises if a loss isn't finite, so that no such state is saved
        self._check_weights(f"in epoch {epoch} after {step} batches")
        path = recovery_path(self.folder, epoch, step)
        state = state_of(self, epoch - 1, step, losses)
        if self.processes.is_first:
            save_checkpoint(path, state)
            remove_recoveries(self.folder, but=path)
        self.processes.any(False)  # barrier: torchrun ends all processes when the first one exits
        return path
