"""What a study's figures support and what they don't, in words."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TypeVar

from convnext_ablation.console import counted, seeds_text
from convnext_ablation.study.report.findings import (
    Effect,
    Estimate,
    Findings,
    Row,
    StudyFacts,
    size_text,
    verdict,
)
from convnext_ablation.study.stats.effects import Difference
from convnext_ablation.study.stats.power import POWER

VERDICTS = ("raised", "lowered", "smaller", "corrected", "undetectable", "unclear", "untested")
E = TypeVar("E", bound=Estimate)


def p_text(p: float) -> str:
    """Writes a p-value for people: two digits at most, and no more zeros than anyone believes."""
    if p != p:
        return "–"
    if p < 0.001:
        return "<0.001"
    return f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"


def percent_points(value: float) -> str:
    """Writes a fraction in percentage points with its sign; a value that rounds to nothing has none."""
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def answer(findings: Findings, facts: StudyFacts) -> str:
    """Says in a sentence or two which changes mattered, how sure that is, and how far it reaches."""
    table = findings.rows
    elsewhere = "" if facts.pretrained else ", such as full-width networks pre-trained on ImageNet"
    reach = (
        " These figures hold at this width, data set and training budget and do not carry over to others"
        f"{elsewhere}."
    )
    named: set[str] = set()
    if max(row.runs for row in table) == 1:
        claim, reach = _nothing(table), ""
    elif findings.primary:
        claim = _claims(findings.primary, 1 / facts.classes)
        named = {label for effect in findings.primary for label in effect.at_chance}
    else:
        claim = "no effect of the design can be estimated yet"
    counts = sorted({row.runs for row in table})
    several = len({run.pretraining_seed for row in table for run in row.network.runs}) > 1
    number = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    seeds = f"{number} runs of each network" if several else f"{number} seed{'s' * (counts[-1] > 1)}"
    scene = (
        f"On {facts.data_name} ({facts.classes} classes, {facts.test_images} {facts.split} images, "
        f"{facts.pixels}, {counted(facts.epochs, 'epoch')}, {seeds})"
    )
    return f"{scene}, {claim}.{reach}{_chance_text(table, facts, named)}"


def caveats(findings: Findings, facts: StudyFacts) -> list[str]:
    """Lists what a reader must bear in mind, the study's own warnings first."""
    table = findings.rows
    found = list(facts.warnings)
    if alone := [row.label for row in table if row.runs == 1]:
        found.append(
            f"WARNING: one seed only for {joined(alone)}: intervals are over test images alone and leave "
            "out what another seed would change, and there is no p-value."
        )
    found += [
        f"WARNING: {effect.label}: its networks share {effect.runs} of {counted(effect.of, 'run')}; "
        "it is over the shared ones."
        for effect in findings.effects
        if effect.runs < effect.of
    ]
    if findings.missing:
        names = joined([each.label for each in findings.missing])
        found.append(f"WARNING: not estimated yet, as runs are missing: {names}.")
    if at_chance := _chance_text(table, facts):
        found.append(f"WARNING: {at_chance.strip()}")
    tested = sum(verdict(effect.difference) != "untested" for effect in findings.primary)
    if tested > 1:
        found.append(
            "Each interval is 95 % for its own change; p-values are adjusted (Holm) for "
            f"{tested} comparisons, so an interval can exclude 0 where the adjusted p is "
            "above 0.05."
        )
    found.append("images/s and time were measured on a machine that may have done other things meanwhile.")
    return found


def method(findings: Findings, facts: StudyFacts) -> dict[str, str]:
    """Lists what was done: each point and what there is to say of it."""
    seeds = sorted({run.seed for row in findings.rows for run in row.network.runs})
    start = "from pre-trained weights" if facts.pretrained else "from scratch"
    together = f" in each of {facts.processes} processes a run" if facts.processes > 1 else ""
    return {
        "design": facts.design,
        **({"runs": facts.origin} if facts.origin else {}),
        "data": f"{facts.data_name}, {facts.classes} classes, "
        f"{counted(facts.test_images, f'{facts.split} image')}, "
        f"{facts.image_height or facts.image_size} x {facts.image_size} px",
        "training": f"{counted(facts.epochs, 'epoch')} {start}, {facts.precision}, {seeds_text(seeds)}",
        "machine": f"{facts.machine}, {counted(facts.threads, 'thread')}{together}",
        "versions": ", ".join(f"{name} {version}" for name, version in facts.versions.items()),
    }


def _nothing(table: list[Row]) -> str:
    low, high = (f"{100 * end(row.top1.estimate for row in table):.1f}" for end in (min, max))
    reached = low if low == high else f"{low} to {high}"
    return (
        f"nothing can be claimed from one seed per network: a network reaches {reached} % top-1 here, "
        "and what another seed would change is not known; train at least 3 seeds"
    )


