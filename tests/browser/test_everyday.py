"""What people look at besides the result: help pages, errors, the picture of the regions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from ale_edit.tests.browser.front_end import PACK, START_MS, FrontEnd
from ale_edit.tests.browser.thumbnails import save_small
from ale_edit.tests.nodes.test_help_pages import PAGES, SECTIONS
from ale_edit.tests.versions import PAGE
from ale_edit.tests.workflows.graphs import our_nodes, read_ui

if TYPE_CHECKING:
    from playwright.sync_api import Locator

NEW_NODE = """async type => {
    app.graph.clear()
    const node = LiteGraph.createNode(type)
    node.pos = [600, 300]
    app.graph.add(node)
    return node.title
}"""
CUT_LINK = """([title, input]) => {
    const node = app.graph._nodes.find(node => node.title === title)
    node.disconnectInput(node.inputs.findIndex(entry => entry.name === input))
}"""


@pytest.fixture
def shots(screenshots: Path) -> Path:
    return screenshots / "output" / "screenshots"


def keep(shot: Path, screenshots: Path, box: tuple[int, int, int, int] | None = None) -> None:
    picture = Image.open(shot)
    save_small(
        screenshots / "docs" / "images" / f"{shot.stem}.jpg", picture.crop(box) if box else picture
    )


def test_the_template_browser_shows_every_card(
    front_end: FrontEnd, shots: Path, screenshots: Path
) -> None:
    front_end.browse_templates()
    front_end.settle(2000)
    cards = front_end.page.get_by_test_id("template-workflows-content").locator("img")
    cards.last.scroll_into_view_if_needed()
    front_end.settle(1500)
    widths = cards.evaluate_all("cards => cards.map(card => card.naturalWidth)")
    assert widths and min(widths) >= 400
    cards.first.scroll_into_view_if_needed()
    front_end.settle()
    front_end.shoot(shots / "template_browser.png")
    keep(shots / "template_browser.png", screenshots)
    assert not front_end.errors


def test_the_first_start_leads_to_the_packs_templates(browser: Any, comfyui: Any) -> None:
    """The front end opens its template browser by itself, of which 1.49.6 says "No templates found"
    until an entry of its left column is chosen (without the pack too); ours is the last one."""
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    page.request.post(f"{comfyui.url}/settings", data={"Comfy.TutorialCompleted": False})
    page.goto(comfyui.url)
    page.locator(PAGE.dialog).wait_for(timeout=START_MS)
    page.get_by_text(PACK, exact=True).click()
    page.get_by_test_id("template-workflow-ale_edit").wait_for()
    page.close()


def open_help(front_end: FrontEnd, node_id: str) -> Locator:
    """The panel with the help page of a new node."""
    title = front_end.page.evaluate(NEW_NODE, node_id)
    front_end.select(title)
    front_end.page.get_by_test_id("info-button").click()
    panel = front_end.page.locator(PAGE.help_panel).last
    panel.get_by_role("heading", name=SECTIONS[-1]).wait_for()
    return panel


@pytest.mark.parametrize("node_id", sorted(our_nodes()))
def test_the_help_panel_shows_our_page(
    node_id: str, front_end: FrontEnd, shots: Path, screenshots: Path
) -> None:
    panel = open_help(front_end, node_id)
    page = (PAGES / f"{node_id}.md").read_text(encoding="utf-8")
    headings = panel.locator("h2").all_inner_texts()
    assert [heading.strip() for heading in headings] == SECTIONS
    assert panel.locator("table").count() == len(re.findall(r"^\|---", page, re.MULTILINE))
    shown = panel.inner_text()
    assert not {"](", "**", "|--"} & {mark for mark in ("](", "**", "|--") if mark in shown}
    if node_id == "ALERegionCrossAttention":
        front_end.shoot(shots / "help_panel.png")
        keep(shots / "help_panel.png", screenshots, PAGE.help_picture)
    assert not front_end.errors


def test_the_link_of_a_help_page_opens_its_workflow_when_it_is_dragged_onto_the_canvas(
    front_end: FrontEnd,
) -> None:
    link = open_help(front_end, "ALEMasaCtrl").get_by_role("link", name="masactrl")
    front_end.drag_onto_canvas(link)
    opened = sorted(node["type"] for node in front_end.nodes())
    assert opened == sorted(node["type"] for node in read_ui("masactrl")["nodes"])
    assert not front_end.errors


def test_an_edit_without_an_arrow_is_a_readable_error(
    front_end: FrontEnd, shots: Path, screenshots: Path
) -> None:
    front_end.open_workflow("edit_list")
    front_end.page.locator("textarea").filter(visible=True).last.fill("a box that becomes purple")
    run = front_end.run()
    assert run.error is not None and run.error["node_type"] == "ALEEditList"
    said = front_end.error_text().split("## Stack Trace")[0]  # 1.49.6 puts its whole report there
    assert "Edit List" in said and "line 1 of the text" in said
    assert '"a box that becomes purple", has no "->"' in said
    assert 'Write each edit on a line of its own as "wolf -> brown-colored goat"' in said
    assert "Traceback" not in said
    front_end.shoot(shots / "error.png")
    keep(shots / "error.png", screenshots)


def test_a_missing_link_names_its_node_and_input(front_end: FrontEnd) -> None:
    front_end.open_workflow("edit_list")
    front_end.page.evaluate(CUT_LINK, ["Regions", "edits"])
    front_end.run()
    said = front_end.error_text()
    assert PAGE.missing_link in said and "Regions" in said and "edits" in said
    front_end.close_dialogs()
    assert front_end.node("Regions")["is_red"]
    assert not front_end.node("Edit List")["is_red"]


def test_the_node_shows_the_regions_of_a_small_image_magnified(
    front_end: FrontEnd, screenshots: Path
) -> None:
    front_end.open_workflow("regions")
    front_end.run()
    picture = front_end.pictures("Regions")[0]
    assert picture.height >= 512 > front_end.pictures("Background mask")[0].height
    picture.save(screenshots / "docs" / "images" / "regions_preview.png", optimize=True)
