"""An object with no place of its own: refused, or said, when the regions meet the latent, by the
settings and the grid of that run."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.host.attention.rgb_cam import apply_rgb_cam
from ale_edit.host.regions import masks_of_latent, regions_from_edits, require_places
from ale_edit.prompts.edits import Edits
from ale_edit.regions.regions import Regions
from ale_edit.tests.host.runs import edit, guide, patched
from ale_edit.tests.tiny import box_mask, edits_of, source_latent, two_boxes

pytestmark = pytest.mark.comfy

NODE = "Region Cross-Attention"


def regions_of(masks: list[Tensor], images: int = 1, **settings: Any) -> Regions:
    return regions_from_edits(edits_of(masks=masks, **settings), None, 0.0, images=images)


def check(regions: Regions, edits: Edits, side: int = 8) -> None:
    """As a run does, on latents of side x side cells."""
    latent = torch.zeros(len(regions.images), 4, side, side)
    masks = masks_of_latent(regions, latent, 8, NODE)
    require_places(regions, masks, (side, side), edits.settings, NODE)


def covered(outer: int) -> list[Tensor]:
    """A mask and one inside it, as the first and the second or the other way round."""
    masks = [two_boxes()[0], torch.zeros(64, 64)]
    masks[1][:48, :48] = 1
    return masks[::-1] if outer == 0 else masks


def rims(scale: int) -> list[Tensor]:
    """At 64 x `scale` pixels, masks that share all but a rim of an eighth of a cell of 8x8."""
    side, low, high = 64 * scale, 16 * scale, 48 * scale
    boxes = [(low - scale, high), (low, high + scale)]
    return [box_mask(side, side, top=low, bottom=high, left=a, right=b) for a, b in boxes]


REFUSED = [
    ([two_boxes()[0]] * 2, "background", "wolf"),
    ([two_boxes()[0]] * 2, "last object", "wolf"),
    (covered(0), "background", "yellow moon"),
    (covered(1), "background", "wolf"),
    (covered(1), "last object", "wolf"),
]


@pytest.mark.parametrize(("masks", "overlap", "lost"), REFUSED)
@pytest.mark.parametrize("variant", ["paper", "published code"])
def test_an_object_that_another_covers_is_refused_with_both_names(masks, overlap, lost, variant):
    other = ({"wolf", "yellow moon"} - {lost}).pop()
    edits = edits_of(overlap=overlap, variant=variant)
    words = (
        f'^{NODE}: "{lost}" has no place of its own: .* that of "{other}", .* goes to the {overlap}'
    )
    with pytest.raises(ValueError, match=words):
        check(regions_of(masks), edits)


def test_a_rim_that_owns_no_cell_of_the_latent_is_no_place():
    with pytest.raises(ValueError, match="has no place of its own"):
        check(regions_of(rims(1)), edits_of())


@pytest.mark.parametrize("scale", [1, 8])
def test_what_counts_is_the_latents_grid_and_not_the_size_of_the_masks(model, clip, calls, scale):
    """512x512 masks of a 64x64 image: eight pixels of a mask are one of the image."""
    regions = regions_of(rims(scale))
    with pytest.raises(ValueError, match=f"^{NODE}: .* has no place of its own"):
        edit(guide(patched(calls, regions), clip))
    assert not calls.calls
    check(regions, edits_of(), side=64)  # of 512x512 pixels, where a rim is a cell wide


def test_regions_of_other_settings_are_checked_by_those_of_the_run(model, clip, calls):
    regions = regions_of([two_boxes()[0]] * 2, rgb_cam=False)
    with pytest.raises(ValueError, match=f'^{NODE}: "wolf" has no place .* that of "yellow moon"'):
        edit(guide(patched(calls, regions), clip))
    assert not calls.calls


def test_what_the_settings_of_the_run_allow_is_no_error_of_regions(model, clip, caplog):
    """Method Settings may stand behind Regions."""
    regions = regions_of(covered(0))
    assert '100 % of "yellow moon"' in caplog.text
    edit(guide(patched(model, regions), clip, edits_of(overlap="last object")))
    with pytest.raises(ValueError, match='"yellow moon" has no place'):
        edit(guide(patched(model, regions), clip, edits_of()))


def test_without_rgb_cam_no_object_needs_a_place(model, clip):
    regions = regions_of([two_boxes()[0]] * 2)
    edit(guide(patched(model, regions), clip, edits_of(rgb_cam=False)))
    edit(guide(apply_rgb_cam(model, regions, strength=0.0), clip))


def test_a_mask_over_everything_leaves_the_others_no_place(caplog):
    regions = regions_of([torch.ones(64, 64), two_boxes()[1]])
    assert 'the mask of "wolf" covers the whole image' in caplog.text
    with pytest.raises(ValueError, match='"yellow moon" has no place .* that of "wolf"'):
        check(regions, edits_of())


def test_of_a_batch_the_image_is_named(model, clip, calls):
    wolf, moon = (torch.stack([box, box]) for box in two_boxes())
    moon[1] = wolf[1]
    regions = regions_of([wolf, moon], images=2)
    with pytest.raises(ValueError, match=f'^{NODE}: image 2: "wolf" has no place of its own'):
        edit(guide(patched(calls, regions), clip), source_latent(2))
    assert not calls.calls


DOT = box_mask(64, 64, top=20, left=20, bottom=21, right=21)


def test_a_small_object_that_keeps_a_cell_of_its_own_is_no_hidden_one(caplog):
    """The paper's grid gives an object smaller than a cell that cell."""
    with caplog.at_level(logging.WARNING):
        regions = regions_of([torch.ones(64, 64), DOT])
        caplog.clear()
        check(regions, edits_of())
    assert not caplog.messages


def test_an_object_that_has_no_cell_at_all_is_said_once_a_run(model, clip, caplog):
    """The published code reads one pixel of each cell; nothing covers the dot."""
    regions = regions_of([two_boxes()[1], DOT])
    with caplog.at_level(logging.WARNING):
        edit(guide(patched(model, regions), clip, edits_of(variant="published code")))
    (said,) = [message for message in caplog.messages if NODE in message]
    assert said == (
        f'{NODE}: the grown mask of "yellow moon" covers no cell of the latent (the published code '
        "reads the top left pixel of each), so that its text is used nowhere. Set dilation to a "
        "larger number or choose the variant paper."
    )
    caplog.clear()
    edit(guide(patched(model, regions), clip))
    assert not [message for message in caplog.messages if NODE in message]


def test_an_object_that_the_vae_crops_away_is_said(caplog):
    """A picture of 71x71 pixels loses three at each side."""
    rim = box_mask(71, 71, top=0, left=0, bottom=71, right=2)
    wolf = box_mask(71, 71, top=20, left=20, bottom=50, right=50)
    regions = regions_of([wolf, rim])
    with caplog.at_level(logging.WARNING):
        check(regions, edits_of())
    (said,) = caplog.messages
    assert said.startswith(
        f'{NODE}: the grown mask of "yellow moon" covers no cell of the latent, so'
    )
