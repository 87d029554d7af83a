"""Re-reads the reported tables with intervals, and writes `results/reported.md`.

    python benchmarks/reported_intervals.py

It takes the accuracies from `convnext_ablation/reported/` and `results/paper_roadmap.csv`, and nothing from
elsewhere but what is named as an assumption below.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from scipy import special

from convnext_ablation.console import table
from convnext_ablation.files import write_text
from convnext_ablation.study.report.reported import NETWORKS, reported_rows

RESULTS = Path(__file__).parents[1] / "results"
QUANTILE = float(special.ndtri(0.975))
TEST_IMAGES = {"cub200": 5794, "stanford_dogs": 8580, "imagenet": 50000}
DISAGREEMENTS = (0.20, 0.10)  # assumed: images that exactly one of two networks classifies rightly
SEED_SD = 0.3  # assumed: points of top-1 between seeds of one network
# The step of the paper's roadmap that each reported model ends on (the README says where they differ).
PAPER_STEPS = {"model_i": 0, "model_ii": 4, "model_iii": 5, "model_iv": 8, "model_v": 15}


@dataclass(frozen=True)
class Change:
    """The difference of two reported accuracies.

    Attributes:
        label: What is compared.
        before: Top-1 of the one, percent.
        after: Top-1 of the other.
        images: How many both were tested on.
        seeds: How many runs each accuracy is the mean of.
        digits: How many decimals are reported.
    """

    label: str
    before: float
    after: float
    images: int
    seeds: int = 1
    digits: int = 1

    @property
    def points(self) -> float:
        """By how much it changed, percent points."""
        return round(self.after - self.before, self.digits)

    @property
    def rounding(self) -> float:
        """How far `points` may be from the change before accuracies were rounded."""
        return 10.0**-self.digits

    def half_width(self, disagreement: float | None = None, seed_sd: float = 0.0) -> float:
        """Half of the 95 % interval, percent points.

        Args:
            disagreement: Part of the images that exactly one of the two classifies rightly; None for the
                error of two independent sets of images.
            seed_sd: Standard deviation of a network's top-1 between seeds, percent points.
        """
        return math.hypot(QUANTILE * math.sqrt(self._image_variance(disagreement)), self.seeds_alone(seed_sd))

    def seeds_alone(self, seed_sd: float) -> float:
        """Half of the 95 % interval if other images would show the same change, percent points."""
        return QUANTILE * seed_sd * math.sqrt(2 / self.seeds)

    def largest_seed_sd(self, disagreement: float | None = None) -> float:
        """The seed SD, percent points, up to which 0 is outside the interval; 0 where it never is."""
        left = (self.points / QUANTILE) ** 2 - self._image_variance(disagreement)
        return math.sqrt(max(0.0, left) * self.seeds / 2)

    def _image_variance(self, disagreement: float | None) -> float:
        before, after = self.before / 100, self.after / 100
        if disagreement is None:
            variance = before * (1 - before) + after * (1 - after)
        else:
            difference = after - before
            variance = max(disagreement, abs(difference)) - difference**2
        return 100**2 * variance / self.images


def read(name: str, results: Path = RESULTS) -> list[dict[str, str]]:
    """Reads a table of `results`, a dictionary per row."""
    with open(results / name, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Writes a table in Markdown, figures to the right."""
    return table(header, rows, form="markdown") + "\n"


def stages(rows: Iterable[dict[str, str]], images: int) -> list[Change]:
    """Gives each stage's change from the stage before it, in the order of the file."""
    return [
        Change(
            f"{NETWORKS[after['model']]} after {NETWORKS[before['model']]}",
            float(before["top1_percent"]),
            float(after["top1_percent"]),
            images,
        )
        for before, after in itertools.pairwise(rows)
    ]


def baselines(rows: Iterable[dict[str, str]], images: int) -> list[Change]:
    """Compares the other two networks with ResNet-50."""
    resnet, *others = rows
    return [
        Change(
            f"{NETWORKS[other['model']]} - ResNet-50, {other['input_size']} px",
            float(resnet["top1_percent"]),
            float(other["top1_percent"]),
            images,
        )
        for other in others
    ]


def roadmap(rows: Sequence[dict[str, str]]) -> list[Change]:
    """Gives each step's change from the last step that the paper kept."""
    changes, kept = [], rows[0]
    for row in rows[1:]:
        changes.append(
            Change(
                f"{row['step']}: {row['change']}",
                float(kept["top1_in_paper_percent"]),
                float(row["top1_in_paper_percent"]),
                TEST_IMAGES["imagenet"],
                seeds=3,
                digits=2,
            )
        )
        if "(not kept)" not in row["change"]:
            kept = row
    return changes


