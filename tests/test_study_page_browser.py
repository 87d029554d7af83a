"""The page of a study in a browser: it sorts, it loads, it complains of nothing, and anyone can read it."""

import importlib.util
import io
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from fake_study import again, fake_study, several_sets
from PIL import Image

from convnext_ablation.study.report.charts import charts
from convnext_ablation.study.report.html_page import write_page
from convnext_ablation.study.report.whole import report_of

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
SIZES = [(360, "dark"), (1280, "light")]


def axe_script():
    """axe-core's source: what AXE_JS names, or from the package axe-playwright-python; None without."""
    if "AXE_JS" in os.environ:
        return Path(os.environ["AXE_JS"]).read_text("utf-8")
    found = importlib.util.find_spec("axe_playwright_python")
    return (Path(found.origin).parent / "axe.min.js").read_text("utf-8") if found else None


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def pages(study, tmp_path_factory):
    """The page of a study, of an experiment on three data sets, and of a study of sixteen networks."""
    reports = {"several": several_sets(study, tmp_path_factory.mktemp("several"))}
    many = fake_study(tmp_path_factory.mktemp("many"), networks=16, epochs=1)
    many.folder.mkdir()
    reports["many"] = report_of(many)
    written = {name: write_page(report, charts(report)) for name, report in reports.items()}
    return {"one": study.folder / "index.html", **written}


@pytest.fixture
def opened(browser, study):
    """Opens the study's page, or another, in a window of a size, in the light or in the dark."""
    contexts = []

    def open_page(width=1280, scheme="light", path=study.folder / "index.html"):
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme))
        page = contexts[-1].new_page()
        page.complaints, page.fetched = [], []
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("request", lambda request: page.fetched.append(request.url))
        page.goto(path.as_uri())
        drawn = page.locator(".chart svg")
        drawn.nth(page.locator(".chart").count() - 1).wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()


EVERY = pytest.mark.parametrize(
    ("name", "width", "scheme"), [(n, *size) for n in ("one", "several") for size in SIZES]
)


@EVERY
def test_the_page_loads_whole_and_without_complaint(opened, pages, name, width, scheme):
    page = opened(width, scheme, pages[name])
    assert page.complaints == []
    assert [url for url in page.fetched if not url.startswith("data:")] == [pages[name].as_uri()]
    images = page.evaluate("[...document.images].map((each) => each.complete && each.naturalWidth)")
    assert all(images)
    assert (len(images) > 4) == (name == "one")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    dark = scheme == "dark"
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(13, 17, 23)" if dark else "rgb(255, 255, 255)")
    look = page.evaluate("getComputedStyle(document.querySelector('.chart svg')).filter")
    assert look == ("invert(0.94) hue-rotate(180deg)" if dark else "none")


@pytest.mark.parametrize("name", ["one", "several", "many"])
@pytest.mark.parametrize(("width", "scheme"), SIZES)
def test_the_first_screen_has_question_answer_and_effects(opened, pages, name, width, scheme):
    page = opened(width, scheme, pages[name])
    for found in ("h1", ".question", ".answer", ".chart svg"):
        box = page.locator(found).first.bounding_box()
        assert box["y"] >= 0, found
        assert box["y"] + box["height"] <= 800, found
        assert box["x"] + box["width"] <= width, found
    assert len(page.locator(".answer").first.inner_text().split()) <= 25
    shown = Image.open(io.BytesIO(page.screenshot(clip=box))).convert("L")
    assert min(shown.getcolors(), key=lambda each: each[1])[1] < 60 < 200 < shown.getextrema()[1], (
        "it is drawn"
    )


@EVERY
def test_no_name_in_a_chart_is_cut(opened, pages, name, width, scheme):
    outside = """(chart) => {
        const frame = chart.querySelector("svg").getBoundingClientRect();
        return [...chart.querySelectorAll("svg text")].filter((each) => {
            const box = each.getBoundingClientRect();
            return box.left < frame.left - 1 || box.right > frame.right + 1 || each.textContent.includes("…");
        }).map((each) => each.textContent);
    }"""
    for chart in opened(width, scheme, pages[name]).locator(".chart").all():
        assert chart.evaluate(outside) == []


