"""What a study's or an experiment's figures support and what they don't, in sentences of 25 words at most."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TypeVar

from convnext_ablation.console import counted, seeds_text
from convnext_ablation.study.report.across import AcrossFindings, Gap, joined
from convnext_ablation.study.report.findings import (
    Estimate,
    Findings,
    Row,
    StudyFacts,
    size_text,
    verdict,
)
from convnext_ablation.study.stats.effects import Difference
from convnext_ablation.study.stats.power import POWER

E = TypeVar("E", bound=Estimate)
_SIGNIFICANT = ("raised", "lowered")
_OTHERS = ("smaller", "corrected", "undetectable", "unclear", "untested")
_WORDS = 25  # that a sentence has at most
# of a design: what it studies, and what its effects are of
_STUDIED = {
    "stages": ("ResNet-50 to ConvNeXt-T", "step"),
    "roadmap": ("ResNet-50 to ConvNeXt-T step by step", "step"),
    "leave-one-out": ("ConvNeXt-T without each component", "component"),
    "add-one-in": ("ResNet-50 with each component", "component"),
    "factorial": ("Groups of components from ResNet-50 to ConvNeXt-T", "group of components"),
    "screening": ("Components from ResNet-50 to ConvNeXt-T", "component"),
    "screening-fold-over": ("Components from ResNet-50 to ConvNeXt-T", "component"),
}
_BRACKETS = "Effects are in points of top-1; brackets are 95 % intervals; p is adjusted by Holm's method."


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


def studied(design: str) -> str:
    """What a design studies, for titles; the name of one that isn't built in."""
    return _STUDIED.get(design, (design, ""))[0]


def question(design: str, sets: Sequence[str], across: bool = False) -> str:
    """What is asked on data sets, or `across` them: of the others beside the first, the general one."""
    what = _STUDIED.get(design, ("", "change"))[1]
    if across:
        return f"Which {what} matters more on {joined(sets[1:])} than on {sets[0]}, and by how much?"
    return f"Which {what} changes top-1 accuracy on {joined(sets)}, and by how much?"


def sentence(findings: Findings, facts: StudyFacts) -> str:
    """The answer on one data set in a sentence of 25 words at most."""
    rows, primary = findings.rows, findings.primary
    if max(row.runs for row in rows) == 1:
        low, high = (f"{100 * end(row.top1.estimate for row in rows):.1f}" for end in (min, max))
        reached = f"{low} %" if low == high else f"{low} to {high} %"
        return (
            f"Nothing can be claimed from one seed per network, which reach {reached} on {facts.data_name}."
        )
    if not primary:
        return "No effect of the design can be estimated."
    first, found = _largest(primary)
    d = first.difference
    if not found and all(each.verdict == "untested" for each in primary):
        return "No effect can be tested: its networks lack seeds in common, or are not above chance."
    if not found:
        return _shortest(
            f"No effect is significant; the largest is {label}, {points_text(d)} points."
            for label in _labels(first)
        )
    size = f"{percent_points(d.estimate)} points {_interval(d)}"
    ends = _significant(found, primary, "effect")
    return _shortest(f"{label} has the largest effect, {size}; {ends}." for label in _labels(first))


def sentence_across(findings: AcrossFindings) -> str:
    """The answer on several data sets in a sentence of 25 words at most."""
    wholes = [each.whole for each in findings.effects if each.contrast.primary]
    if not wholes:
        return "No effect can be compared between the data sets yet, as runs are missing."
    first, found = _largest(wholes)
    d, general = first.difference, findings.sets[0]
    choices = [
        (label, others) for label in _labels(first) for others in (joined(first.sets), "the other sets")
    ]
    if not found:
        return _shortest(
            f"No effect differs significantly between {general} and {others}; the largest difference is "
            f"{points_text(d)} points, of {label}."
            for label, others in choices
        )
    more = f"{abs(100 * d.estimate):.1f} points {'more' if d.estimate > 0 else 'less'}"
    ends = _significant(found, wholes, "difference")
    return _shortest(
        f"{label} adds {more} on {others} than on {general}; {ends}." for label, others in choices
    )


