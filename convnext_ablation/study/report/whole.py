"""All that a report shows: what was found on one data set, or on several side by side and how they differ.

The general set is that of the first phase that others start from. Effects are compared between it and those
others; every phase that has finished runs is in the table of accuracies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from convnext_ablation.console import counted
from convnext_ablation.study.designs.contrasts import Contrast
from convnext_ablation.study.report.across import AcrossFindings, compare_across, joined, set_name
from convnext_ablation.study.report.answer import (
    answer,
    answer_across,
    caveats,
    method,
    question,
    sentence,
    sentence_across,
    studied,
)
from convnext_ablation.study.report.contents import Contents
from convnext_ablation.study.report.findings import RESOLVED, Estimate, Findings, Row
from convnext_ablation.study.report.reported import Key, is_reported, key_of


class Line(NamedTuple):
    """A line of the table of accuracies: a network, and its row in each phase's own table that has it."""

    label: str
    rows: Mapping[str, Row]  # by phase, on all images
    kept: Mapping[str, Row]  # without the excluded ones


@dataclass(frozen=True, eq=False)
class Report:
    """All that a report shows; `folder` is where it goes."""

    folder: Path
    sets: Sequence[Contents]  # those that have finished runs, in the experiment's order
    contrasts: Sequence[Contrast]  # of the design
    command: str  # repeats the experiment
    notes: Sequence[str] = ()  # what is missing of it
    size: float = RESOLVED  # that what isn't significant is judged against, a fraction

    @property
    def alone(self) -> Contents | None:
        """The data set of a report on a single one."""
        return self.sets[0] if len(self.sets) == 1 and not self.notes else None

    @property
    def design(self) -> str:
        """The name of the design."""
        return next((each for each in self.sets if each.has_effects), self.sets[0]).facts.design

    @property
    def title(self) -> str:
        """What was studied, and on which data."""
        if self.alone:
            return self.alone.facts.title
        return f"{studied(self.design)} on {joined(_once(each.facts.data_name for each in self.sets))}"

    @property
    def question(self) -> str:
        """What the report answers."""
        names = [
            each.called if self.across else each.facts.data_name for each in self.with_effects or self.sets
        ]
        return question(self.design, _once(names), across=self.across is not None)

    @property
    def sentence(self) -> str:
        """The answer in one sentence of 25 words at most."""
        if self.alone:
            return sentence(self.alone.findings, self.alone.facts)
        if self.across:
            return sentence_across(self.across)
        return f"No effects are compared between data sets: {self._why_not()}."

    @property
    def general(self) -> Contents | None:
        """The phase that others start from."""
        starts = {each.start for each in self.sets}
        return next((each for each in self.sets if each.name in starts - {""}), None)

    @cached_property
    def compared(self) -> list[Contents]:
        """The phases whose effects are compared with those of the general one: they share no images."""
        found: list[Contents] = []
        if (general := self.general) is not None:
            for each in self.sets:
                known = any(each.has_images_of(other) for other in [general, *found])
                if each.has_effects and each.start == general.name and not known:
                    found.append(each)
        return found

    @cached_property
    def across(self) -> AcrossFindings | None:
        """Effects on all images, None where no sets can be compared."""
        return self._across({each.name: each.findings for each in self.sets})

    @cached_property
    def across_kept(self) -> AcrossFindings | None:
        """Effects without the excluded images; None where none are excluded."""
        if not any(each.kept for each in self.with_effects):
            return None
        return self._across({each.name: each.kept or each.findings for each in self.sets})

    def _across(self, found: Mapping[str, Findings]) -> AcrossFindings | None:
        if self.general is None or not self.compared or not self.contrasts:
            return None
        first, *others = [(each.name, found[each.name]) for each in (self.general, *self.compared)]
        return compare_across(first, others, self.contrasts, self.size)

    @property
    def with_effects(self) -> list[Contents]:
        """The data sets whose effects stand side by side: the general one first, where there is one."""
        if self.across:
            return [each for each in [self.general, *self.compared] if each]
        return [each for each in self.sets if each.has_effects]

    @property
    def columns(self) -> list[str]:
        """The columns of `estimates`: each data set, and how the others differ from the general one."""
        names = [each.called for each in self.with_effects]
        return [*names, f"{set_name(names[1:])} − {names[0]}"] if self.across else names

    @property
    def estimates(self) -> list[list[Estimate | None]]:
        """What is estimated of each effect in each of `columns`; None where runs are missing."""
        if self.across:
            return [[*each.effects, each.whole] for each in self.across.effects]
        found = [[each.findings.effect(asked) for each in self.with_effects] for asked in self.contrasts]
        return [[*line] for line in found if any(line)]

    @cached_property
    def lines(self) -> list[Line]:
        """The networks of all phases, in the order in which they first stand there."""
        rows = {each.name: _by_network(each.findings) for each in self.sets}
        kept = {each.name: _by_network(each.kept) for each in self.sets if each.kept}
        labels = {key: row.label for of_phase in reversed(rows.values()) for key, row in of_phase.items()}
        keys = dict.fromkeys(key for of_phase in rows.values() for key in of_phase)
        return [Line(labels[key], _of(key, rows), _of(key, kept)) for key in keys]

    @property
    def faults(self) -> list[str]:
        """What is known to be wrong with the data, of several sets with their names."""
        if self.alone:
            return [self.alone.facts.fault] if self.alone.facts.fault else []
        known = _once(each.facts.fault for each in self.sets if each.facts.fault)
        return [_fault_text([each for each in self.sets if each.facts.fault == fault]) for fault in known]

    @property
    def answer(self) -> str:
        """What the effects say, with and without excluded images."""
        if self.alone:
            return answer(self.alone.findings, self.alone.facts)
        if self.across is None:
            return self.sentence
        parts = [answer_across(self.across)]
        if self.across_kept:
            left_out = [f"{each.name} ({each.excluded})" for each in self.with_effects if each.kept]
            parts.append(
                f"The same without the excluded images of {joined(left_out)}. "
                + answer_across(self.across_kept)
            )
        return "\n\n".join(parts)

    @property
    def answer_with_faults(self) -> str:
        """The answer, and below it what is known to be wrong with the data."""
        return "\n\n".join([self.answer, *self.faults])

    @property
    def beside(self) -> list[str]:
        """What stands beside every figure."""
        if not self.alone:
            return self.faults
        return [text for text in self.warnings if text.startswith("WARNING")]

    @cached_property
    def warnings(self) -> list[str]:
        """What a reader must bear in mind: of the experiment, and of each phase."""
        if self.alone:
            return caveats(self.alone.findings, self.alone.facts)
        found = list(self.notes)
        for each in self.sets:
            if self.across and each.has_effects and each not in self.with_effects:
                found.append(
                    f"WARNING: {each.name}: its effects are in its own report only: {self._why(each)}."
                )
            known = f"WARNING: {each.facts.fault}"  # stands beside the figures
            found += [
                f"WARNING: {each.name}: {text.removeprefix('WARNING: ')}"
                for text in caveats(each.findings, each.facts)
                if text.startswith("WARNING") and text != known
            ]
        return [*found, *self._measured[1]]

    def _why_not(self) -> str:
        if self.general is None:
            return "no finished phase starts from another"
        if not self.contrasts:
            return "the design asks for none"
        return f"no finished phase with the design's networks starts from {self.general.name} on other images"

    def _why(self, contents: Contents) -> str:
        general = self.general
        if general is not None and contents.start != general.name:
            return f"it does not start from {general.name}"
        same = next(each for each in self.sets if contents.has_images_of(each))
        return f"it has the images of {same.name}"

    @property
    def measured(self) -> dict[Key, Row]:
        """The accuracies that the 11785-FGVC project reported, too."""
        return self._measured[0]

    @cached_property
    def _measured(self) -> tuple[dict[Key, Row], list[str]]:
        """Of several that stand for one, that of networks that were pre-trained, or the first."""
        found: dict[Key, tuple[Row, str]] = {}
        warnings = []
        for each in sorted(self.sets, key=lambda each: not each.facts.pretrained):
            for row in each.findings.rows:
                name = row.network.name
                key, what = key_of(name, each.data, each.facts.image_size), f"{name} of phase {each.name}"
                if self.alone or not is_reported(key):
                    continue
                first, shown = found.setdefault(key, (row, what))
                if first is not row:
                    warnings.append(f"WARNING: the project's tables show {shown}, and not {what}.")
        return {key: row for key, (row, _) in found.items()}, warnings

    @property
    def method(self) -> dict[str, str]:
        """What was done: each point, or each phase, and what there is to say of it."""
        if self.alone:
            return method(self.alone.findings, self.alone.facts)
        return {each.name: _phase_text(each) for each in self.sets}