def pooled_sd(rows: Sequence[dict[str, str]]) -> float:
    """The standard deviation between the paper's seeds, percent points, over all of its steps."""
    return math.sqrt(sum(float(row["top1_sd_in_paper_points"]) ** 2 for row in rows) / len(rows))


def verdict(change: Change, seed_sd: float) -> str:
    """Says whether a change exceeds noise under the strictest and the mildest of the assumptions."""
    if abs(change.points) - change.rounding > change.half_width(None, seed_sd):
        return "yes"
    single = change.seeds == 1
    least = change.half_width(min(DISAGREEMENTS)) if single else change.seeds_alone(seed_sd)
    if abs(change.points) + change.rounding > least:
        return "depends"
    return "no"


def change_table(changes: Iterable[Change], seed_sd: float) -> str:
    """Writes what each change is, and how wide its interval under each assumption."""
    header = [
        "comparison (reported)",
        "top-1 %",
        "change",
        "± images, independent",
        *(f"± images, {100 * part:.0f} % disagree" for part in DISAGREEMENTS),
        f"± seeds of {seed_sd:.2g}, these images",
        f"± {100 * min(DISAGREEMENTS):.0f} % and seeds of {seed_sd:.2g}",
        f"± independent and seeds of {seed_sd:.2g}",
        "seed SD it bears",
        "exceeds noise",
    ]
    return markdown(
        header,
        (
            [
                change.label,
                f"{change.before:.{change.digits}f} → {change.after:.{change.digits}f}",
                f"{change.points:+.{change.digits}f}",
                f"{change.half_width():.2f}",
                *(f"{change.half_width(part):.2f}" for part in DISAGREEMENTS),
                f"{change.seeds_alone(seed_sd):.2f}",
                f"{change.half_width(min(DISAGREEMENTS), seed_sd):.2f}",
                f"{change.half_width(None, seed_sd):.2f}",
                f"{change.largest_seed_sd():.2f} to {change.largest_seed_sd(min(DISAGREEMENTS)):.2f}",
                verdict(change, seed_sd),
            ]
            for change in changes
        ),
    )


def beside_table(results: Path, sd: float) -> str:
    """Writes the stages' changes on all data sets beside those between the paper's steps."""
    finetuned = reported_rows("finetune")
    paper = {int(row["step"]): row for row in read("paper_roadmap.csv", results)}
    columns = [
        stages(
            [paper_row(paper[step], model) for model, step in PAPER_STEPS.items()], TEST_IMAGES["imagenet"]
        ),
        stages(reported_rows("imagenet"), TEST_IMAGES["imagenet"]),
        *(stages([row for row in finetuned if row["dataset"] == data], TEST_IMAGES[data]) for data in TITLES),
    ]
    columns[0] = [replace(change, seeds=3, digits=2) for change in columns[0]]
    sds = (sd, sd, SEED_SD, SEED_SD)
    header = ["change (reported)", "paper, ImageNet 224 px", "ImageNet 112 px", *TITLES.values()]
    return markdown(
        header,
        (
            [changes[0].label, *(interval(each, sd) for each, sd in zip(changes, sds, strict=True))]
            for changes in zip(*columns, strict=True)
        ),
    )


def paper_row(row: dict[str, str], model: str) -> dict[str, str]:
    """Gives a step of the paper as if it were the row of a model."""
    return {"model": model, "top1_percent": row["top1_in_paper_percent"]}


def interval(change: Change, seed_sd: float) -> str:
    """Writes a change with its widest interval."""
    half = change.half_width(None, seed_sd)
    return f"{change.points:+.{change.digits}f} [{change.points - half:+.2f}, {change.points + half:+.2f}]"


TITLES = {"cub200": "CUB-200-2011", "stanford_dogs": "Stanford Dogs"}