def _claims(effects: list[Effect], chance: float) -> str:
    """Says what became of each change: a clause for each that mattered, one for all that are unclear."""
    groups = by_verdict(effects)
    clauses: list[str] = []
    for group, verb in (("raised", "rose"), ("lowered", "fell")):
        if groups[group]:
            subject = "it" if clauses else "top-1"
            clauses.append(f"{subject} {verb} {joined([_change_text(effect) for effect in groups[group]])}")
    found = not_significant(effects)
    clauses += found if clauses or not found else ["no effect is significant", *found]
    if at_chance := [effect for effect in groups["untested"] if effect.at_chance]:
        networks = list(dict.fromkeys(label for effect in at_chance for label in effect.at_chance))
        clauses.append(
            f"not tested, as {joined(networks)} {_are(networks)} not above chance ({100 * chance:.1f} %): "
            + _names(at_chance)
        )
    if untested := [effect for effect in groups["untested"] if not effect.at_chance]:
        clauses.append(f"not tested, for want of a second shared seed: {_names(untested)}")
    return "; ".join(clauses)


def by_verdict(found: Iterable[E]) -> dict[str, list[E]]:
    """Estimates by their `verdict`; there is a list for each."""
    groups: dict[str, list[E]] = {name: [] for name in VERDICTS}
    for each in found:
        groups[each.verdict].append(each)
    return groups


def not_significant(found: Iterable[Estimate], trials: str = "studies") -> list[str]:
    """A clause each for estimates that are small, that could not have been detected, and that are neither.

    Args:
        found: Of these, those that are not significant.
        trials: What finds them, in the plural.
    """
    groups, clauses = by_verdict(found), []
    if smaller := groups["smaller"]:
        clauses.append(f"smaller than {size_text(smaller[0].size)}: {_with_intervals(smaller)}")
    if missed := groups["undetectable"]:
        clauses.append(
            f"could not have been detected: {_with_intervals(missed, _missed_text(missed, trials))}"
        )
    if corrected := groups["corrected"]:
        clauses.append(f"not significant after Holm's correction: {_with_intervals(corrected)}")
    if unclear := groups["unclear"]:
        clauses.append(f"not significant: {_with_intervals(unclear)}")
    return clauses


def _with_intervals(found: Sequence[Estimate], more: str = "") -> str:
    low = percent_points(min(each.difference.low for each in found))
    high = percent_points(max(each.difference.high for each in found))
    interval = "95 % interval" if len(found) == 1 else "95 % intervals within"
    return f"{_names(found)} ({interval} {low} to {high} points{more})"


def _missed_text(missed: Sequence[Estimate], trials: str) -> str:
    """Says what can be found, and what it takes to find the size that is asked about."""
    powers = {each.label: each.power for each in missed if each.power}
    first = next(iter(powers.values()))
    low, high = (f"{100 * end(power.detectable for power in powers.values()):.1f}" for end in (min, max))
    range_ = low if low == high else f"{low} to {high}"
    labels: dict[str, list[str]] = {}  # by what they take
    for label, power in powers.items():
        labels.setdefault(power.takes, []).append(label)
    each = [f"{takes} for {joined(those)}" for takes, those in labels.items()]
    takes = joined(each) if len(each) > 1 else next(iter(labels))
    return (
        f"; with {counted(first.draws, first.unit)}, {100 * POWER:.0f} of 100 such {trials} find those above "
        f"{range_} points; for {size_text(missed[0].size)} it takes {takes}"
    )


def _change_text(effect: Effect) -> str:
    d = effect.difference
    return f"by {abs(100 * d.estimate):.1f} points ({interval_text(d)}) with {effect.label}"


def interval_text(d: Difference) -> str:
    """Says how sure a difference is."""
    p = p_text(d.p_holm)
    return (
        f"95 % interval {percent_points(d.low)} to {percent_points(d.high)}, "
        f"adjusted p {p if p.startswith('<') else '= ' + p}"
    )


def _chance_text(table: list[Row], facts: StudyFacts, named: Collection[str] = ()) -> str:
    """Names the networks that aren't shown to be above guessing, but those named already; empty without."""
    names = [row.label for row in table if not row.above_chance and row.label not in named]
    if not names:
        return ""
    them = "it" if len(names) == 1 else "them"
    return (
        f" {joined(names)} {_are(names)} not above chance ({100 / facts.classes:.1f} %), so what is compared "
        f"with {them} says nothing about the change."
    )


def _names(effects: Sequence[Estimate]) -> str:
    return joined([effect.label for effect in effects])


def _are(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def joined(parts: Sequence[str]) -> str:
    """Joins as in running text: a, b and c."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