def report_of(contents: Contents) -> Report:
    """The report on a single data set."""
    contrasts = [effect.contrast for effect in contents.findings.effects]
    return Report(contents.folder, [contents], contrasts, contents.facts.command)


def _once(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _by_network(findings: Findings) -> dict[str, Row]:
    return {row.network.name: row for row in findings.rows}


def _of(key: str, rows: Mapping[str, Mapping[str, Row]]) -> dict[str, Row]:
    return {phase: of_phase[key] for phase, of_phase in rows.items() if key in of_phase}


def _fault_text(sets: Sequence[Contents]) -> str:
    """What is wrong with the data of some phases, and where accuracies without the images concerned are."""
    text = f"{joined([each.name for each in sets])}: {sets[0].facts.fault}"
    if kept := [f"{each.name} ({counted(each.excluded, 'image')})" for each in sets if each.kept]:
        text += f" Accuracies without excluded images stand beside those of {joined(kept)}."
    if others := [each.name for each in sets if not each.kept]:
        text += f" `study report --exclude {others[0]}=FILE` adds accuracies without the images in a file."
    return text


def _phase_text(contents: Contents) -> str:
    facts, counts = contents.facts, sorted({row.runs for row in contents.findings.rows})
    runs = f"{counts[0]} to {counts[-1]} runs" if len(counts) > 1 else counted(counts[0], "run")
    start = f"from the networks of {contents.start}" if contents.start else "from scratch"
    if facts.pretrained and not contents.start:
        start = "from pre-trained weights"
    return (
        f"{facts.data_name}, {facts.classes} classes, "
        f"{counted(facts.test_images, f'{facts.split} image')}, "
        f"{facts.pixels}, {counted(facts.epochs, 'epoch')} {start}, {runs} of each network"
    )
