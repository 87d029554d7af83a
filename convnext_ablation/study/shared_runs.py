"""One design's report from the runs of a study of another design: nothing is trained twice.

A run is the same whatever design it was made for: its identity holds the network, the data, the arguments and
the weights that it starts from, and nothing of the design.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from convnext_ablation.errors import UserError
from convnext_ablation.study.designs.contrasts import WIDTHS, Contrast
from convnext_ablation.study.designs.design import design_of
from convnext_ablation.study.experiment import Study
from convnext_ablation.study.run_files import is_done
from convnext_ablation.study.tuning import chosen_rates
from convnext_ablation.study.wording import counted

__all__ = ["origin_of", "seen_as"]


def seen_as(
    study: Study, folder: Path, name_or_file: str, groups: Mapping[str, Sequence[str]] | None = None
) -> Study:
    """Returns the part of a study that is of another design, with that design's questions.

    Networks keep the names that they have in the study, as their runs' folders bear these; what they are
    called for people is the design's.

    Args:
        study: The study.
        folder: Its folder.
        name_or_file: The design, as `design_of` takes it.
        groups: The same.

    Raises:
        UserError: There is no such design, or the study lacks networks or finished runs that it needs.
    """
    wanted = design_of(name_or_file, _width(study), groups)
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
    _check_finished(part, folder)
    return part


def origin_of(part: Study, study: Study, folder: Path) -> str:
    """Says where the runs of a report come from.

    Args:
        part: What the report is of.
        study: The study that the runs were made for.
        folder: Its folder.
    """
    return (
        f"{len(part.points)} of the {counted(len(study.points), 'network')} of the study "
        f"{folder.resolve().name} (design {study.design.name}); reports of other designs from that study "
        "share runs with this one, and p-values are adjusted within each"
    )


def _width(study: Study) -> str:
    """The name of the width that a study's networks have."""
    model = study.points[0].model
    return max((name for name in WIDTHS if model.endswith(WIDTHS[name])), key=lambda name: len(WIDTHS[name]))


def _renamed(contrast: Contrast, names: Mapping[str, str]) -> Contrast:
    """A contrast of networks that have other names."""
    weights = {names[key]: weight for key, weight in contrast.weights.items()}
    if not contrast.baseline:
        return replace(contrast, weights=weights)
    treated = next(key for key in contrast.weights if key != contrast.baseline)
    baseline = names[contrast.baseline]
    return replace(contrast, name=f"{names[treated]}-{baseline}", weights=weights, baseline=baseline)


def _check_finished(study: Study, folder: Path) -> None:
    rates = chosen_rates(study, folder)
    left = [f"all of {point.key}" for point in study.points if point.key not in rates]
    left += [run.name for run in study.runs(rates) if not is_done(run, folder)]
    if left:
        raise UserError(
            f"{folder}: the design {study.design.name} needs runs that are not finished: {', '.join(left)}"
        )