def _largest(found: Sequence[E]) -> tuple[E, int]:
    """The largest estimate of the significant ones, or of all if none is, and how many are significant."""
    significant = [each for each in found if each.verdict in _SIGNIFICANT]
    return max(significant or found, key=lambda each: abs(each.difference.estimate)), len(significant)


def _significant(number: int, of: Sequence[Estimate], what: str) -> str:
    if len(of) == 1:
        return "it is significant"
    return f"{number} of {counted(len(of), what)} {'is' if number == 1 else 'are'} significant"


def _labels(each: Estimate) -> tuple[str, ...]:
    """What an estimate is called in a sentence: also without what stands in brackets, and without a name."""
    return each.label, each.label.partition(" (")[0], "one"


def _shortest(choices: Iterable[str]) -> str:
    """The first sentence that is short enough, or the last."""
    said = ""
    for said in choices:
        if len(said.split()) <= _WORDS:
            break
    return said


def answer(findings: Findings, facts: StudyFacts) -> str:
    """Says which changes mattered, how sure that is, where it was measured, and how far it reaches."""
    table, primary = findings.rows, findings.primary
    named = {label for effect in primary for label in effect.at_chance}
    if claims := max(row.runs for row in table) > 1:
        chance = f" ({100 / facts.classes:.1f} %)"
        said = _sentences(primary, "effect", "studies", _change, chance) or [
            "No effect of the design can be estimated."
        ]
    else:
        low, high = (f"{100 * end(row.top1.estimate for row in table):.1f}" for end in (min, max))
        reached = low if low == high else f"{low} to {high}"
        said = [
            f"Nothing can be claimed from one seed per network: top-1 is {reached} % here.",
            "What another seed would change is not known; train at least 3 seeds.",
        ]
    said += _chance_text(table, facts, named if claims else ())
    counts = sorted({row.runs for row in table})
    number = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    several = len({run.pretraining_seed for row in table for run in row.network.runs}) > 1
    seeds = f"{number} runs of each network" if several else f"{number} seed{'s' * (counts[-1] > 1)}"
    said.append(
        f"Measured on {facts.data_name}: {facts.classes} classes, {facts.test_images} {facts.split} images, "
        f"{facts.pixels}, {counted(facts.epochs, 'epoch')}, {seeds}."
    )
    if claims:
        elsewhere = "" if facts.pretrained else ", such as full-width networks pre-trained on ImageNet"
        said.append(
            "These figures hold at this width, data set and training budget and do not carry over to others"
            f"{elsewhere}."
        )
    return " ".join(said)


def _change(effect: Estimate) -> list[str]:
    d, verb = effect.difference, "adds" if effect.difference.estimate > 0 else "costs"
    by = f"{abs(100 * d.estimate):.1f} points {_interval(d)}"
    return [f"{effect.label} {verb} {by}, p {p_text(d.p_holm)}."]


def answer_across(findings: AcrossFindings) -> str:
    """Says which components matter more on the fine-tuned sets, which less, and which are not significant."""
    primary = [each for each in findings.effects if each.contrast.primary]
    sizes = {
        each.contrast: {
            name: effect.difference.estimate
            for name, effect in zip(findings.sets, each.effects, strict=True)
            if effect
        }
        for each in primary
    }

    def claim(gap: Gap) -> list[str]:
        return _gap_texts(gap, findings.sets[0], sizes[gap.contrast])

    said = _sentences([each.whole for each in primary], "difference", "experiments", claim)
    said += [
        f"{contrast.label}: not compared on all sets, as runs are missing."
        for contrast in findings.missing
        if contrast.primary
    ]
    wholes = [each.whole for each in findings.effects]
    if any(gap.pretrainings == 1 for gap in wholes):
        said.append("Each network was pre-trained once: this holds for these pre-trainings alone.")
    said += [
        f"{gap.label}: over the {gap.runs} of {gap.of} runs that all networks and sets share."
        for gap in wholes
        if gap.runs < gap.of
    ]
    return " ".join(said)


