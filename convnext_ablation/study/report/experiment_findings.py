"""What a whole experiment found: its phases side by side, and how effects differ between their data sets.

The general set is that of the first phase that others start from. Effects are compared between it and those
others; every phase that has finished runs is in the table of accuracies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from convnext_ablation.console import counted
from convnext_ablation.study.designs.contrasts import Contrast
from convnext_ablation.study.report.across import AcrossFindings, SetResults, compare_across, joined
from convnext_ablation.study.report.answer import answer_across, caveats
from convnext_ablation.study.report.findings import RESOLVED, Row, StudyFacts
from convnext_ablation.study.report.reported import Measured, is_reported, key_of


@dataclass(frozen=True, eq=False)
class PhaseReport:
    """What the report of an experiment shows of a phase."""

    results: SetResults  # on all test images; named as the phase
    facts: StudyFacts
    data: str  # name of the data set, as in `reported.DATA_SETS`, or of its folder
    fingerprint: str  # SHA-256 that stands for its files
    ids: Sequence[str]  # of the test images
    start: str  # the phase whose networks its own start from; empty where there is none
    has_effects: bool  # whether the phase's design asks for effects
    page: Path  # of its own report
    kept: SetResults | None = None  # without the excluded images; None where none are excluded

    @property
    def name(self) -> str:
        """The phase's name."""
        return self.results.name

    def has_images_of(self, other: PhaseReport) -> bool:
        """Whether both are tested on the same images, if only in another size."""
        mine, others = (self.data, self.ids), (other.data, other.ids)
        return self.fingerprint == other.fingerprint or mine == others

    @property
    def excluded(self) -> int:
        """How many test images are excluded."""
        images = len(self.kept.networks[0].runs[0].correct) if self.kept else self.facts.test_images
        return self.facts.test_images - images

    @property
    def fault(self) -> str:
        """What is known to be wrong with its data; empty for nothing that concerns its figures."""
        return self.facts.fault


class Line(NamedTuple):
    """A line of the table of accuracies: a network, and its row in each phase's own table that has it."""

    label: str
    rows: Mapping[str, Row]  # by phase, on all images
    kept: Mapping[str, Row]  # without the excluded ones


