"""Regions and Paste Background as nodes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from ale_edit.tests.nodes.graph import TEXT, edits_with_masks, nodes, one, picture, run
from ale_edit.tests.tiny import PAIRS, box_mask, two_boxes


def listed() -> Any:
    """Two edits without masks."""
    return one("ALEEditList", text=TEXT)


def test_the_outputs_have_the_images_size_and_one_mask_per_object() -> None:
    image = picture(height=48, width=64)
    masks = torch.stack(two_boxes(48, 64))
    regions, objects, background, preview = run(
        "ALERegions", edits=listed(), masks=masks, image=image, dilation=0.05
    )
    assert torch.equal(objects, masks)
    assert regions.names == ("wolf", "yellow moon")
    assert background.shape == (1, 48, 64)
    assert torch.equal(background[0], 1 - regions.dilated.amax(dim=0))
    assert preview.shape == (1, 48, 64, 3)


def test_masks_of_edits_and_of_the_batch_are_shared_out_in_order() -> None:
    """The batch fills the edits that have no mask of their own."""
    boxes = [box_mask(64, 64, top=t, left=8, bottom=t + 8, right=24) for t in (0, 16, 32)]
    edits = one("ALEEditObject", source="a", target="b")
    edits = one("ALEEditObject", source="c", target="d", previous=edits, mask=boxes[1])
    edits = one("ALEEditObject", source="e", target="f", previous=edits)
    _, objects, _, _ = run("ALERegions", edits=edits, masks=torch.stack([boxes[0], boxes[2]]))
    assert torch.equal(objects, torch.stack(boxes))


@pytest.mark.parametrize("shape", [(2, 64, 64), (2, 1, 64, 64)])
def test_a_batch_of_masks_of_any_of_comfyuis_shapes(shape: tuple[int, ...]) -> None:
    masks = torch.stack(two_boxes(64, 64)).reshape(shape)
    assert one("ALERegions", edits=listed(), masks=masks).raw.shape == (2, 64, 64)


def test_without_an_image_the_preview_is_grey_at_the_masks_size() -> None:
    _, _, _, preview = run("ALERegions", edits=edits_with_masks(48, 80))
    assert preview.shape == (1, 48, 80, 3)
    assert preview[0, -1, 0].unique().numel() == 1


def test_dilation_grows_the_regions_and_zero_leaves_the_masks() -> None:
    plain, grown = (one("ALERegions", edits=edits_with_masks(), dilation=d) for d in (0.0, 0.1))
    assert torch.equal(plain.dilated, plain.raw)
    assert torch.equal(grown.raw, plain.raw)
    assert grown.dilated.sum() > plain.dilated.sum()
    assert bool((grown.dilated >= plain.dilated).all())


def test_feather_softens_the_background_and_zero_is_hard() -> None:
    _, _, hard, _ = run("ALERegions", edits=edits_with_masks())
    regions, _, soft, _ = run("ALERegions", edits=edits_with_masks(), feather=0.2)
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    assert bool(((soft > 0) & (soft < 1)).any())
    assert not soft[0][regions.dilated.amax(dim=0) > 0].any()


def test_overlapping_masks_and_masks_of_everything_are_allowed_with_one_warning_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    masks = torch.zeros(2, 64, 64)
    masks[0, :40], masks[1, 24:] = 1, 1
    with caplog.at_level(logging.WARNING):
        regions, _, background, _ = run("ALERegions", edits=listed(), masks=masks, dilation=0.0)
    assert not background.any()
    overlap, everything = (record.getMessage() for record in caplog.records)
    assert '"wolf" and "yellow moon" (40 % of "wolf", 40 % of "yellow moon")' in overlap
    assert "cover the whole image" in everything


def test_masks_of_mixed_sizes_are_resized_and_that_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    low = box_mask(64, 64, top=48, left=0, bottom=64, right=64)
    edits = one("ALEEditObject", source="wolf", target="goat", mask=low)
    edits = one("ALEEditObject", source="moon", target="ball", previous=edits, mask=box(32))
    with caplog.at_level(logging.WARNING):
        regions = one("ALERegions", edits=edits, dilation=0.0)
    assert torch.equal(regions.raw[1], box(64))
    assert [record.getMessage() for record in caplog.records] == [
        'Regions: the mask of "moon" is 32x32 and was resized to 64x64 (height x width).'
    ]


def box(size: int) -> torch.Tensor:
    half = size // 2
    return box_mask(size, size, top=0, left=0, bottom=half, right=half)


def test_masks_are_resized_to_the_image(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        regions = one("ALERegions", edits=edits_with_masks(32, 32), image=picture())
    assert regions.raw.shape == (2, 64, 64)
    assert len(caplog.records) == 2


def test_an_object_of_one_pixel_survives_a_smaller_image() -> None:
    small = box_mask(256, 256, top=101, left=33, bottom=102, right=34)
    edits = one("ALEEditObject", source="wolf", target="goat", mask=small)
    regions = one("ALERegions", edits=edits, image=picture())
    assert regions.raw.sum() == 1
    assert regions.raw[0, 25, 8] == 1


def test_a_mask_of_another_shape_than_the_image_is_refused_without_a_word_of_resizing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(ValueError, match="their shapes differ"):
        run("ALERegions", edits=edits_with_masks(64, 64), image=picture(width=128))
    assert not caplog.records


def test_the_preview_is_shown_on_the_node(temp_directory: Path) -> None:
    shown = nodes()["ALERegions"].execute(
        edits=edits_with_masks(), dilation=0.0, feather=0.0, image=picture()
    )
    assert len(shown.ui.as_dict()["images"]) == 1
    (file,) = temp_directory.glob("*.png")
    assert Image.open(file).size == (512, 512)  # magnified from 64x64, so that labels can be read


def test_the_preview_paints_objects_in_different_colours_over_the_image() -> None:
    image, edits = picture(height=256, width=256), edits_with_masks(256, 256)
    regions, _, _, preview = run("ALERegions", edits=edits, image=image, dilation=0.0)
    shift = preview[0] - image[0]
    first, second = (shift[mask > 0].mean(dim=0) for mask in regions.raw)
    assert float((first - second).abs().max()) > 0.1
    corner = (slice(-4, None), slice(0, 4))
    assert not regions.raw[:, corner[0], corner[1]].any()
    torch.testing.assert_close(preview[0][corner], image[0][corner], rtol=0, atol=1 / 255)


@pytest.mark.parametrize("given", ["edits", "masks"])
def test_each_image_of_a_batch_has_its_own_regions_masks_background_and_preview(given: str) -> None:
    image, boxes = picture(2, height=48, width=64), torch.stack(two_boxes(48, 64))
    each = [boxes, boxes.roll(7, dims=2)]
    inputs: dict[str, Any] = {"edits": listed(), "masks": torch.cat(each)}
    if given == "edits":
        edits = None
        for i, (source, target) in enumerate(PAIRS):
            mask = torch.stack([masks[i] for masks in each])
            words = {"source": source, "target": target}
            edits = one("ALEEditObject", **words, previous=edits, mask=mask)
        inputs = {"edits": edits}
    settings = {"dilation": 0.05, "feather": 0.1}
    regions, *made = run("ALERegions", **inputs, image=image, **settings)
    singles = [
        run("ALERegions", edits=listed(), masks=each[j], image=image[j : j + 1], **settings)
        for j in range(2)
    ]
    assert all(
        torch.equal(ours.dilated, single[0].dilated)
        for ours, single in zip(regions.images, singles, strict=True)
    )
    assert torch.equal(made[0], torch.cat(each))  # image 1's masks, then image 2's
    for i, output in enumerate(made, start=1):
        assert torch.equal(output, torch.cat([single[i] for single in singles]))
    again = one("ALERegions", edits=listed(), masks=made[0], image=image, **settings)
    assert torch.equal(again.images[1].raw, regions.images[1].raw)


def test_without_its_image_a_batch_of_masks_is_refused() -> None:
    edits = one("ALEEditObject", mask=torch.stack(two_boxes()))
    with pytest.raises(
        ValueError, match='^Regions: the mask of "wolf" holds 2 masks, one object t'
    ):
        run("ALERegions", edits=edits)


@pytest.mark.parametrize("count", [1, 2])
def test_paste_background_gives_the_sources_pixels_and_size(count: int) -> None:
    """A VAE has cropped 67x69 to 64x64, centred."""
    source, edited = picture(count, height=67, width=69), picture(2, seed=50)
    edits = edits_with_masks(67, 69)
    regions = one("ALERegions", edits=edits, image=source, dilation=0.0)
    out = one("ALEPasteBackground", edited=edited, source=source, regions=regions)
    assert out.shape == (2, 67, 69, 3)
    inside = regions.raw.amax(dim=0) > 0
    inside_crop = inside[1:65, 2:66]
    assert torch.equal(out[:, ~inside], source.expand(2, -1, -1, -1)[:, ~inside])
    assert torch.equal(out[:, 1:65, 2:66][:, inside_crop], edited[:, inside_crop])


def test_paste_background_follows_the_feather() -> None:
    source, edited = torch.zeros(1, 64, 64, 3), torch.ones(1, 64, 64, 3)
    hard, soft = (
        one(
            "ALEPasteBackground",
            edited=edited,
            source=source,
            regions=one("ALERegions", edits=edits_with_masks(), feather=feather),
        )
        for feather in (0.0, 0.2)
    )
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    assert soft.unique().numel() > 2
    assert bool((soft >= hard).all())
