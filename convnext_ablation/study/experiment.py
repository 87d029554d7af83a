"""A study's plan: its runs, and the identity (hash) of each."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from convnext_ablation.console import counted
from convnext_ablation.data.layout import SPLITS, find_split, same_split
from convnext_ablation.errors import UserError
from convnext_ablation.files import check_name
from convnext_ablation.study.designs.contrasts import Design, Point
from convnext_ablation.training.arguments import RETIRED, TrainingArguments

TEST_SPLIT, VALIDATION_SPLIT = "test", "val"
# seed of the tuning runs; a study's own runs never use it
TUNING_SEED = 1_000_003
# file locations, data-loading workers and logging don't affect a run's result
_NOT_IDENTITY = (
    "data_dir", "workers", "output", "experiment", "resume", "checkpoint_hist", "log_interval",
    "pretrained_path", "initial_checkpoint",
)  # fmt: skip
# arguments added in later versions, with the values that earlier versions implied
_SINCE: Mapping[str, Any] = {
    "global_batch": None, "early_stopping": 0, "sampler": None, "class_weights": None, "freeze": None,
}  # fmt: skip


def splits_of(root: Path) -> tuple[str, ...]:
    """The splits of an image folder that a study uses; without a test split, `val` is the test set."""
    tested = not root.is_dir() or find_split(root, TEST_SPLIT) or not find_split(root, VALIDATION_SPLIT)
    return SPLITS if tested else (SPLITS[0], VALIDATION_SPLIT)


@dataclass(frozen=True)
class Script:
    """timm's training script: its path, its SHA-256 and the timm version."""

    path: str
    sha256: str
    timm: str


@dataclass(frozen=True)
class Weights:
    """The initial weights of one network.

    Attributes:
        network: The network's key in the design.
        pretraining_seed: None if there is a single pre-training.
        sha256: Hash of the file, or the identity of the run that trained the weights.
        origin: How the weights were pre-trained, as far as the file says.
    """

    network: str
    pretraining_seed: int | None
    path: str
    sha256: str
    origin: str


@dataclass(frozen=True)
class Run:
    """One network, trained and tested once.

    Attributes:
        data_fingerprint: SHA-256 of the data set's contents.
        threads: Threads per operation; the number affects rounding.
        weights: SHA-256 of the initial weights' file, or the identity of the run in another phase that
            trained them; empty if there is neither.
        pretraining_seed: Seed of the pre-training that the run starts from.
        phase: Name of the run's phase; empty for a single study.
        published: `weights_hash` of the published initial weights; empty if there are none.
        after: Task of the run in another phase that has yet to train the initial weights; else empty.
        script: timm's training script, if it trains the run.
        tuning: Whether the run serves to choose a learning rate; such a run is not tested.
        processes: Number of data-parallel processes; each takes its `share` of the batch.
    """

    point: Point
    arguments: TrainingArguments
    data_fingerprint: str
    threads: int
    weights: str = ""
    pretraining_seed: int | None = None
    script: Script | None = None
    tuning: bool = False
    processes: int = 1
    phase: str = ""
    after: str = ""
    published: str = ""

    @property
    def is_pretrained(self) -> bool:
        """Whether the run starts from pre-trained weights."""
        return bool(self.weights or self.after or self.arguments.pretrained)

    @property
    def tests_last(self) -> bool:
        """Whether to test the last epoch, because validation and test are the same split."""
        return same_split(self.arguments.test_split or "", self.arguments.val_split)

    @cached_property
    def identity(self) -> str:
        """SHA-256 of everything that determines the result."""
        arguments = {**RETIRED, **self.arguments.to_dict()}
        without = _NOT_IDENTITY + tuple(name for name in _SINCE if arguments[name] == _SINCE[name])
        determining: dict[str, Any] = {
            "arguments": {name: arguments[name] for name in arguments if name not in without},
            "components": self.point.components.determining() if self.point.components else None,
            "data": self.data_fingerprint,
            "threads": self.threads,
            "weights": self.weights,
        }
        if self.script:
            determining["script"] = {"sha256": self.script.sha256, "timm": self.script.timm}
        if self.processes > 1:
            determining["processes"] = self.processes
        return hashlib.sha256(json.dumps(determining, sort_keys=True).encode()).hexdigest()

    @property
    def data_config(self) -> dict[str, Any]:
        """The preprocessing, as timm resolves it for training."""
        import timm
        from timm.data import resolve_data_config

        from convnext_ablation.models import zoo  # noqa: F401  registers the networks

        model = timm.get_pretrained_cfg(self.arguments.model, allow_unregistered=True)
        given = self.arguments.preprocessing()
        return dict(resolve_data_config(given, pretrained_cfg=model.to_dict() if model else None))

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width of the input images, in pixels."""
        channels, height, width = self.arguments.input_size or self.data_config["input_size"]
        return channels, height, width

    def share(self) -> TrainingArguments:
        """The arguments of each process: its part of the batch, or batches that accumulate to `global_batch`.

        Raises:
            UserError: The processes don't divide the batch, or can't reach `global_batch`.
        """
        if self.arguments.global_batch:
            return self.arguments.accumulated(self.processes)
        if self.arguments.batch_size % self.processes:
            raise UserError(
                f"--gpus-per-run {self.processes} does not divide the recipe's batch of "
                f"{self.arguments.batch_size}"
            )
        return replace(self.arguments, batch_size=self.arguments.batch_size // self.processes)

    @property
    def task(self) -> str:
        """A unique name in the experiment, known before the learning rate and weights are."""
        of = f"{self.phase}." if self.phase else ""
        if self.tuning:
            return f"{of}{self.point.key}-lr{self.arguments.lr:g}"
        start = "" if self.pretraining_seed is None else f"-from{self.pretraining_seed}"
        return f"{of}{self.point.key}-seed{self.arguments.seed}{start}"

    @cached_property
    def name(self) -> str:
        """Name of the run's folder."""
        what = f"lr{self.arguments.lr:g}" if self.tuning else f"seed{self.arguments.seed}"
        return check_name(f"{self.point.key}-{what}-{self.identity[:8]}", "the folder of a run")

    def folder(self, study_folder: Path) -> Path:
        """The run's folder inside the study's."""
        return study_folder / ("tuning" if self.tuning else "runs") / self.name