def test_paper_has_the_charts_as_wide_as_it_is_and_nothing_to_press(opened, pages):
    page = opened(800, path=pages["several"])
    page.emulate_media(media="print")
    boxes = [chart.bounding_box() for chart in page.locator(".chart svg").all()]
    assert len(boxes) > 2
    assert max(box["x"] + box["width"] for box in boxes) <= 800
    assert not page.get_by_role("navigation").is_visible()
    assert not page.get_by_label("Order").is_visible()


def test_a_hover_names_the_run_and_data_sets_can_be_left_out(opened, pages):
    page = opened(path=pages["several"])
    effects = page.locator(".chart").first
    assert effects.get_by_text("cub200", exact=True).count() == 2  # above its panel, and beside its box
    effects.get_by_label("cub200", exact=True).uncheck()
    effects.locator("svg").get_by_text("cub200", exact=True).wait_for(state="detached")
    effects.get_by_label("Order").select_option("largest effect first")
    assert page.complaints == []
    run = page.locator("[data-chart=roadmap] path[stroke='#0072B2']").first
    run.scroll_into_view_if_needed()
    run.hover(force=True)
    page.wait_for_selector("#vg-tooltip-element.visible")
    assert "seed" in page.locator("#vg-tooltip-element").inner_text()


def column(page, heading):
    """How the first table is sorted by a column, and its cells."""
    table = page.locator("table.sortable").first
    names = [each.split(" ↕")[0] for each in table.locator("thead th").all_inner_texts()]
    place = names.index(heading)
    cells = table.locator("tbody tr").locator(f":nth-child({place + 1})").all_inner_texts()
    return table.locator("thead th").nth(place).get_attribute("aria-sort"), cells


def test_tables_sort_by_click_and_by_keyboard(opened, study):
    page = opened()
    heading = "top-1 % [95 %]"
    assert column(page, heading)[0] == "none"
    tops = [f"{100 * row.top1.estimate:.2f}" for row in study.findings.rows]
    for direction, expected in (("ascending", sorted(tops)), ("descending", sorted(tops)[::-1])):
        page.get_by_role("button", name=heading).first.click()
        sort, cells = column(page, heading)
        assert (sort, [cell.split()[0] for cell in cells]) == (direction, expected)
    said = "Networks, with 95 % intervals of top-1 (networks.csv): sorted by top-1 % [95 %], descending"
    assert page.get_by_role("status").text_content() == said
    page.get_by_role("button", name="network").first.focus()
    page.keyboard.press("Enter")
    assert column(page, heading)[0] == "none"
    assert column(page, "network") == ("ascending", ["Model 0", "Model 1", "Model 2"])


def test_what_is_not_known_is_sorted_last(opened):
    page = opened()
    first = page.locator("table.sortable").first
    first.locator("tbody td[data-value]").first.evaluate("(cell) => { cell.dataset.value = 'nan' }")
    for _ in range(2):
        first.get_by_role("button", name="runs").click()
        assert column(page, "network")[1][-1] == "Model 0"


@EVERY
def test_axe_finds_nothing_amiss(opened, pages, name, width, scheme):
    script = axe_script()
    if script is None:
        pytest.skip("axe-core is not there: name its axe.min.js in AXE_JS")
    page = opened(width, scheme, pages[name])
    page.evaluate(script)
    passes, violations = page.evaluate(
        "axe.run(document, {resultTypes: ['violations']}).then((result) => [result.passes.length, "
        "result.violations.map((each) => [each.id, each.nodes[0].html, each.nodes[0].failureSummary])])"
    )
    assert violations == []
    assert passes > 20, "it has looked"


def test_long_names_in_running_text_make_no_page_wider_than_the_screen(opened, study, tmp_path):
    caveat = "WARNING: for convnext_tiny_without_spatial_convolution_moved_up_atto (0.008)"
    again(study, tmp_path, facts=replace(study.facts, warnings=[caveat]))
    page = opened(360, path=tmp_path / "index.html")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
