import logging

import pytest
import torch

from ale_edit.host.regions import mask_batch, regions_from_edits, single_mask
from ale_edit.prompts.edits import Edits
from ale_edit.regions.regions import make_regions
from ale_edit.tests.tiny import box_mask, edits_of, two_boxes


def test_masks_of_the_edits_and_of_the_batch_are_taken_in_the_order_of_the_edits():
    first, second = two_boxes()
    third = box_mask(64, 64, top=0, left=40, bottom=8, right=60)
    pairs = [("wolf", "goat"), ("moon", "ball"), ("sun", "lamp")]
    edits = edits_of(pairs, masks=[None, second, None])
    regions = regions_from_edits(edits, torch.stack([first, third]), 0.02)
    expected = make_regions([first, second, third], ["wolf", "moon", "sun"], 0.02)
    assert regions.names == expected.names
    assert torch.equal(regions.raw, expected.raw)
    assert torch.equal(regions.dilated, expected.dilated)


@pytest.mark.parametrize("shape", [(64, 64), (1, 64, 64), (1, 1, 64, 64)])
def test_a_mask_may_come_in_any_of_comfyuis_shapes(shape):
    mask = two_boxes()[0]
    assert torch.equal(single_mask(mask.view(shape), "Edit Object"), mask)
    assert torch.equal(mask_batch(mask.view(shape))[0], mask)


def test_a_batch_may_have_a_channel():
    masks = torch.stack(two_boxes())
    assert torch.equal(mask_batch(masks[:, None]), masks)


def test_masks_of_another_size_are_resized_to_the_image_and_that_is_said(caplog):
    large, small = two_boxes(128, 128)[0], two_boxes(64, 64)[1]
    edits = edits_of(masks=[large, small])
    with caplog.at_level(logging.WARNING):
        regions = regions_from_edits(edits, None, 0.0, size=(128, 128))
    assert torch.equal(regions.raw, torch.stack(two_boxes(128, 128)))
    (record,) = caplog.records
    assert record.getMessage() == (
        'Regions: the mask of "yellow moon" is 64x64 and was resized to 128x128 (height x width).'
    )


def test_without_an_image_the_first_masks_size_counts(caplog):
    edits = edits_of(masks=[two_boxes(64, 64)[0], two_boxes(128, 128)[1]])
    with caplog.at_level(logging.WARNING):
        regions = regions_from_edits(edits, None, 0.0)
    assert torch.equal(regions.raw, torch.stack(two_boxes(64, 64)))
    assert len(caplog.records) == 1


def test_overlapping_masks_are_legal_and_said_once(caplog):
    mask = two_boxes()[0]
    with caplog.at_level(logging.WARNING):
        regions = regions_from_edits(edits_of(masks=[mask, mask]), None, 0.0)
    assert regions.overlapping_pairs() == [(0, 1)]
    (record,) = caplog.records
    assert "wolf" in record.getMessage() and "yellow moon" in record.getMessage()


def test_a_mask_over_everything_is_legal_and_said_once(caplog):
    edits = edits_of([("wolf", "goat")], masks=[torch.ones(64, 64)])
    with caplog.at_level(logging.WARNING):
        regions = regions_from_edits(edits, None, 0.0)
    assert not regions.background.any()
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("edits", "masks", "words"),
    [
        (Edits(()), None, ["edits input is empty", "Add at least one Edit Object"]),
        (edits_of(), None, ["wolf -> brown-colored goat", "no region", "2 masks", "0 given"]),
        (edits_of(), torch.ones(1, 64, 64), ["yellow moon -> soccer ball", "1 given", "Connect"]),
        (
            edits_of(),
            torch.ones(3, 64, 64),
            ["3 masks", "2 of 2 edits", "Add an edit for each mask"],
        ),
        (edits_of(masks=two_boxes()), torch.ones(1, 64, 64), ["1 masks", "0 of 2 edits"]),
        (edits_of(masks=[two_boxes()[0], torch.zeros(64, 64)]), None, ["yellow moon", "empty"]),
        (edits_of(masks=[two_boxes()[0], torch.ones(64, 96)]), None, ["64x96", "64x64", "Make"]),
    ],
)
def test_masks_that_do_not_fit_the_edits_are_refused(edits, masks, words):
    with pytest.raises(ValueError, match="^Regions: ") as error:
        regions_from_edits(edits, masks, 0.01)
    assert [word for word in words if word not in str(error.value)] == []


def test_several_masks_for_one_object_are_refused():
    with pytest.raises(ValueError, match="Edit Object: .* 2 masks.*Select one"):
        single_mask(torch.ones(2, 64, 64), "Edit Object")


def test_a_mask_without_pixels_to_look_at_is_refused():
    """Some packs give a MASK of no masks when nothing was found."""
    with pytest.raises(ValueError, match="0 masks"):
        single_mask(torch.ones(0, 64, 64), "Edit Object")
