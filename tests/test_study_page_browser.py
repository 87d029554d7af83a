"""The page of a study in a browser: it sorts, it loads, it complains of nothing, and anyone can read it."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from pathlib import Path

import pytest
from chromium import Chromium, find_chromium
from fake_study import again

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium")
SIZES = [(360, False), (360, True), (1400, False), (1400, True)]


def axe_script():
    """axe-core's source: what AXE_JS names, or from the package axe-playwright-python; None without."""
    if "AXE_JS" in os.environ:
        return Path(os.environ["AXE_JS"]).read_text("utf-8")
    found = importlib.util.find_spec("axe_playwright_python")
    return (Path(found.origin).parent / "axe.min.js").read_text("utf-8") if found else None


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Chromium(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def opened(browser, study, width=1400, dark=False):
    browser.open(study.folder / "index.html", width=width, dark=dark)
    browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true })")
    return browser


@pytest.mark.parametrize(("width", "dark"), SIZES)
def test_the_page_loads_whole_and_without_complaint(browser, study, width, dark):
    opened(browser, study, width, dark)
    assert browser.complaints() == []
    assert browser.fetched() == [(study.folder / "index.html").as_uri()]
    images = browser.run("[...document.images].map((each) => each.complete && each.naturalWidth)")
    assert len(images) > 4
    assert all(images)
    assert browser.run("document.documentElement.scrollWidth") <= width
    background = browser.run("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")
    ink = browser.run("getComputedStyle(document.querySelector('#effects ~ figure text')).fill")
    assert ink == ("rgb(230, 237, 243)" if dark else "rgb(31, 35, 40)")


COLUMN = """(() => {{
  const table = document.querySelectorAll("table.sortable")[{table}];
  const cells = [...table.tBodies[0].rows].map((row) => row.cells[{column}].textContent);
  return [table.tHead.rows[0].cells[{column}].getAttribute("aria-sort"), cells];
}})()"""


def test_tables_sort_by_click(browser, study):
    opened(browser, study)
    heading = "document.querySelector('table.sortable').tHead.rows[0].cells[4].firstChild"
    assert browser.run(COLUMN.format(table=0, column=4))[0] == "none"
    tops = [f"{100 * row.top1.estimate:.2f}" for row in study.rows]
    for direction, expected in (("ascending", sorted(tops)), ("descending", sorted(tops)[::-1])):
        browser.run(f"{heading}.click()")
        sort, cells = browser.run(COLUMN.format(table=0, column=4))
        assert sort == direction
        assert [cell.split()[0] for cell in cells] == expected
    said = browser.run("document.querySelector('[role=status]').textContent")
    assert said == "Networks, with 95 % intervals of top-1 (networks.csv): sorted by top-1 %, descending"
    browser.run("document.querySelector('table.sortable').tHead.rows[0].cells[0].firstChild.click()")
    assert browser.run(COLUMN.format(table=0, column=4))[0] == "none"
    assert browser.run(COLUMN.format(table=0, column=0)) == ["ascending", ["Model 0", "Model 1", "Model 2"]]


def test_tables_sort_by_keyboard(browser, study):
    opened(browser, study)
    browser.run("document.querySelector('table.sortable').tHead.rows[0].cells[7].firstChild.focus()")
    browser.press("Enter", 13)
    sort, cells = browser.run(COLUMN.format(table=0, column=7))
    assert (sort, cells) == ("ascending", ["0.300", "0.400", "0.500"])


def test_what_is_not_known_is_sorted_last(browser, study):
    opened(browser, study)
    browser.run("document.querySelector('table.sortable').tBodies[0].rows[0].cells[4].dataset.value = 'nan'")
    for _ in range(2):
        browser.run("document.querySelector('table.sortable').tHead.rows[0].cells[4].firstChild.click()")
        cells = browser.run(COLUMN.format(table=0, column=0))[1]
        assert cells[-1] == "Model 0"


@pytest.mark.parametrize(("width", "dark"), SIZES)
def test_axe_finds_nothing_amiss(browser, study, width, dark):
    script = axe_script()
    if script is None:
        pytest.skip("axe-core is not there: name its axe.min.js in AXE_JS")
    opened(browser, study, width, dark)
    browser.run(script)
    found = browser.run(
        "axe.run(document, {resultTypes: ['violations']}).then((result) => [result.passes.length, "
        "result.violations.map((each) => [each.id, each.nodes[0].html, each.nodes[0].failureSummary])])"
    )
    assert found[1] == []
    assert found[0] > 20, "it has looked"


def test_long_names_in_running_text_make_no_page_wider_than_the_screen(browser, study, tmp_path):
    caveat = "for convnext_tiny_without_spatial_convolution_moved_up_atto (0.008)"
    again(study, tmp_path, extras=replace(study.extras, caveats=[caveat], warnings=[caveat]))
    browser.open(tmp_path / "index.html", width=360)
    assert browser.run("document.documentElement.scrollWidth") == 360
