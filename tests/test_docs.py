"""README and docs: short, in short sentences, and true."""

import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import yaml

from convnext_ablation import __version__

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG")),
    *sorted(ROOT.glob("docs/*.md")),
]
CHECKED = [*PAGES, ROOT / "results" / "README.md"]  # its commands aren't run
FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.M | re.S)


def sentences(text: str) -> Iterator[str]:
    """Those of a page's paragraphs and lists; inline code counts as one word, tables and headings as none."""
    text = FENCED.sub("", text)
    text = re.sub(r"^(?: {4}|\||#|:::).*$", "", text, flags=re.M)
    text = re.sub(r"`[^`]+`", "code", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    for paragraph in re.split(r"\n\s*\n|^ *(?:[-*]|\d+\.) ", text, flags=re.M):
        yield from filter(None, re.split(r"(?<=[.!?])[*)\"]*\s+", " ".join(paragraph.split())))


def test_sentences_are_short():
    lengths = {
        sentence: len(sentence.split()) for page in CHECKED for sentence in sentences(page.read_text())
    }
    assert len(lengths) > 500
    assert statistics.median(lengths.values()) <= 18
    assert {sentence: words for sentence, words in lengths.items() if words > 25} == {}


def test_lines_are_short_and_tables_are_tables():
    for page in CHECKED:
        for line in FENCED.sub("", page.read_text()).splitlines():
            assert len(line) <= 120 or line.startswith(("|", "![")), (page.name, line)
            assert "|---" not in line.lstrip("|-: "), (page.name, line)


def test_what_counts_as_a_sentence():
    text = "# Title\n\nOne `a b.c d` [two](x.md). Three\nfour!\n\n- Five.\n\n```bash\nsix. 7\n```\n|8.|\n"
    assert list(sentences(text)) == ["One code two.", "Three four!", "Five."]


def test_files_that_are_named_exist():
    package = ROOT / "convnext_ablation"
    folders = "|".join(
        [package.name, "tests", "docs", "results", *(path.parent.name for path in package.glob("*/*.py"))]
    )
    for page in PAGES:
        names = re.findall(rf"`((?:{folders})/[\w/.-]+\.(?:py|md|yaml|csv))`", page.read_text())
        gone = [name for name in names if not (ROOT / name).exists() and not (package / name).exists()]
        assert [name for name in gone if "NAME" not in name] == [], page.name


def test_the_readme_takes_two_screens():
    assert len((ROOT / "README.md").read_text().split()) <= 900


def test_citation_and_changelog_are_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    headings = re.findall(r"^## (.*)", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)
    assert citation["version"] == __version__
    assert headings[:2] == ["Unreleased", f"{__version__} ({citation['date-released']})"]