INTRODUCTION = """\
# Reported figures, re-read with intervals

Written by `python benchmarks/reported_intervals.py`; don't edit. **Every accuracy here is reported by
others**: the 11785-FGVC project, and table 10 of the ConvNeXt paper (arXiv:2201.03545v2). None was measured
here. The intervals are computed here, under the assumptions below.

## What is known and what is assumed

Only accuracies are reported: not which images each network got right, and but for the paper's roadmap not
how much seeds differ. So no interval can be *the* interval. The tables show half of the width of a 95 %
interval, in points, under each of these:

- **images, independent**: as if the two networks had been tested on different images. Networks tested on the
  same images agree more than by chance, so this is an upper bound of the images' part.
- **images, {most} or {least} % disagree** (assumed): exactly one of the two networks is right on so many of
  the test images. Two networks of one family may well lie between; nobody reported it.
- **seeds of {seed_sd}** (assumed for CUB-200-2011 and Stanford Dogs): a network's top-1 has a standard
  deviation of {seed_sd} points between seeds. It has no source: the project ran one seed. It is what
  `study plan` assumes, too. For ImageNet it is {paper_sd:.3f} points, the root mean square of the 16 standard
  deviations (three seeds each) in the paper's table 10, of its own size and recipe; the figures at 112 px
  borrow it.
- **these images**: as if other images would show the same change, and only seeds were chance.
- **seed SD it bears**: the assumption turned around. Up to this standard deviation between seeds, in points,
  0 stays outside the 95 % interval: first with independent images, then with {least} % disagreement. 0.00
  says that images alone may explain the change.

A change **exceeds noise**: *yes*, if it does so under the widest interval shown (independent images and
seeds), after taking off what accuracies were rounded by; *no*, if it doesn't even under the narrowest
({least} % disagreement, seeds all alike); else it *depends* on what wasn't reported. Each comparison is
judged by itself, at 5 %. For the four steps of a data set together (Bonferroni) every ± is {bonferroni:.2f}
times as wide.

What no interval covers: the epoch was picked on the test set, which biases the project's figures upwards;
every network has one learning rate and one pre-training, so a change is of these as much as of the
component; Stanford Dogs' test images are in ImageNet. [README.md](README.md) has the rest.
"""


def report(results: Path = RESULTS) -> str:
    """Writes the whole text, from the tables in `results`."""
    paper, finetuned = read("paper_roadmap.csv", results), reported_rows("finetune")
    others = reported_rows("baselines")
    sd = pooled_sd(paper)
    bonferroni = float(special.ndtri(1 - 0.025 / 4)) / QUANTILE
    most, least = (f"{100 * part:.0f}" for part in DISAGREEMENTS)
    parts = [INTRODUCTION.format(most=most, least=least, seed_sd=SEED_SD, paper_sd=sd, bonferroni=bonferroni)]
    found: dict[str, list[Change]] = {}
    for data, title in TITLES.items():
        changes = stages([row for row in finetuned if row["dataset"] == data], TEST_IMAGES[data])
        found[title] = changes
        parts += [
            f"## {title}: {TEST_IMAGES[data]:,} test images, one run each\n",
            change_table(changes, SEED_SD),
        ]
    summary = [sentence(title, changes) for title, changes in found.items()]
    parts.insert(1, "## Which reported steps exceed the noise of one run?\n\n" + "\n".join(summary) + "\n")
    parts += ["## The five stages beside the paper's steps\n", BESIDE, beside_table(results, sd)]
    imagenet = stages(reported_rows("imagenet"), TEST_IMAGES["imagenet"])
    parts += ["## ImageNet at 112 px: 50,000 images, one run each\n", change_table(imagenet, sd)]
    parts += ["## The paper's roadmap: ImageNet at 224 px, means of three seeds\n", ROADMAP]
    parts += [change_table(roadmap(paper), sd)]
    parts.append("## Other networks after the same fine-tuning, one run each\n")
    for data, title in TITLES.items():
        rows = [row for row in others if row["dataset"] == data]
        sizes = sorted({int(row["input_size"]) for row in rows})
        changes = [
            change
            for size in sizes
            for change in baselines(
                [row for row in rows if int(row["input_size"]) == size], TEST_IMAGES[data]
            )
        ]
        parts += [f"### {title}\n", change_table(changes, SEED_SD)]
    return "\n".join(parts)


BESIDE = f"""\
Changes in points with the widest of their intervals: independent images, and seeds that differ as assumed
above. In the paper's roadmap Model I is step 0, II step 4, III step 5, IV step 8 and V step 15 by what the
networks are; Models III and IV change resolution otherwise than the paper's steps do. Read columns side by
side for direction only: size, recipe and data differ. CUB-200-2011 and Stanford Dogs assume seeds of
{SEED_SD} points.
"""

ROADMAP = """\
Each step is compared with the last one that was kept. The paper's standard deviations are those of three
seeds on the same images. Of means over three seeds images make less than the columns say, which are for
single runs, and nobody reported how much less: *no* here is a change that seeds alone may explain, and
*depends* one that they don't, but images might.
"""


def sentence(title: str, changes: Sequence[Change]) -> str:
    """Says which changes exceed the noise."""
    by_verdict = {
        word: [
            f"{change.label} ({change.points:+.1f})" for change in changes if verdict(change, SEED_SD) == word
        ]
        for word in ("yes", "depends", "no")
    }
    listed = {word: ", ".join(names) or "none" for word, names in by_verdict.items()}
    return (
        f"- **{title}** ({changes[0].images:,} images). Yes: {listed['yes']}. "
        f"Depends on what wasn't reported: {listed['depends']}. No: {listed['no']}."
    )


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS / "reported.md")
    write_text(parser.parse_args().output, report())


if __name__ == "__main__":
    main()
