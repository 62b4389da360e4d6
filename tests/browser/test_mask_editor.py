"""Objects marked by hand in ComfyUI's mask editor, and the edit that follows from it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ale_edit.bench.demo_scenes import demo_input
from ale_edit.bench.main_job import to_tensor
from ale_edit.demo.judge import Judge
from ale_edit.tests.browser.front_end import FrontEnd
from ale_edit.tests.browser.test_templates import (
    DRAWN,
    check_run,
    fill_in_demo_edit,
    save_pictures,
)
from ale_edit.tests.browser.thumbnails import save_small

PAINTED = ("Image, object 1 painted", "Same image, object 2 painted")
CANVAS = "#maskEditorCanvasContainer canvas"
SAVE = re.compile(r"^\W*Save$")  # a front end may count its icon as a letter of the name


def paint(front_end: FrontEnd, title: str, mask: np.ndarray, shot: Path | None = None) -> None:
    """Open the mask editor on a node and brush along every few rows of the object."""
    front_end.select(title)
    page = front_end.page
    page.evaluate("app.extensionManager.command.execute('Comfy.MaskEditor.OpenMaskEditor')")
    page.locator(CANVAS).first.wait_for()
    front_end.settle(1500)
    box = page.locator(CANVAS).first.bounding_box()
    assert box is not None
    height, width = mask.shape
    for row in range(0, height, 4):
        columns = mask[row].nonzero()[0]
        if len(columns):
            y = box["y"] + (row + 0.5) * box["height"] / height
            ends = [box["x"] + (c + 0.5) * box["width"] / width for c in columns[[0, -1]]]
            page.mouse.move(ends[0], y)
            page.mouse.down()
            page.mouse.move(ends[1], y, steps=6)
            page.mouse.up()
    front_end.settle(500)
    if shot is not None:
        front_end.shoot(shot)
    front_end.dialog().get_by_role("button", name=SAVE).click()
    front_end.dialog().wait_for(state="detached")
    front_end.settle(1500)


def test_painted_objects_are_edited(front_end: FrontEnd, screenshots: Path) -> None:
    shots = screenshots / "output" / "screenshots"
    front_end.open_template(DRAWN)
    graph = front_end.shoot_graph(shots / f"{DRAWN}.png")
    fill_in_demo_edit(front_end, "ALE Edit")

    run = front_end.run()  # nothing is painted yet
    assert run.error is not None
    said = front_end.error_text()
    assert 'the mask of "pink-colored box" is empty' in said and "Edit Object" in said
    front_end.close_dialogs()
    front_end.errors.clear()

    source, edits = demo_input(0)
    for title, edit in zip(PAINTED, edits, strict=True):
        paint(front_end, title, np.asarray(edit.mask) > 127, shots / "mask_editor.png")
    check_run(front_end, front_end.run())
    save_pictures(front_end, DRAWN, graph, screenshots)
    editor = Image.open(shots / "mask_editor.png")
    save_small(screenshots / "docs" / "images" / "mask_editor.jpg", editor)

    edited = to_tensor(front_end.pictures("Edited image")[0])
    judge = Judge.load()
    for edit in edits:
        reading = judge.read(edited, to_tensor(edit.mask))
        assert edit.asked is not None and reading.agrees(edit.asked)
    far = torch.stack([to_tensor(edit.mask) for edit in edits]).amax(dim=0) == 0
    kept = (edited == to_tensor(source)).all(dim=-1) & far
    assert kept.float().mean() > 0.6  # pixel for pixel, by paste_background