@dataclass(frozen=True, eq=False)
class ExperimentReport:
    """All that the report of an experiment shows; `folder` is where it goes."""

    folder: Path
    title: str
    phases: Sequence[PhaseReport]  # those that have finished runs, in the experiment's order
    contrasts: Sequence[Contrast]  # of the design
    command: str  # repeats the experiment
    notes: Sequence[str] = ()  # what is missing of it
    size: float = RESOLVED  # that what isn't significant is judged against, a fraction

    @property
    def general(self) -> PhaseReport | None:
        """The phase that others start from."""
        starts = {phase.start for phase in self.phases}
        return next((phase for phase in self.phases if phase.name in starts), None)

    @cached_property
    def compared(self) -> list[PhaseReport]:
        """The phases whose effects are compared with those of the general one: they share no images."""
        found: list[PhaseReport] = []
        if (general := self.general) is not None:
            for phase in self.phases:
                known = any(phase.has_images_of(each) for each in [general, *found])
                if phase.has_effects and phase.start == general.name and not known:
                    found.append(phase)
        return found

    @cached_property
    def across(self) -> AcrossFindings | None:
        """Effects on all images, None where no sets can be compared."""
        return self._across([phase.results for phase in self.compared])

    @cached_property
    def across_kept(self) -> AcrossFindings | None:
        """Effects without the excluded images; None where none are excluded."""
        if not self.general or not any(phase.kept for phase in [self.general, *self.compared]):
            return None
        return self._across([phase.kept or phase.results for phase in self.compared], kept=True)

    def _across(self, others: Sequence[SetResults], kept: bool = False) -> AcrossFindings | None:
        general = self.general
        if general is None or not others or not self.contrasts:
            return None
        first = general.kept if kept and general.kept else general.results
        return compare_across(first, others, self.contrasts, self.size)

    @cached_property
    def lines(self) -> list[Line]:
        """The networks of all phases, in the order in which they first stand there."""
        rows = {phase.name: _by_network(phase.results) for phase in self.phases}
        kept = {phase.name: _by_network(phase.kept) for phase in self.phases if phase.kept}
        labels = {key: row.label for of_phase in reversed(rows.values()) for key, row in of_phase.items()}
        keys = dict.fromkeys(key for of_phase in rows.values() for key in of_phase)
        return [Line(labels[key], _of(key, rows), _of(key, kept)) for key in keys]

    @property
    def faults(self) -> list[str]:
        """What is known to be wrong with the phases' data."""
        known = dict.fromkeys(phase.fault for phase in self.phases if phase.fault)
        return [_fault_text([phase for phase in self.phases if phase.fault == fault]) for fault in known]

    @property
    def answer(self) -> str:
        """What the effects say, with and without excluded images, and what is known to be wrong with them."""
        if self.across is None:
            why = self._why_not()
            return "\n\n".join([f"No effects are compared between data sets: {why}.", *self.faults])
        parts = [answer_across(self.across)]
        if self.across_kept:
            shown = [self.general, *self.compared]
            left_out = [f"{phase.name} ({phase.excluded})" for phase in shown if phase and phase.kept]
            parts.append(
                f"The same without the excluded images of {joined(left_out)}. "
                + answer_across(self.across_kept)
            )
        return "\n\n".join([*parts, *self.faults])

    @property
    def warnings(self) -> list[str]:
        """What a reader must bear in mind: of the experiment, and of each phase."""
        found = list(self.notes)
        for phase in self.phases:
            if self.across and phase.has_effects and phase not in [self.general, *self.compared]:
                found.append(
                    f"WARNING: {phase.name}: its effects are in its own report only: {self._why(phase)}."
                )
            known = f"WARNING: {phase.fault}"  # stands beside the figures
            found += [
                f"WARNING: {phase.name}: {text.removeprefix('WARNING: ')}"
                for text in caveats(phase.results.findings, phase.facts)
                if text.startswith("WARNING") and text != known
            ]
        return [*found, *self._measured[1]]

    def _why_not(self) -> str:
        if self.general is None:
            return "no finished phase starts from another"
        if not self.contrasts:
            return "the design asks for none"
        return f"no finished phase with the design's networks starts from {self.general.name} on other images"

    def _why(self, phase: PhaseReport) -> str:
        general = self.general
        if general is not None and phase.start != general.name:
            return f"it does not start from {general.name}"
        same = next(each for each in self.phases if phase.has_images_of(each))
        return f"it has the images of {same.name}"

    @property
    def measured(self) -> list[Measured]:
        """The accuracies that the 11785-FGVC project reported, too."""
        return self._measured[0]

    @cached_property
    def _measured(self) -> tuple[list[Measured], list[str]]:
        """Of several that stand for one, that of networks that were pre-trained, or the first."""
        found: dict[tuple[str, str, int], tuple[Measured, str]] = {}
        warnings = []
        for phase in sorted(self.phases, key=lambda phase: not phase.facts.pretrained):
            for row in phase.results.findings.rows:
                size, name = phase.facts.image_size, row.network.name
                if not is_reported(name, phase.data, size):
                    continue
                top1, what = row.top1, f"{name} of phase {phase.name}"
                percents = (100 * top1.estimate, 100 * top1.low, 100 * top1.high)
                mine = Measured(name, phase.data, size, *percents, row.runs)
                first = found.setdefault(key_of(name, phase.data, size), (mine, what))
                if first[0] is not mine:
                    warnings.append(f"WARNING: the project's tables show {first[1]}, and not {what}.")
        return [mine for mine, _ in found.values()], warnings

    def phase_texts(self) -> dict[str, str]:
        """What each phase was, by its name."""
        return {phase.name: _phase_text(phase) for phase in self.phases}


def _by_network(results: SetResults) -> dict[str, Row]:
    return {row.network.name: row for row in results.findings.rows}


def _of(key: str, rows: Mapping[str, Mapping[str, Row]]) -> dict[str, Row]:
    return {phase: of_phase[key] for phase, of_phase in rows.items() if key in of_phase}


def _fault_text(phases: Sequence[PhaseReport]) -> str:
    """What is wrong with the data of some phases, and where accuracies without the images concerned are."""
    text = f"{joined([phase.name for phase in phases])}: {phases[0].fault}"
    if kept := [f"{phase.name} ({counted(phase.excluded, 'image')})" for phase in phases if phase.kept]:
        text += f" Accuracies without excluded images stand beside those of {joined(kept)}."
    if others := [phase.name for phase in phases if not phase.kept]:
        text += f" `study report --exclude {others[0]}=FILE` adds accuracies without the images in a file."
    return text


def _phase_text(phase: PhaseReport) -> str:
    facts, counts = phase.facts, sorted({row.runs for row in phase.results.findings.rows})
    runs = f"{counts[0]} to {counts[-1]} runs" if len(counts) > 1 else counted(counts[0], "run")
    start = f"from the networks of {phase.start}" if phase.start else "from scratch"
    if facts.pretrained and not phase.start:
        start = "from pre-trained weights"
    return (
        f"{facts.data_name}, {facts.classes} classes, "
        f"{counted(facts.test_images, f'{facts.split} image')}, "
        f"{facts.pixels}, {counted(facts.epochs, 'epoch')} {start}, {runs} of each network"
    )
