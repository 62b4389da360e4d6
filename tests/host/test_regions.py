import importlib
import logging
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from PIL import Image
from torch import Tensor

from ale_edit.host.regions import (
    mask_batch,
    masks_of_latent,
    read_edit_mask,
    regions_from_edits,
    regions_from_inputs,
)
from ale_edit.prompts.edits import Edits
from ale_edit.regions.regions import ImageRegions, make_regions
from ale_edit.tests.tiny import box_mask, edits_of, two_boxes


def of_one(*args: Any, **options: Any) -> ImageRegions:
    """The regions of a single image."""
    regions = regions_from_edits(*args, **options)
    assert isinstance(regions, ImageRegions)
    return regions


def test_masks_of_the_edits_and_of_the_batch_are_taken_in_the_order_of_the_edits():
    first, second = two_boxes()
    third = box_mask(64, 64, top=0, left=40, bottom=8, right=60)
    pairs = [("wolf", "goat"), ("moon", "ball"), ("sun", "lamp")]
    edits = edits_of(pairs, masks=[None, second, None])
    regions = of_one(edits, torch.stack([first, third]), 0.02)
    expected = make_regions([first, second, third], ["wolf", "moon", "sun"], 0.02)
    assert regions.names == expected.names
    assert torch.equal(regions.raw, expected.raw)
    assert torch.equal(regions.dilated, expected.dilated)


@pytest.mark.parametrize("shape", [(64, 64), (1, 64, 64), (1, 1, 64, 64)])
def test_a_mask_may_come_in_any_of_comfyuis_shapes(shape):
    mask = two_boxes()[0]
    assert torch.equal(read_edit_mask(mask.view(shape), "Edit Object"), mask)
    assert torch.equal(mask_batch(mask.view(shape))[0], mask)


def test_a_batch_may_have_a_channel():
    masks = torch.stack(two_boxes())
    assert torch.equal(mask_batch(masks[:, None]), masks)


def test_masks_of_another_size_are_resized_to_the_image_and_that_is_said(caplog):
    large, small = two_boxes(128, 128)[0], two_boxes(64, 64)[1]
    edits = edits_of(masks=[large, small])
    with caplog.at_level(logging.WARNING):
        regions = of_one(edits, None, 0.0, size=(128, 128))
    assert torch.equal(regions.raw, torch.stack(two_boxes(128, 128)))
    (record,) = caplog.records
    assert record.getMessage() == (
        'Regions: the mask of "yellow moon" is 64x64 and was resized to 128x128 (height x width).'
    )


def test_without_an_image_the_first_masks_size_counts(caplog):
    edits = edits_of(masks=[two_boxes(64, 64)[0], two_boxes(128, 128)[1]])
    with caplog.at_level(logging.WARNING):
        regions = of_one(edits, None, 0.0)
    assert torch.equal(regions.raw, torch.stack(two_boxes(64, 64)))
    assert len(caplog.records) == 1


def half_overlapping() -> list[Tensor]:
    """Of 32 and 16 columns, 8 of them shared."""
    return [
        box_mask(64, 64, top=0, left=0, bottom=32, right=32),
        box_mask(64, 64, top=0, left=24, bottom=32, right=40),
    ]


@pytest.mark.parametrize("overlap", ["background", "last object"])
def test_a_partial_overlap_is_legal_and_said_once_with_the_share(caplog, overlap):
    edits = edits_of(masks=half_overlapping(), overlap=overlap)
    with caplog.at_level(logging.WARNING):
        regions_from_edits(edits, None, 0.0)
    (record,) = caplog.records
    assert record.getMessage() == (
        'Regions: some grown masks overlap: those of "wolf" and "yellow moon" (25 % of "wolf", '
        f'50 % of "yellow moon"). By the settings of these edits the overlap goes to the {overlap}.'
    )


def test_an_overlap_of_a_few_pixels_is_less_than_one_percent(caplog):
    first, second = two_boxes()
    second[32, 24] = first[32, 23] = 1  # neighbours, which dilation makes overlap
    with caplog.at_level(logging.WARNING):
        regions_from_edits(edits_of(masks=[first, second]), None, 0.02)
    assert 'less than 1 % of "yellow moon"' in caplog.records[0].getMessage()


