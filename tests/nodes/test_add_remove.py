"""Edits with one side alone, from the edit nodes to the image: CPAM removes and adds objects."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.demo.finder import SceneFinder
from ale_edit.demo.models import load_demo_model
from ale_edit.demo.render import render
from ale_edit.demo.scenes import COLORS, make_scene
from ale_edit.tests.nodes.graph import one, picture
from ale_edit.tests.tiny import box_mask

BOXES = (
    box_mask(64, 64, top=8, left=8, bottom=32, right=24),
    box_mask(64, 64, top=8, left=40, bottom=32, right=56),
    box_mask(64, 64, top=40, left=24, bottom=56, right=48),
)


def chain(*sides: tuple[str, str], masks: Any = BOXES) -> Any:
    edits = None
    for (source, target), mask in zip(sides, masks, strict=False):
        edits = one("ALEEditObject", source=source, target=target, previous=edits, mask=mask)
    return edits


def edit(world: tuple[Any, Any, Any], edits: Any, image: Tensor, **inputs: Any) -> Tensor:
    model, clip, vae = world
    usual = {"model": model, "clip": clip, "vae": vae, "image": image, "steps": 4}
    return one("ALECPAM", **{**usual, "edits": edits, **inputs})


def test_objects_without_a_target_are_removed_as_by_the_strategy(model, clip, vae) -> None:
    world, image = (model, clip, vae), picture()
    ours = edit(world, chain(("wolf", ""), ("moon", "")), image)
    strategy = edit(world, chain(("wolf", "goat"), ("moon", "ball")), image, strategy="remove")
    changed = edit(world, chain(("wolf", "goat"), ("moon", "ball")), image)
    assert torch.equal(ours, strategy) and not torch.equal(ours, changed)


def test_each_side_that_is_there_counts_in_a_run_with_all_three(model, clip, vae) -> None:
    sides = (("wolf", "goat"), ("moon", ""), ("", "ball"))
    others = (
        (("wolf", "dog"), *sides[1:]),
        (sides[0], ("moon", "sun"), sides[2]),
        (*sides[:2], ("", "hat")),
    )
    made, *changed = (edit((model, clip, vae), chain(*own), picture()) for own in (sides, *others))
    assert not any(torch.equal(made, other) for other in changed)


@pytest.mark.slow
def test_on_a_demo_scene_one_object_goes_while_another_changes() -> None:
    """The finder finds nothing where the first was, and the second in its new colour."""
    scene = make_scene(10_001)
    image, masks = render(scene)
    gone, kept = (f"{o.color}-colored {o.shape}" for o in scene.objects)
    new = next(color for color in COLORS if color not in {o.color for o in scene.objects})
    becomes = f"{new}-colored {scene.objects[1].shape}"
    edits = chain((gone, ""), (kept, becomes), masks=masks)
    made = edit(load_demo_model(), edits, image[None], steps=25, target_guidance=5.0)[0]
    finder = SceneFinder.load()
    assert len(finder.find(image)) == 2
    (left,) = finder.find(made)
    assert max(COLORS, key=lambda color: left.words[color]) == new
    assert not bool((left.mask & (masks[0] > 0.5)).any())
