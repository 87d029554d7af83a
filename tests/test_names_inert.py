"""Names of classes, images and networks are text, and nothing else, in pages, figures, tables and lists."""

import csv
import itertools
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from fake_study import fake_study, write_all, write_images
from official_archives import jpeg, write_folder
from page_reader import read

from convnext_ablation.data.audit import data_report
from convnext_ablation.data.folder import check_folder, read_manifest
from convnext_ablation.data.layout import list_split
from convnext_ablation.data.prepare import prepare, verify
from convnext_ablation.errors import UserError
from convnext_ablation.files import csv_cell, csv_text
from convnext_ablation.training.predictions import Predictions, excluded_ids, write_predictions

PLAIN = ["ash", "birch", "crow", "oak"]
HOSTILE = {
    "html": ["<script>alert(1)<", '"><svg onload=alert(1)>', "' onmouseover='x", "<img src=x onerror=y>"],
    "formulas": ['=HYPERLINK("http:x","y")', "+cmd|' C'!A0", "-2+3", "@SUM(1)"],
    "markup": ["]]>-->{{7*7}}{% x %}", "[x](javascript:y) `c`", "| $x_1^2$ &amp;", "javascript:alert(1)"],
}


def structure(path):
    """The tags of a page and the names of their attributes, without what they say."""
    reader, _ = read(path)
    return sorted((tag, sorted(attributes)) for tag, attributes in reader.tags)


def cells(path):
    with open(path, encoding="utf-8", newline="") as file:
        return [cell for row in csv.reader(file) for cell in row]


def no_formulas(folder):
    found = [cell for path in folder.glob("*.csv") for cell in cells(path)]
    assert len(found) > 20
    return [cell for cell in found if re.match(r"[=+\-@\t\r]", cell) and not re.match(r"[+-]?[\d.]+$", cell)]


def study_of(folder, names):
    """The report of a study in which everything is called so."""
    study = fake_study(folder)
    classes = dict(zip(study.evidence.classes, names, strict=True))
    ids = [f"{classes[id_.split('/')[0]]}/{id_.split('/')[1]}" for id_ in study.evidence.ids.tolist()]
    evidence = replace(study.evidence, classes=names, ids=np.array(ids))
    rows = [
        replace(row, network=replace(row.network, label=name, adds=name))
        for row, name in zip(study.findings.rows, names, strict=False)
    ]
    effects = [
        replace(each, contrast=replace(each.contrast, label=names[0])) for each in study.findings.effects
    ]
    findings = replace(study.findings, rows=rows, effects=effects)
    facts = replace(study.facts, title=names[1], data_name=names[2], notes=(names[0],), command=names[3])
    study = replace(study, evidence=evidence, findings=findings, facts=facts)
    write_images(evidence)
    write_all(study)
    return study.folder


def test_a_study_shows_names_as_they_are(tmp_path):
    plain = structure(study_of(tmp_path / "plain", PLAIN) / "index.html")
    for kind, names in HOSTILE.items():
        hostile = study_of(tmp_path / kind, names)
        assert structure(hostile / "index.html") == plain, kind
        assert no_formulas(hostile) == []
        figures = list(hostile.glob("*.svg"))
        assert figures
        for each in itertools.chain(*(ET.parse(figure).iter() for figure in figures)):
            assert each.tag.rpartition("}")[2] not in ("script", "foreignObject", "a", "img"), kind
            assert not [name for name in each.attrib if name.lower().startswith("on")], kind


def test_a_data_report_shows_names_as_they_are(tmp_path):
    structures = []
    for kind, names in {"plain": PLAIN, **HOSTILE}.items():
        files = {f"train/{name}/{at}.jpg": jpeg(at) for name in names for at in (0, 1)}
        files |= {f"test/{name}/x.jpg": jpeg(at) for at, name in enumerate(names)}
        data_report(write_folder(tmp_path / kind, files))
        report = tmp_path / kind / "report"
        structures.append(structure(report / "index.html"))
        assert structures[-1] == structures[0], kind
        assert no_formulas(report) == []
        assert set(names) <= set(map(csv_text, cells(report / "findings.csv")))


@pytest.mark.parametrize(
    "text",
    ["=1", "'=1", "''-x", "-", "-1.5", "-1e-05", "+.5", "-inf", "x", "", "'x", "@", "\tx", "-1 to 2", "=é"],
)
def test_a_cell_is_read_as_it_was_written_and_is_no_formula(text):
    cell = csv_cell(text)
    assert csv_text(cell) == text
    assert cell == text or re.match("''*[=+@\t-]", cell)
    assert (cell == text) == bool(re.fullmatch(r"-|[+-][\d.]+(e-05)?|-inf|x||'x", text))


def test_a_prepared_folder_and_a_list_of_images_keep_such_names(tmp_path):
    names = [*HOSTILE["formulas"], *HOSTILE["html"], "'=x"]
    files = {f"{name}/{name}{at}.jpg": jpeg(at) for name in names for at in range(3)}
    images, out = write_folder(tmp_path / "images", files), tmp_path / "out"
    prepare("folder", out, images=images, size=16, val=1, test=1)
    verify(out)
    records = read_manifest(out)
    assert {record.source for record in records} == set(files)
    assert {record.class_name for record in records} == set(names)
    assert no_formulas(out) == []
    ids = np.array([record.id.partition("/")[2] for record in records if record.split == "test"])
    tops = np.zeros((len(ids), 5), np.int64)
    predictions = Predictions(ids, tops[:, 0], tops, np.ones(len(ids), np.float32), 0.0)
    write_predictions(tmp_path / "p.csv", predictions)
    assert no_formulas(tmp_path) == []
    assert excluded_ids(tmp_path / "p.csv", ids.tolist(), str(out / "test"), "test") == set(ids.tolist())


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\u2028b", "a\x1b[2Jb", "a\x85b"])
def test_a_name_that_fits_no_line_is_refused_before_training(tmp_path, name):
    write_folder(tmp_path, {f"train/{name}/0.jpg": jpeg(0)})
    for look in (lambda: check_folder(tmp_path, ["train"]), lambda: list_split(tmp_path, "train")):
        with pytest.raises(UserError, match="has a control character or line separator in it") as error:
            look()
        assert str(error.value).isprintable()