def saved_by_an_editor(folder: Path) -> str:
    """A white PNG whose drawing, the first box, is in the alpha channel: transparent there."""
    alpha = Image.fromarray((255 * (1 - two_boxes()[0])).byte().numpy())
    picture = Image.new("RGBA", (64, 64), "white")
    picture.putalpha(alpha)
    picture.save(folder / "drawn.png")
    return "drawn.png"


@pytest.mark.parametrize("pairs", [[("wolf", "goat")], [("wolf", "goat"), ("moon", "ball")]])
@pytest.mark.parametrize(("channel", "is_whole"), [("red", True), ("alpha", False)])
def test_a_mask_read_by_the_wrong_channel_is_said_to_cover_everything(
    caplog, tmp_path, monkeypatch, channel, is_whole, pairs
):
    monkeypatch.setattr(folder_paths, "get_annotated_filepath", lambda name: str(tmp_path / name))
    node = importlib.import_module("nodes").LoadImageMask()
    load = getattr(node, node.FUNCTION)  # 0.33 renamed it
    mask = load(saved_by_an_editor(tmp_path), channel)[0][0]
    edits = edits_of(pairs, masks=[mask, two_boxes()[1]][: len(pairs)])
    with caplog.at_level(logging.WARNING):
        regions = of_one(edits, None, 0.0)
    if is_whole:
        assert caplog.messages[0].startswith('Regions: the mask of "wolf" covers the whole image.')
        assert "Load Image (as Mask)" in caplog.messages[0] and "alpha" in caplog.messages[0]
        assert len(caplog.messages) == len(pairs)  # of two, the overlap is said as well
    else:
        assert torch.equal(regions.raw[0], two_boxes()[0]) and not caplog.messages


def test_a_mask_over_everything_is_legal_and_said_once(caplog):
    edits = edits_of([("wolf", "goat")], masks=[torch.ones(64, 64)])
    with caplog.at_level(logging.WARNING):
        regions = of_one(edits, None, 0.0)
    assert not regions.background.any()
    (said,) = caplog.messages
    assert said.startswith(
        'Regions: the mask of "wolf" covers the whole image. Background Blending'
    )


def test_masks_that_cover_everything_together_are_legal_and_said_once(caplog):
    left = box_mask(64, 64, top=0, left=0, bottom=64, right=32)
    with caplog.at_level(logging.WARNING):
        of_one(edits_of(masks=[left, 1 - left]), None, 0.0)
    assert caplog.messages == [
        "Regions: the masks cover the whole image; Background Blending keeps nothing."
    ]


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


def frames(count: int) -> list[Tensor]:
    """The masks (count, 64, 64) of two objects, each a pixel further right in each image."""
    boxes = two_boxes()
    return [torch.stack([box.roll(j, dims=1) for j in range(count)]) for box in boxes]


@pytest.mark.parametrize("own", [(True, True), (True, False), (False, False)])
def test_each_image_of_a_batch_has_its_own_regions(own):
    """Masks of the edits, of the batch, those of image 1 first, and one for all images."""
    wolf, moon = frames(3)
    masks = [wolf, moon] if all(own) else [wolf, None] if any(own) else [None, None]
    batch = None if all(own) else moon if any(own) else torch.stack([wolf, moon], 1).flatten(0, 1)
    regions = regions_from_edits(edits_of(masks=masks), batch, 0.02, 0.03, images=3)
    assert len(regions.images) == 3 and regions.names == ("wolf", "yellow moon")
    for j, one in enumerate(regions.images):
        expected = of_one(edits_of(masks=[wolf[j], moon[j]]), None, 0.02, 0.03)
        assert torch.equal(one.raw, expected.raw) and torch.equal(one.dilated, expected.dilated)
        assert (one.names, one.feather) == (expected.names, expected.feather)


def test_one_mask_an_edit_serves_all_images_or_beside_those_of_each():
    wolf, moon = frames(3)
    one = regions_from_edits(edits_of(masks=[wolf[0], moon[0]]), None, 0.0, images=3)
    assert one.images == (one,)
    mixed = regions_from_edits(edits_of(masks=[wolf[0], moon]), None, 0.0, images=3)
    for j, image in enumerate(mixed.images):
        assert torch.equal(image.raw, torch.stack([wolf[0], moon[j]]))


