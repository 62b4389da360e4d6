"""DiffEdit Mask and DiffEdit as nodes: which masks they find, and whose they take."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.tests.nodes.graph import TEXT, edits_with_masks, one, picture, run

LOOSE = {"threshold": 0.4, "clamp": 1.0}
"""With random weights, prompts disagree nearly everywhere alike."""
OF_EDITOR = {f"mask_{name}": value for name, value in LOOSE.items()}
WOLF, MOON = TEXT.splitlines()


@pytest.fixture
def world(model: Any, clip: Any, vae: Any) -> dict[str, Any]:
    return {"model": model, "clip": clip, "vae": vae, "image": picture()}


def find(world: dict[str, Any], text: str = TEXT, **inputs: Any) -> tuple[Tensor, Tensor]:
    usual = {**world, "edits": one("ALEEditList", text=text), "maps": 2, "seed": 5, **LOOSE}
    return run("ALEDiffEditMask", **{**usual, **inputs})  # type: ignore[return-value]


def test_there_is_a_mask_for_each_edit_of_the_size_of_the_image(world: dict[str, Any]) -> None:
    masks, differences = find(world, image=picture(height=67, width=93))
    assert masks.shape == differences.shape == (2, 67, 93)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert float(differences.min()) >= 0 and float(differences.max()) == 1.0
    assert torch.equal(masks, (differences > 0.4).float())
    assert not torch.equal(masks[0], masks[1])


def test_a_batch_has_its_masks_image_by_image(world: dict[str, Any]) -> None:
    masks, differences = find(world, image=picture(2))
    assert masks.shape == (4, 64, 64)
    for j in range(2):
        _, single = find(world, image=picture(seed=11 + j), seed=5 + j)
        torch.testing.assert_close(differences[2 * j : 2 * j + 2], single, rtol=0, atol=1e-3)


def test_the_masks_are_those_that_regions_takes(world: dict[str, Any]) -> None:
    masks, _ = find(world, image=picture(2))
    regions = one("ALERegions", edits=one("ALEEditList", text=TEXT), masks=masks, image=picture(2))
    assert torch.equal(torch.cat([image.raw for image in regions.images]), masks)


def test_an_edit_is_compared_while_the_others_change_nothing(world: dict[str, Any]) -> None:
    """As the prompts written in full."""
    (wolf, other), (moon, goat) = (line.split(" -> ") for line in (WOLF, MOON))
    whole = one(
        "ALEFullPrompts",
        edits=one("ALEEditList", text=WOLF),
        source_prompt=f"{wolf} and {moon}",
        target_prompt=f"{other} and {moon}",
    )
    _, differences = find(world)
    _, alone = find(world, edits=whole)
    torch.testing.assert_close(differences[:1], alone, rtol=0, atol=1e-4)
    assert goat  # the second edit's own target


def test_a_full_source_prompt_is_changed_at_the_phrase_of_each_edit(world: dict[str, Any]) -> None:
    pairs = [line.split(" -> ") for line in (WOLF, MOON)]
    source = f"a {pairs[0][0]} below a {pairs[1][0]}"
    both = one("ALEFullPrompts", edits=one("ALEEditList", text=TEXT), source_prompt=source)
    _, differences = find(world, edits=both)
    for k, (line, (old, new)) in enumerate(zip((WOLF, MOON), pairs, strict=True)):
        alone = one(
            "ALEFullPrompts",
            edits=one("ALEEditList", text=line),
            source_prompt=source,
            target_prompt=source.replace(old, new),
        )
        _, expected = find(world, edits=alone)
        torch.testing.assert_close(differences[k : k + 1], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["maps", "strength", "threshold", "clamp", "seed"])
def test_every_setting_changes_the_mask(world: dict[str, Any], name: str) -> None:
    other = {"maps": 3, "strength": 0.9, "threshold": 0.8, "clamp": 1.4, "seed": 6}[name]
    assert not torch.equal(find(world)[0], find(world, **{name: other})[0])


def edit(world: dict[str, Any], edits: Any, **inputs: Any) -> Tensor:
    usual = {**world, "edits": edits, "steps": 4, "mask_maps": 2, "seed": 5, **OF_EDITOR}
    return one("ALEDiffEdit", **{**usual, **inputs})


def test_the_editor_finds_the_mask_of_the_node(world: dict[str, Any]) -> None:
    """One edit has one mask: connected to it, the node's gives the editor's own edit."""
    listed = one("ALEEditList", text=WOLF)
    source, target = WOLF.split(" -> ")
    masks, _ = find(world, text=WOLF)
    given = one("ALEEditObject", source=source, target=target, mask=masks)
    found = edit(world, listed)
    assert torch.equal(found, edit(world, given))
    assert not torch.equal(found, edit(world, listed, mask_threshold=0.6))


def test_masks_of_the_edits_take_the_place_of_the_mask_that_it_finds(world: dict[str, Any]) -> None:
    edits = edits_with_masks()
    made = edit(world, edits)
    assert torch.equal(made, edit(world, edits, mask_threshold=0.99, mask_maps=1))
    assert not torch.equal(made, edit(world, one("ALEEditList", text=TEXT)))


def test_each_image_of_a_batch_is_edited_in_its_own_mask(world: dict[str, Any]) -> None:
    listed = one("ALEEditList", text=TEXT)
    both = edit(world, listed, image=picture(2, height=72))
    for j in range(2):
        single = edit(world, listed, image=picture(height=72, seed=11 + j), seed=5 + j)
        torch.testing.assert_close(both[j], single[0], rtol=0, atol=1e-4)