def _gap_texts(gap: Gap, general: str, sizes: dict[str, float]) -> list[str]:
    """Says how much more or less an effect is on the fine-tuned sets, and what it is on each."""
    d, tuned = gap.difference, sum(sizes[name] for name in gap.sets)
    verb = "matters" if tuned > 0 else "costs" if sizes[general] <= 0 else "adds"
    more = "more" if (d.estimate > 0) == (tuned > 0 or sizes[general] > 0) else "less"
    where = ", averaged over" if gap.sets[1:] else " on"  # the sets may differ among themselves
    first, *others = (f"{percent_points(size)}{{}} on {name}" for name, size in sizes.items())
    return [
        f"{gap.label} {verb} {more}{where} {joined(gap.sets)}.",
        f"The difference to {general} is {percent_points(d.estimate)} points {_interval(d)}, "
        f"p {p_text(d.p_holm)}.",
        f"Its effect is {joined([first.format(' points'), *(each.format('') for each in others)])}.",
    ]


def _sentences(
    found: Sequence[E], what: str, trials: str, claim: Callable[[E], list[str]], chance: str = ""
) -> list[str]:
    """What is said of estimates: claims first, then a sentence for each that is not significant.

    Args:
        found: The estimates.
        what: What they are, in the singular.
        trials: What finds them, in the plural.
        claim: Says what is found of a significant one.
        chance: The accuracy by chance, where it is the same for all.
    """
    groups: dict[str, list[E]] = {name: [] for name in (*_SIGNIFICANT, *_OTHERS)}
    for each in found:
        groups[each.verdict].append(each)
    claims = [text for name in _SIGNIFICANT for each in groups[name] for text in claim(each)]
    others = [_not_claimed(each, chance) for name in _OTHERS for each in groups[name]]
    said = claims if claims or not others else [f"No {what} is significant."]
    powers = _power_texts(groups["undetectable"], what, trials)
    return [*said, *others, *powers, _BRACKETS] if found else []


def _not_claimed(each: Estimate, chance: str) -> str:
    if each.at_chance:
        are = "is" if len(each.at_chance) == 1 else "are"
        return f"{each.label}: not tested, as {joined(each.at_chance)} {are} not above chance{chance}."
    if each.verdict == "untested":
        return f"{each.label}: not tested, for want of a second shared seed."
    finding = "could not have been detected" if each.verdict == "undetectable" else each.finding
    return f"{each.label}: {finding}, {points_text(each.difference)}."


def _power_texts(missed: Sequence[Estimate], what: str, trials: str) -> list[str]:
    """Says what can be found, and what it takes to find the size that is asked about."""
    powers = {each.label: each.power for each in missed if each.power}
    if not powers:
        return []
    first = next(iter(powers.values()))
    low, high = (f"{100 * end(power.detectable for power in powers.values()):.1f}" for end in (min, max))
    range_ = low if low == high else f"{low} to {high}"
    labels: dict[str, list[str]] = {}  # by what they take
    for label, power in powers.items():
        labels.setdefault(power.takes, []).append(label)
    size = size_text(missed[0].size)
    takes = [f"{size} takes {takes} for {joined(those)}." for takes, those in labels.items()]
    return [
        f"With {counted(first.draws, first.unit)}, {100 * POWER:.0f} of 100 such {trials} find {what}s above "
        f"{range_} points.",
        *(takes if len(takes) > 1 else [f"{size} takes {next(iter(labels))}."]),
    ]


def _interval(d: Difference) -> str:
    return f"[{percent_points(d.low)}, {percent_points(d.high)}]"


def points_text(d: Difference) -> str:
    """A difference with its interval, in percentage points."""
    return f"{percent_points(d.estimate)} {_interval(d)}"


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
    found += [f"WARNING: {text}" for text in _chance_text(table, facts)]
    tested = sum(verdict(effect.difference) != "untested" for effect in findings.primary)
    if tested > 1:
        found.append(
            "Each interval is 95 % for its own change; p-values are adjusted (Holm) for "
            f"{tested} comparisons. So an interval can exclude 0 where the adjusted p is above 0.05."
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


def _chance_text(table: Iterable[Row], facts: StudyFacts, named: Collection[str] = ()) -> list[str]:
    """Names the networks that aren't shown to be above guessing, but those named already."""
    names = [row.label for row in table if not row.above_chance and row.label not in named]
    if not names:
        return []
    are, them = ("is", "it") if len(names) == 1 else ("are", "them")
    return [
        f"{joined(names)} {are} not above chance ({100 / facts.classes:.1f} %), so what is compared with "
        f"{them} says nothing about the change."
    ]