def test_masks_of_a_batch_are_resized_together_and_that_is_said_once(caplog):
    wolf, moon = (mask.repeat_interleave(2, 1).repeat_interleave(2, 2) for mask in frames(2))
    with caplog.at_level(logging.WARNING):
        regions = regions_from_edits(
            edits_of(masks=[wolf, moon]), None, 0.0, size=(64, 64), images=2
        )
    assert torch.equal(regions.images[1].raw[0], frames(2)[0][1])
    assert len(caplog.messages) == 2 and "128x128 and was resized to 64x64" in caplog.messages[0]


@pytest.mark.parametrize("images", [1, 2, 4])
def test_another_number_of_masks_than_images_is_refused(images):
    edits = edits_of(masks=[frames(3)[0], two_boxes()[1]])
    words = 'Regions: the mask of "wolf" holds 3 masks, one object takes one'
    words += rf" \(or one for each of the {images} images\)" if images > 1 else r"\. Select one"
    with pytest.raises(ValueError, match=words):
        regions_from_edits(edits, None, 0.0, images=images)


@pytest.mark.parametrize(("count", "images"), [(4, 1), (3, 2), (5, 2), (4, 3)])
def test_another_number_of_masks_of_a_batch_is_refused(count, images):
    masks = torch.cat([torch.stack(frames(3)).flatten(0, 1)])[:count]
    with pytest.raises(ValueError, match=f"Regions: the masks input holds {count} masks, but 2 of"):
        regions_from_edits(edits_of(), masks, 0.0, images=images)


def test_what_is_wrong_or_odd_in_an_image_of_a_batch_is_said_with_its_number(caplog):
    wolf, moon = frames(3)
    empty = moon.clone()
    empty[1] = 0
    with pytest.raises(ValueError, match='^Regions: image 2: the mask of "yellow moon" is empty'):
        regions_from_edits(edits_of(masks=[wolf, empty]), None, 0.0, images=3)
    overlapping = moon.clone()
    overlapping[1:, 8:16] = 1
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        regions_from_edits(edits_of(masks=[wolf, overlapping]), None, 0.0, images=3)
    (said,) = caplog.messages
    assert said.startswith("Regions: image 2: some grown masks overlap")
    assert said.endswith("the overlap goes to the background. So it is in 1 more image.")


def test_regions_of_another_number_of_images_than_the_latents_are_refused():
    regions = regions_from_edits(edits_of(masks=frames(3)), None, 0.0, images=3)
    assert len(masks_of_latent(regions, torch.zeros(3, 4, 8, 8), 8, "Region Cross-Attention")) == 3
    words = "^Region Cross-Attention: the regions were made from 3 images, but there are 2 images"
    with pytest.raises(ValueError, match=words):
        masks_of_latent(regions, torch.zeros(2, 4, 8, 8), 8, "Region Cross-Attention")


def test_a_mask_without_pixels_to_look_at_is_refused():
    """Some packs give a MASK of no masks when nothing was found."""
    with pytest.raises(ValueError, match="0 masks"):
        read_edit_mask(torch.ones(0, 64, 64), "Edit Object")


def test_masks_of_inputs_keep_their_names_and_pixels_and_are_resized_to_the_image(caplog):
    first, second = two_boxes()
    given = {"source_mask": first, "target_mask": second.repeat_interleave(2, 0)[None]}
    given["target_mask"] = given["target_mask"].repeat_interleave(2, 2)
    regions = regions_from_inputs(given, (64, 64), 3, "MasaCtrl")
    assert isinstance(regions, ImageRegions)
    assert regions.names == ("source_mask", "target_mask")
    assert torch.equal(regions.raw, torch.stack([first, second]))
    assert torch.equal(regions.raw, regions.dilated)
    said = "MasaCtrl: target_mask is 128x128 and was resized to 64x64 (height x width)."
    assert said in caplog.text
    assert regions_from_inputs({}, (64, 64), 3, "MasaCtrl") is None


def test_each_image_has_its_own_masks_of_an_input_beside_one_that_serves_all():
    first, second = two_boxes()
    given = {"source_mask": torch.stack([first, second]), "target_mask": first}
    regions = regions_from_inputs(given, (64, 64), 2, "MasaCtrl")
    assert regions is not None
    for one, own in zip(regions.images, (first, second), strict=True):
        assert torch.equal(one.raw, torch.stack([own, first]))