@dataclass(frozen=True)
class Study:
    """Design x data set x seeds: a single study, or one phase of an experiment.

    Attributes:
        data_fingerprint: SHA-256 of the data set's contents.
        recipe_name: Name or file of the recipe.
        recipe: The arguments that the recipe sets.
        learning_rates: By network's key; while tuning, only those already chosen on the validation split.
        precision: ``float32``, or ``bfloat16`` or ``float16`` (autocast, or the recipe's `model_dtype`).
        threads: Threads per operation.
        tuning: Learning rates to try for each network; empty if there is no tuning.
        weights: Initial weights by network and pre-training seed; empty if the recipe decides.
        command: The command line that planned the study.
        processes: Data-parallel processes per run, one per GPU.
        workers: Data-loading workers per process; they don't affect results.
        test_split: Split on which accuracy is reported; ``val`` if there is no test split.
        phase: Name of the phase and of its folder; empty for a single study.
        start: The phase that trains the initial weights; its seeds are the pre-training seeds here.
        published: `weights_hash` of the published initial weights, by model.
        own_recipes: Arguments of networks with a recipe of their own, by network's key.
    """

    design: Design
    data_name: str
    data_dir: str
    data_fingerprint: str
    recipe_name: str
    recipe: Mapping[str, Any]
    learning_rates: Mapping[str, float]
    seeds: Sequence[int]
    precision: str
    device: str
    threads: int
    tuning: Sequence[float] = ()
    weights: Sequence[Weights] = ()
    script: Script | None = None
    command: str = ""
    processes: int = 1
    workers: int = 0
    test_split: str = TEST_SPLIT
    phase: str = ""
    start: Study | None = None
    published: Mapping[str, str] = field(default_factory=dict)
    own_recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def points(self) -> Sequence[Point]:
        """The networks."""
        return self.design.points

    @property
    def pretraining_seeds(self) -> list[int]:
        """The pre-training seeds; empty if the initial weights have none."""
        if self.start is not None:
            return list(self.start.seeds)
        return list(dict.fromkeys(w.pretraining_seed for w in self.weights if w.pretraining_seed is not None))

    @property
    def starts(self) -> list[int | None]:
        """The pre-training seeds, or ``[None]`` if there are none."""
        return [*self.pretraining_seeds] or [None]

    def starts_of(self, point: Point) -> list[int | None]:
        """The pre-training seeds of one network; ``[None]`` for a model with published weights of its own."""
        before = {each.key for each in self.start.points} if self.start else set()
        return self.starts if point.key in before | {each.network for each in self.weights} else [None]

    @property
    def is_pretrained(self) -> bool:
        """Whether any network starts from pre-trained weights."""
        return any(run.is_pretrained for run in self.one_run_each())

    @property
    def epochs(self) -> int:
        """Epochs per run, including warm-up and cooldown; the maximum if recipes differ."""
        return max(run.arguments.epochs_in_all for run in self.one_run_each())

    def tested_runs(self, point: Point) -> int:
        """Number of a network's tested runs: seeds x pre-trainings."""
        return len(self.seeds) * len(self.starts_of(point))

    def runs_of(self, point: Point) -> int:
        """Number of a network's runs, including tuning runs."""
        return self.tested_runs(point) + len(self.tuning)

    @property
    def size(self) -> str:
        """The number of runs as a product, such as ``6 networks x 3 seeds``."""
        seeds = counted(len(self.seeds), "seed")
        started = f"{seeds} x {counted(len(self.pretraining_seeds), 'pre-training seed')}"
        texts = [seeds if self.starts_of(point) == [None] else started for point in self.points]
        tuned = f" + {len(self.tuning)} learning rates)" if self.tuning else ""
        return " + ".join(
            f"{counted(number, 'network')} x {f'({text}{tuned}' if tuned else text}"
            for text, number in Counter(texts).items()
        )

    def one_run_each(self) -> list[Run]:
        """One run per network, with a placeholder learning rate if it isn't chosen yet."""
        return self._at_any_rate[: len(self.points)]

    def runs(self) -> list[Run]:
        """All tested runs whose learning rate and initial weights are known."""
        return [run for run in self._at_any_rate if self.is_known(run)]

    def tuning_runs(self) -> list[Run]:
        """The tuning runs: every learning rate for every network, with one seed."""
        return [
            self._run(point, rate, TUNING_SEED, self.starts_of(point)[0], tuning=True)
            for point in self.points
            for rate in self.tuning
        ]

    def all_runs(self) -> list[Run]:
        """The tuning runs, then all others, including those that are not known yet (see `is_known`)."""
        return self.tuning_runs() + self._at_any_rate

    def is_known(self, run: Run) -> bool:
        """Whether a run's learning rate and initial weights, and so its identity, are known."""
        return not run.after and (run.tuning or run.point.key in self.learning_rates)

    @cached_property
    def _at_any_rate(self) -> list[Run]:
        """Every tested run; making and checking the arguments of one takes a millisecond."""
        any_rate = {point.key: rate for point in self.points for rate in self.tuning[:1]}
        return replace(self, learning_rates={**any_rate, **self.learning_rates})._planned()

    def _planned(self) -> list[Run]:
        """The runs of networks with a learning rate, ordered by seed, then by network."""
        return [
            self._run(point, self.learning_rates[point.key], seed, self.starts_of(point)[place])
            for seed in self.seeds
            for place in range(len(self.starts))
            for point in self.points
            if point.key in self.learning_rates and place < len(self.starts_of(point))
        ]

    def _run(self, point: Point, rate: float, seed: int, start: int | None, tuning: bool = False) -> Run:
        mine = [each for each in self.weights if (each.network, each.pretraining_seed) == (point.key, start)]
        recipe, ours = self.own_recipes.get(point.key, self.recipe), point.components is not None
        amp = self.precision not in ("float32", recipe.get("model_dtype"))
        arguments = {
            **recipe,
            "model": point.model,
            "model_kwargs": {**(recipe.get("model_kwargs", {}) if ours else {}), **point.model_kwargs},
            "lr": rate,
            "seed": seed,
            "data_dir": self.data_dir,
            "device": self.device,
            "amp": amp,
            "amp_dtype": self.precision if amp else "bfloat16",
            "workers": self.workers,
            "test_split": None if tuning else self.test_split,
            "resume": "auto",
            "checkpoint_hist": 0,
        }
        if mine:
            arguments["pretrained_path"] = mine[0].path
        after = self._task_before(point, start) if not mine else ""
        return Run(
            point,
            TrainingArguments(**arguments),
            self.data_fingerprint,
            self.threads,
            mine[0].sha256 if mine else "",
            start,
            self.script,
            tuning,
            self.processes,
            self.phase,
            after,
            "" if mine or after or not recipe.get("pretrained") else self.published.get(point.model, ""),
        )

    def _task_before(self, point: Point, seed: int | None) -> str:
        """Task of the run that pre-trains a network in the starting phase; empty if there is none."""
        if self.start is None or seed is None or point.key not in {each.key for each in self.start.points}:
            return ""
        return self.start._run(point, 1.0, seed, self.start.starts[0]).task
