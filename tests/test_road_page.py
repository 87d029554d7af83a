import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from convnext_ablation import roadpage
from convnext_ablation.models.components import ROADMAP, STAGES
from convnext_ablation.models.paper import REPORTED

DOCS = Path(__file__).parents[1] / "docs"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def pages():
    return roadpage.pages()


def test_the_committed_page_is_the_one_that_is_made(pages, tmp_path, monkeypatch):
    monkeypatch.setattr(roadpage, "pages", lambda: pages)
    roadpage.main(tmp_path)
    made = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    committed = {"road.md"} | {f"road/{path.name}" for path in (DOCS / "road").iterdir()}
    assert made == committed == set(pages)
    for name in pages:
        assert (DOCS / name).read_text("utf-8") == (tmp_path / name).read_text("utf-8"), (
            f"docs/{name} is out of date: python -m convnext_ablation.roadpage"
        )


def test_the_page_has_every_step_with_its_figures(pages):
    page = pages["road.md"]
    assert (
        "| [Step 5](#roadmap_05_inverted) | inverted bottleneck | 25,851,592 | 4.64 | 4.64 | 80.64 |" in page
    )
    assert "| [Model II](#model_ii) | stage ratio, patchify stem, depthwise, width " in page
    assert "| 33,761,128 | 5.27 | 5.27 | 80.50 |" in page
    assert (
        "| [Model IV](#model_iv) | depthwise moved up, kernel 7 | 28,229,800 | 4.57 | none | none |" in page
    )
    for name in (*ROADMAP, *STAGES):
        assert f"\n### {name}\n" in page
        assert f"](road/{name}.svg)" in page


def test_our_counts_are_the_papers(pages):
    rows = re.findall(r"\| \[Step (\d+)\].*\| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", pages["road.md"])
    assert [int(row[0]) for row in rows] == list(range(16))
    assert all(ours == paper for _, ours, paper, _ in rows)


def test_the_papers_figures_are_those_of_its_table():
    assert list(REPORTED) == list(ROADMAP)
    top1 = [row.top1 for row in REPORTED.values()]
    assert top1[:6] == [78.82, 79.36, 79.51, 78.28, 80.50, 80.64]
    assert top1[6:] == [79.92, 80.35, 80.57, 80.57, 80.47, 80.62, 81.27, 81.41, 81.47, 81.97]


def _changed(svg):
    return [text.text for text in ElementTree.fromstring(svg).iter(f"{SVG}text") if text.get("class") == "n"]


def test_a_diagram_marks_what_the_step_changes(pages):
    assert _changed(pages["road/roadmap_00_resnet50.svg"]) == []
    assert _changed(pages["road/roadmap_01_stage_ratio.svg"]) == ["3-3-9-3 blocks"]
    # kernel 9 and 11 are not kept: step 11 is compared with kernel 7
    assert _changed(pages["road/roadmap_11_gelu.svg"]) == ["GELU"] * 3
    assert "7x7 depthwise d" in _changed(pages["road/model_iv.svg"])


def test_a_diagram_shows_the_block_and_what_surrounds_it(pages):
    tree = ElementTree.fromstring(pages["road/roadmap_15_separate_downsampling.svg"])
    assert [text.text for text in tree.iter(f"{SVG}text")] == [
        *("stem", "4x4 3→96,", "stride 4, bias", "LayerNorm 96"),
        *("stages", "3-3-9-3 blocks", "d = 96, 192, 384, 768"),
        *("between stages", "LayerNorm d/2", "2x2 d/2→d,", "stride 2, bias"),
        *("first block of a stage", "7x7 depthwise d, bias"),
        *("head", "LayerNorm 768", "linear 768→1000"),
        *("conv1", "7x7 depthwise d, bias", "LayerNorm d"),
        *("conv2", "1x1 d→4d, bias", "GELU"),
        *("conv3", "1x1 4d→d, bias", "layer scale d"),
        *("+ shortcut", "no activation"),
    ]


def test_no_text_runs_out_of_its_box(pages):
    for name, svg in pages.items():
        if name.endswith(".svg"):
            texts = [text.text for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]
            assert max(map(len, texts)) <= 23, name  # of 12px in a box of 176px
