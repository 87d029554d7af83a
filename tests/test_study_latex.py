"""A report for a paper: tables in LaTeX and figures in PDF, whatever networks and classes are called."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import latex
import pytest
from fake_study import csv_lines, svg_texts, write_all

from convnext_ablation.console import latex_text, table
from convnext_ablation.study.report.findings import compare
from convnext_ablation.study.report.table_files import terminal
from convnext_ablation.study.report.whole import report_of

HOSTILE = r"\input{/etc/passwd} 100% $x_1^2$ & {#1} ~<b>|"


@pytest.fixture(scope="module")
def hostile(study, tmp_path_factory):
    """The report of a study whose networks, effects and classes have names that would do harm."""
    findings, evidence = study.findings, study.evidence
    networks = [replace(row.network, label=f"{row.label} {HOSTILE}") for row in findings.rows]
    networks[0] = replace(networks[0], label="[1ex] * \x07 \n\n first", adds="$")
    contrasts = [replace(effect.contrast, label=f"*{HOSTILE}") for effect in findings.effects]
    classes = [f"{name} {HOSTILE}" for name in evidence.classes]
    folder = tmp_path_factory.mktemp("hostile") / "report"
    evidence = replace(evidence, classes=classes)
    facts = replace(study.facts, title=f"{HOSTILE} ![x](http://a)", notes=("<img src=x>\n# no heading",))
    findings = compare(networks, contrasts, facts.classes)
    contents = replace(study, folder=folder, facts=facts, findings=findings, evidence=evidence)
    write_all(contents)
    return contents


def read(contents, name):
    return (contents.folder / name).read_text(encoding="utf-8")


def test_the_tables_say_what_the_csv_files_say(study):
    head, *lines = latex.table_of(read(study, "networks.tex"))
    assert head[:4] == ["network", "adds", "runs", r"top-1 \% [95 \%]"]
    for line, row in zip(lines, csv_lines(study, "networks"), strict=True):
        low, high = (float(row[f"top1_{end}_percent"]) for end in ("low", "high"))
        assert line[:3] == [row["label"], row["adds"], row["runs"]]
        assert line[3] == f"{float(row['top1_percent']):.2f} [{low:.2f}, {high:.2f}]"
    _, *lines = latex.table_of(read(study, "effects.tex"))
    for line, row in zip(lines, csv_lines(study, "effects"), strict=True):
        estimate, low, high = (f"{float(row[f'{name}_points']):+.2f}" for name in ("estimate", "low", "high"))
        assert line[0] == row["label"]
        assert line[3] == f"{estimate} [{low}, {high}]".replace("-", "$-$")


def test_signs_are_typeset_and_names_keep_their_hyphens():
    text = table(["name", "points"], [["leave-one-out", "-1.5 [-2.0, +0.1]"], ["x", "–"]], form="latex")
    assert latex.table_of(text)[1:] == [["leave-one-out", "$-$1.5 [$-$2.0, +0.1]"], ["x", "--"]]
    assert latex_text("50 % of --x_y") == r"50 \% of -{}-x\_y"


def test_names_are_text_in_every_format(hostile):
    networks, effects = (
        latex.table_of(read(hostile, "networks.tex")),
        latex.table_of(read(hostile, "effects.tex")),
    )
    assert networks[1][:2] == ["{[}1ex] * ? first", r"\$"]
    assert r"\textbackslash{}input\{/etc/passwd\} 100\% \$x\_1\^{}2\$ \& \{\#1\}" in networks[2][0]
    assert effects[1][0].startswith(r"{*}\textbackslash{}input")
    assert r"| Model 1 \\input{/etc/passwd} 100% $x_1^2$ & {#1} ~\<b>\| |" in read(hostile, "table.md")
    text = read(hostile, "table.md")
    assert text.startswith("# \\input{/etc/passwd} 100% $x_1^2$ & {#1} ~\\<b>| ![x\\](http://a)\n\n")
    assert "\n- \\<img src=x> # no heading\n" in text
    assert not re.search(r"(?<!\\)(<[a-z/!?]|\]\((?!roadmap[.]svg))", text, re.IGNORECASE)
    printed = terminal(report_of(hostile), 200)
    assert all(character.isprintable() or character == "\n" for character in printed)
    words = svg_texts(hostile.folder / "effects.svg")
    assert any("$x_1^2$" in text for text in words), "as it is, not as a formula"
    for path in hostile.folder.glob("*.svg"):
        assert not ET.parse(path).findall(".//{*}b")


def test_a_table_without_rows_is_a_table_still():
    text = table(["effect", "points"], [], form="latex")
    assert latex.table_of(text) == [["effect", "points"], ["", ""]]


@pytest.mark.skipif(latex.PDFLATEX is None, reason="pdflatex is not installed")
def test_pdflatex_takes_tables_and_figures(study, hostile, tmp_path):
    tables = [read(each, name) for each in (study, hostile) for name in ("networks.tex", "effects.tex")]
    figures = [
        rf"\includegraphics[width=\linewidth]{{{path}}}"
        for each in (study, hostile)
        for path in sorted(each.folder.glob("*.pdf"))
    ]
    assert len(figures) == 8
    assert latex.compiled(tmp_path, *tables, *figures) == ""


def test_every_figure_is_a_pdf_too_without_date_or_program(study):
    names = {path.stem for path in study.folder.glob("*.svg")}
    assert {path.stem for path in study.folder.glob("*.pdf")} == names != set()
    for name in names:
        content = (study.folder / f"{name}.pdf").read_bytes()
        assert content.startswith(b"%PDF-")
        assert content.rstrip().endswith(b"%%EOF")
        for entry in (b"CreationDate", b"/Creator", b"/Producer", b"/Type3"):
            assert entry not in content
