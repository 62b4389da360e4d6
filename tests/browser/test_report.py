"""The bench's report in a real browser: no network, no sideways scrolling, all pictures there."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ale_edit.bench import demo_bench

DESKTOP, PHONE = {"width": 1100, "height": 1180}, {"width": 390, "height": 1180}


@pytest.fixture(scope="module")
def report(comfyui: Any, request: pytest.FixtureRequest, tmp_path_factory) -> Path:
    """Of a small demo bench, the last of whose edits has two objects; with --screenshots of the 15
    edits that docs/images shows."""
    out = tmp_path_factory.mktemp("bench")
    edits = "15" if request.config.getoption("--screenshots") else "6"
    argv = ["--edits", edits, "--methods", "naive", "ale", "--server", comfyui.url]
    with ThreadPoolExecutor(1) as pool:  # this thread may have the browser's event loop already
        assert pool.submit(demo_bench.main, [*argv, "--out", str(out)]).result() == 0
    return out / "demo.html"


@pytest.fixture(params=[DESKTOP, PHONE], ids=["desktop", "phone"])
def page(browser: Any, report: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    page = browser.new_page(viewport=request.param)
    page.troubles = []
    page.on("pageerror", lambda error: page.troubles.append(str(error)))
    page.on("console", lambda message: page.troubles.append(message.text))
    page.on(
        "request",
        lambda r: None if r.url.startswith(("file:", "data:")) else page.troubles.append(r.url),
    )
    page.goto(report.as_uri())
    yield page
    page.close()


def test_it_opens_without_any_network_or_error(page):
    page.wait_for_load_state("networkidle")
    assert not page.troubles
    assert page.title() == "ALE-Edit on the demo bench"


def test_nothing_but_tables_scrolls_sideways(page):
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    boxes = page.evaluate(
        "[...document.querySelectorAll('.wide')].map(b => [b.clientWidth, b.scrollWidth])"
    )
    assert max(inner - outer for outer, inner in boxes) > 0  # the large tables do, inside


def test_what_scrolls_shows_that_there_is_more(page):
    """A shadow at the right edge, which is gone at the end."""
    box = next(
        b for b in page.query_selector_all(".wide")
        if b.evaluate("b => b.scrollWidth > b.clientWidth")
    )  # fmt: skip

    def at_the_edge(scrolled: str) -> float:
        box.evaluate(f"b => b.scrollLeft = {scrolled}")
        shot = Image.open(io.BytesIO(box.screenshot())).convert("L")
        return float(np.median(np.asarray(shot)[:, -4]))

    assert at_the_edge("0") < 225 and at_the_edge("b.scrollWidth") > 245


def test_names_of_rows_and_their_heading_stay_where_a_table_is_scrolled(page):
    firsts = """[...document.querySelectorAll('.wide')].map(b => { b.scrollLeft = 150;
        const left = b.getBoundingClientRect().left;
        return [...b.querySelectorAll('tr > :first-child')].map(c => [
            c.getBoundingClientRect().left - left,
            getComputedStyle(c).backgroundColor,
            getComputedStyle(c).borderRightWidth])})"""
    for left, background, border in (cell for cells in page.evaluate(firsts) for cell in cells):
        assert abs(left) < 1 and background == "rgb(255, 255, 255)" and border == "1px"


def test_every_picture_and_plot_is_drawn(page):
    sizes = page.evaluate(
        "[...document.images].map(i => [i.naturalWidth, i.getBoundingClientRect().width])"
    )
    assert len(sizes) >= 2 * 4
    assert all(natural >= 128 and shown >= 100 for natural, shown in sizes)
    plots = page.evaluate(
        "[...document.querySelectorAll('svg')].map(s => s.getBoundingClientRect().width)"
    )
    assert plots and min(plots) >= 300
    marks = page.evaluate(
        "[...document.querySelectorAll('svg circle')].map(c => {"
        "const p = c.getBoundingClientRect(), s = c.closest('svg').getBoundingClientRect();"
        "return p.left >= s.left && p.right <= s.right && p.top >= s.top && p.bottom <= s.bottom})"
    )
    assert len(marks) >= 2 and all(marks)


def test_text_is_large_enough_to_be_read(page):
    sizes = page.evaluate(
        "[...document.querySelectorAll('p,li,td,th,figcaption,dd')]"
        ".map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(sizes) >= 12


def test_the_picture_of_the_docs(browser, report, screenshots):
    """The top on a desktop, the pictures on a phone."""
    shots = []
    for view, place in ((DESKTOP, "h1"), (PHONE, "section")):
        page = browser.new_page(viewport=view)
        page.goto(report.as_uri())
        page.evaluate(f"document.querySelector('{place}').scrollIntoView()")
        shots.append(Image.open(io.BytesIO(page.screenshot())).convert("RGB"))
        page.close()
    gap = 24
    width = sum(shot.width for shot in shots) + gap
    sheet = Image.new("RGB", (width, shots[0].height), "#888888")
    sheet.paste(shots[0], (0, 0))
    sheet.paste(shots[1], (shots[0].width + gap, 0))
    path = screenshots / "docs" / "images" / "report.jpg"
    small = (sheet.width * 4 // 5, sheet.height * 4 // 5)
    sheet.resize(small, Image.Resampling.LANCZOS).save(path, quality=60, optimize=True)
    assert path.stat().st_size < 150_000
