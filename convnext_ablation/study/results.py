"""Reads a study's finished runs, for its own design or for another design with the same networks.

Runs can be shared between designs: their identity covers the network, data, arguments and initial weights,
but not the design.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from convnext_ablation.console import counted
from convnext_ablation.data.folder import KNOWN_FAULTS, data_set_name
from convnext_ablation.data.layout import find_split
from convnext_ablation.errors import UserError
from convnext_ablation.study.designs.contrasts import WIDTHS, Contrast
from convnext_ablation.study.designs.design import design_of
from convnext_ablation.study.experiment import Study
from convnext_ablation.study.report.answer import studied
from convnext_ablation.study.report.evidence import Evidence, FinishedRun, NetworkResult
from convnext_ablation.study.report.findings import StudyFacts
from convnext_ablation.study.store import PREDICTIONS, RESULT, is_done, load_result
from convnext_ablation.study.tuning import as_known, mixed_origins, tuning_notes
from convnext_ablation.training.predictions import Predictions


class NothingFinishedError(UserError):
    """No run of a study is finished."""


@dataclass(frozen=True, eq=False)
class StudyResults:
    """All finished runs of a study, tested on the same images in the same order."""

    study: Study
    folder: Path
    runs: list[FinishedRun]  # in the study's order
    expected: int  # number of runs when the study is complete
    ids: NDArray[np.str_]  # path of each test image relative to the split's folder, (N,)
    sizes: list[tuple[int, int]]  # distinct input sizes, (height, width) in pixels

    @property
    def classes(self) -> list[str]:
        """Class names by index; a class without test images is named by its index."""
        names = {}
        for label, first in zip(*np.unique(self.runs[0].targets, return_index=True), strict=True):
            names[int(label)] = PurePosixPath(str(self.ids[first])).parent.name
        return [names.get(label, str(label)) for label in range(max(names) + 1)]

    @property
    def evidence(self) -> Evidence:
        """The runs and their test images, for the report."""
        root, split = Path(self.study.data_dir), self.study.test_split
        folder = (find_split(root, split) if root.is_dir() else None) or root / split
        return Evidence(self.runs, self.ids, self.classes, folder)

    def networks(self) -> list[NetworkResult]:
        """One result per network with at least one finished run."""
        return [
            NetworkResult(point.key, point.label, point.adds, mine)
            for point in self.study.points
            if (mine := [run for run in self.runs if run.network == point.key])
        ]

    def facts(self) -> StudyFacts:
        """The context that a reader needs to judge the results."""
        study = self.study
        return StudyFacts(
            title=f"{studied(study.design.name)} on {study.data_name}",
            design=study.design.name,
            data_name=study.data_name,
            image_size=self.sizes[0][1],
            image_height=self.sizes[0][0],
            test_images=len(self.ids),
            classes=len(self.classes),
            precision=study.precision,
            threads=study.threads,
            epochs=study.epochs,
            machine=", ".join(dict.fromkeys(f"{r.result['host']} ({r.result['device']})" for r in self.runs)),
            versions=dict(self.runs[0].result["versions"]),
            command=study.command,
            warnings=self._warnings(),
            pretrained=study.is_pretrained,
            fault=self._fault(),
            notes=study.design.notes,
            split=study.test_split,
            processes=study.processes,
        )

    def _fault(self) -> str:
        """A known fault of the data that affects pre-trained networks; empty if there is none."""
        data = data_set_name(Path(self.study.data_dir))
        return KNOWN_FAULTS.get(data, "") if self.study.is_pretrained else ""

    def _warnings(self) -> list[str]:
        warnings = [f"WARNING: {self._fault()}"] if self._fault() else []
        if len(self.runs) < self.expected:
            warnings.append(
                f"WARNING: {len(self.runs)} of {self.expected} runs are finished; what follows is of these."
            )
        each = self.study.one_run_each()
        if len(self.sizes) > 1:
            told = ", ".join(f"{run.point.label} {run.input_size[1]} x {run.input_size[2]}" for run in each)
            warnings.append(f"WARNING: networks are given images of different sizes, in px: {told}.")
        if len({run.arguments.epochs_in_all for run in each}) > 1:
            told = ", ".join(f"{run.point.label} {run.arguments.epochs_in_all}" for run in each)
            warnings.append(f"WARNING: networks are trained for different numbers of epochs: {told}.")
        if frozen := dict.fromkeys(run.arguments.freeze for run in each if run.arguments.freeze):
            warnings.append(f"WARNING: layers are frozen, by freeze {', '.join(frozen)}; the others train.")
        if any(run.arguments.early_stopping for run in each):
            warnings.append("WARNING: runs end early where nothing gets better, so their epochs differ.")
        scratch = [run.point.label for run in each if not run.is_pretrained]
        if 0 < len(scratch) < len(each):
            warnings.append(f"WARNING: only some networks start from scratch: {', '.join(scratch)}.")
        if mixed := mixed_origins(self.study.weights):
            warnings.append(mixed)
        if len({str(run.result["versions"]) for run in self.runs}) > 1:
            warnings.append("WARNING: runs were made with different versions; runs.csv says which.")
        return [*warnings, *tuning_notes(self.study, self.folder)]


def read_results(study: Study, folder: Path) -> StudyResults:
    """Reads all finished runs; raises `UserError` if their test images differ or no run is finished."""
    study = as_known(study, folder)
    runs: list[FinishedRun] = []
    first: Predictions | None = None
    for run in study.runs():
        if not is_done(run, folder):
            continue
        where = run.folder(folder)
        tested = Predictions.load(where / PREDICTIONS)
        first = tested if first is None else first
        if not (np.array_equal(tested.ids, first.ids) and np.array_equal(tested.targets, first.targets)):
            raise UserError(
                f"{where}: tested on other images than {runs[0].folder.name}; delete the folder to do the "
                "run again"
            )
        predicted, result = tested.top5[:, 0].copy(), load_result(where / RESULT)
        key, seed = run.point.key, run.arguments.seed
        runs.append(FinishedRun(key, seed, where, predicted, first.targets, result, run.pretraining_seed))
    if first is None:
        raise NothingFinishedError(f"{folder}: no run of this study is finished; nothing to report")
    sizes = list(dict.fromkeys(run.input_size[1:] for run in study.one_run_each()))
    expected = sum(map(study.tested_runs, study.points))
    return StudyResults(study, folder, runs, expected, first.ids, sizes)


def seen_as(
    study: Study, folder: Path, name_or_file: str, groups: Mapping[str, Sequence[str]] | None = None
) -> Study:
    """Returns the part of a study (from `as_known`) that forms another design, with its contrasts.

    Networks keep their keys from the study, which name the runs' folders, but take their labels from the
    design. Raises `UserError` if the study lacks a network or a needed run is not finished.
    """
    widths = [name for name, suffix in WIDTHS.items() if study.points[0].model.endswith(suffix)]
    wanted = design_of(name_or_file, widths[-1], groups)  # full width has an empty suffix and comes first
    there = {point.components: point for point in study.points}
    lacking = [point.key for point in wanted.points if point.components not in there]
    if lacking:
        raise UserError(
            f"{folder}: the design {wanted.name} needs networks that this study of {study.design.name} "
            f"doesn't have: {', '.join(lacking)}"
        )
    names = {point.key: there[point.components].key for point in wanted.points}
    points = tuple(
        replace(there[point.components], label=point.label, adds=point.adds) for point in wanted.points
    )
    contrasts = tuple(_renamed(contrast, names) for contrast in wanted.contrasts)
    part = replace(
        study,
        design=replace(wanted, points=points, contrasts=contrasts),
        weights=tuple(each for each in study.weights if each.network in names.values()),
    )
    left = [f"all of {point.key}" for point in points if point.key not in part.learning_rates]
    left += [run.name for run in part.runs() if not is_done(run, folder)]
    if left:
        raise UserError(
            f"{folder}: the design {wanted.name} needs runs that are not finished: {', '.join(left)}"
        )
    return part


def origin_of(part: Study, study: Study, folder: Path) -> str:
    """Describes the study whose runs a report on another design uses."""
    return (
        f"{len(part.points)} of the {counted(len(study.points), 'network')} of the study "
        f"{folder.resolve().name} (design {study.design.name}); reports of other designs from that study "
        "share runs with this one, and p-values are adjusted within each"
    )


def _renamed(contrast: Contrast, names: Mapping[str, str]) -> Contrast:
    """Renames the networks of a contrast."""
    weights = {names[key]: weight for key, weight in contrast.weights.items()}
    if not contrast.baseline:
        return replace(contrast, weights=weights)
    treated = next(key for key in contrast.weights if key != contrast.baseline)
    baseline = names[contrast.baseline]
    return replace(contrast, name=f"{names[treated]}-{baseline}", weights=weights, baseline=baseline)
