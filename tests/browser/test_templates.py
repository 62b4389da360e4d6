"""Every workflow as people meet it: opened from the template browser, or by the link of its help
page; run; its result looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ale_edit.editors import EDITORS
from ale_edit.tests.browser.front_end import FrontEnd, Run
from ale_edit.tests.browser.thumbnails import SHOWN, card, save_card, save_small
from ale_edit.tests.workflows.graphs import (
    NAMES,
    NEED_CHECKPOINT,
    NEED_FILES,
    NEED_PAINT,
    NOTES,
    QUICK,
    ROOT,
    Json,
    inputs_of,
    picture_path,
    read_api,
    read_ui,
)

TITLE_HEIGHT = 30
SAMPLING = ("KSampler", "SamplerCustom", "SamplerCustomAdvanced")
SAMPLING += tuple(editor.node_id for editor in EDITORS)
SHOWING = ("SaveImage", "PreviewImage", "MaskPreview", "PreviewAny", "ALERegions")
DRAWN = "ale_edit_drawn_masks"  # test_mask_editor.py draws and runs it
IN_DOCS = ("ale_edit", "ale_edit_one_node", "ale_edit_lcm_lora")

INPUTS = {  # of every node class in a workflow
    class_type: {entry for entry, _, _ in inputs_of(class_type)}
    for class_type in {node["class_type"] for name in NAMES for node in read_api(name).values()}
}


def check_opened_whole(front_end: FrontEnd, name: str) -> None:
    """Every node and widget of the file is there, with its value, and nothing is cut off."""
    nodes, ui = front_end.nodes(), read_ui(name)
    assert sorted(node["type"] for node in nodes) == sorted(n["type"] for n in ui["nodes"])
    assert not [node["type"] for node in nodes if not node["is_known"]]
    for node in nodes:
        assert set(node["awaited"]) <= set(node["widgets"]), node["title"]
        assert not node["unlisted"], (node["title"], "has a value that its list does not hold")
        saved = next(n["size"] for n in ui["nodes"] if str(n["id"]) == node["id"])
        assert node["size"] == pytest.approx(saved, abs=1), (node["title"], "had to grow")
    prompt = front_end.prompt()
    for node in prompt.values():  # the page gives some stock nodes a widget that is its own
        known = INPUTS[node["class_type"]]
        node["inputs"] = {key: value for key, value in node["inputs"].items() if key in known}
    assert prompt == read_api(name)
    check_places(front_end)
    assert not front_end.dialog().count() and not front_end.has_error_card()
    assert not front_end.errors


def check_places(front_end: FrontEnd) -> None:
    """No node covers another, and each stands inside one group, live previews included."""
    boxes = {n["title"]: _box(n) for n in front_end.nodes()}
    titles = list(boxes)
    for i, title in enumerate(titles):
        covered = [other for other in titles[i + 1 :] if _overlap(boxes[title], boxes[other])]
        assert not covered, (title, covered)
    groups = [(x, y, x + width, y + height) for x, y, width, height in front_end.groups()]
    for node in front_end.nodes():
        if node["type"] not in NOTES:
            assert sum(_inside(boxes[node["title"]], group) for group in groups) == 1, node["title"]


def check_run(front_end: FrontEnd, run: Run) -> None:
    """Progress and previews came, and every node that shows something shows a real picture."""
    assert run.error is None, run.error["exception_message"]
    assert not front_end.dialog().count() and not front_end.has_error_card()
    nodes = front_end.nodes()
    if any(node["type"] in SAMPLING for node in nodes):
        values = [value for value, maximum in run.steps if maximum > 1]
        last = run.steps[-1]
        assert len(values) > 3 and min(values) <= 1 and last[0] == last[1]
        assert len(run.previews) >= len(set(values)) and min(run.previews) > 1000
    showing = [node for node in nodes if node["type"] in SHOWING]
    assert {node["id"] for node in showing} <= set(run.finished)
    for node in showing:
        if node["type"] == "PreviewAny":
            continue
        assert node["pictures"], node["title"]
        for (_, width), picture in zip(
            node["pictures"], front_end.pictures(node["title"]), strict=True
        ):
            assert width > 0  # the page has loaded it
            assert np.asarray(picture).std() > 5, f"{node['title']} is one flat colour"
    check_places(front_end)
    assert not front_end.errors


def fill_in_demo_edit(front_end: FrontEnd, edit: str) -> None:
    """The demo world's words and settings, for a workflow that is made for a checkpoint."""
    front_end.use_demo_model()
    words = (
        ("pink-colored box", "purple-colored box"),
        ("red-colored star", "yellow-colored star"),
    )
    for number, (source, target) in enumerate(words, 1):
        front_end.set_widget(f"Edit {number}", "source", source)
        front_end.set_widget(f"Edit {number}", "target", target)
    guider = "ALE Edit" if edit == "ALE Edit" else "Two-Branch Guider"
    front_end.set_widget(guider, "source_guidance", 3.0)
    front_end.set_widget(guider, "target_guidance", 5.0)
    front_end.set_widget(edit, "edit_type", "color")


def save_pictures(front_end: FrontEnd, name: str, graph: Image.Image, folder: Path) -> None:
    pictures = [(title, front_end.pictures(title)[0]) for title in SHOWN[name]]
    save_card(folder / picture_path(name).relative_to(ROOT), card(pictures, graph))
    if name in IN_DOCS:
        save_small(folder / "docs" / "images" / f"graph_{name}.jpg", graph)


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_opens_runs_and_shows_its_result(
    name: str, front_end: FrontEnd, screenshots: Path
) -> None:
    front_end.open_workflow(name)
    check_opened_whole(front_end, name)
    shot = screenshots / "output" / "screenshots" / f"{name}.png"
    if name == DRAWN:
        return
    if name in NEED_FILES + NEED_PAINT:  # they run in tests/server
        alone = card([], front_end.shoot_graph(shot))  # without a picture of what no model made
        save_card(screenshots / picture_path(name).relative_to(ROOT), alone)
        return
    if name in NEED_CHECKPOINT:
        graph = front_end.shoot_graph(shot)  # as it is, with its checkpoint
        fill_in_demo_edit(front_end, "Self-Attention Injection")
        check_run(front_end, front_end.run())
    else:
        for title, inputs in QUICK.get(name, {}).items():
            for entry, value in inputs.items():
                front_end.set_widget(title, entry, value)
        check_run(front_end, front_end.run())
        graph = front_end.shoot_graph(shot)
    save_pictures(front_end, name, graph, screenshots)


def _box(node: Json) -> tuple[float, float, float, float]:
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE_HEIGHT, x + width, y + height


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _inside(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return b[0] <= a[0] and b[1] <= a[1] and a[2] <= b[2] and a[3] <= b[3]
