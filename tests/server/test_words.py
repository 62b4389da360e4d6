"""From words to an edit on the demo world: its own detector, no mask drawn, nothing downloaded."""

import pytest
import torch

from ale_edit.demo.captions import demo_edits
from ale_edit.demo.judge import Judge
from ale_edit.demo.render import render
from ale_edit.demo.scenes import make_scene
from ale_edit.headless import NodeFailed
from ale_edit.tests.server.test_pack_in_comfyui import load_workflow, pixels

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_both_objects_become_what_was_asked(seed, run):
    workflow = load_workflow("ale_edit_words_demo")
    asked = demo_edits(seed, objects=2, name_colors=True)
    text = "\n".join(f"{source} -> {target}" for source, target, _ in asked)
    workflow.fill("Demo Scene", seed=seed)
    workflow.fill("ALE Edit", seed=seed)  # as bench scenes
    workflow.fill("Edit List", text=text)
    edited = torch.from_numpy(pixels(run(workflow)["Edited image"]) / 255)
    _, masks = render(make_scene(seed, 2))
    found = [Judge.load().read(edited, mask) for mask in masks]
    assert all(r.agrees(words) for r, (_, _, words) in zip(found, asked, strict=True)), found


def test_an_object_that_is_not_there_is_named_with_its_score(run):
    workflow = load_workflow("ale_edit_words_demo")
    workflow.fill("Edit List", text="green-colored ring -> red-colored ring")
    with pytest.raises(NodeFailed, match="green-colored ring.*0\\.35"):
        run(workflow)
