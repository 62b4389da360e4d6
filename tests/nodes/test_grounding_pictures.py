"""Grounded-SAM Masks as a node: batches, and pictures, boxes and edits of all kinds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.tests.nodes.graph import one, picture, run
from ale_edit.tests.nodes.grounding import MOON, NODE, TABLE, TEXT, WOLF, Boxes, box, find
from ale_edit.tests.regions.test_objects import KnownDetector


class Watching(KnownDetector):
    """Keeps the images that it was given."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        super().__init__(table)
        self.seen: list[Tensor] = []

    def detect(self, image: Tensor, phrases: tuple[str, ...]) -> Any:
        self.seen.append(image)
        return super().detect(image, phrases)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_of_grey_pictures_and_alpha_channels_the_colours_are_looked_at(channels: int) -> None:
    image = torch.rand(2, 64, 64, channels)
    detector = Watching(TABLE)
    edits = one("ALEEditList", text=TEXT)
    *_, preview = run(NODE, image=image, edits=edits, detector=detector, segmenter=None)
    expected = image[..., :3] if channels > 1 else image.expand(-1, -1, -1, 3)
    assert torch.equal(torch.stack(detector.seen), expected)
    assert preview.shape == (2, 64, 64, 3)


@pytest.mark.parametrize("shape", [(64, 64, 3), (1, 64, 64, 2), (0, 64, 64, 3), (1, 3, 64, 64)])
def test_something_that_is_no_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"has the shape .*, not \(images, height, width, chan"):
        find(image=torch.zeros(shape))


def test_a_picture_with_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="holds numbers that are not finite"):
        find(image=picture() * float("nan"))


class Moving(KnownDetector):
    """Knows another table for each image, by its first pixel's number."""

    def __init__(self, *tables: Mapping[str, Any]) -> None:
        super().__init__({})
        self._tables = tables

    def detect(self, image: Tensor, phrases: tuple[str, ...]) -> Any:
        self.table = self._tables[round(10 * float(image[0, 0, 0]))]
        return super().detect(image, phrases)


def numbered(count: int) -> Tensor:
    """Pictures whose first pixel says which image of the batch they are."""
    images = picture(count)
    images[:, 0, 0, 0] = torch.arange(count) / 10
    return images


def find_in(*tables: Mapping[str, Any], **inputs: Any) -> tuple[Any, ...]:
    usual = {"segmenter": Boxes(), "dilation": 0.05, "edits": one("ALEEditList", text=TEXT)}
    return run(
        NODE, **{**usual, "image": numbered(len(tables)), "detector": Moving(*tables), **inputs}
    )


ASIDE = {"wolf": {(4.0, 30.0, 20.0, 60.0): 0.7}, "yellow moon": {MOON: 0.6}}


def test_every_image_of_a_batch_is_looked_at_and_has_its_own_regions() -> None:
    regions, edits, masks, background, text, preview = find_in(TABLE, ASIDE)
    singles = [find_in(TABLE, ASIDE, image=numbered(2)[j : j + 1]) for j in range(2)]
    assert len(regions.images) == 2
    for j, (alone, *_) in enumerate(singles):
        assert torch.equal(regions.images[j].raw, alone.raw)
        assert torch.equal(regions.images[j].dilated, alone.dilated)
    for made, position in ((masks, 2), (background, 3), (preview, 5)):
        assert torch.equal(made, torch.cat([single[position] for single in singles]))
    assert [edit.mask.shape for edit in edits.items] == [(2, 64, 64)] * 2
    again = one("ALERegions", edits=edits, image=numbered(2), dilation=0.05)
    assert torch.equal(again.images[1].dilated, regions.images[1].dilated)
    lines = [single[4] for single in singles]
    assert text == f"image 1:\n{lines[0]}\nimage 2:\n{lines[1]}"


def test_an_edit_with_one_mask_or_one_for_each_image_keeps_them_in_a_batch() -> None:
    for own in (box((0, 0, 5, 5)), torch.stack([box((0, 0, 5, 5)), box((0, 0, 9, 5))])):
        edits = one("ALEEditObject", source="tree", target="palm", mask=own)
        edits = one("ALEEditObject", source="wolf", target="goat", previous=edits)
        regions, kept, *_ = find_in(TABLE, ASIDE, edits=edits)
        assert torch.equal(kept.items[0].mask, own)
        for j, one_image in enumerate(regions.images):
            assert torch.equal(one_image.raw[0], own if own.ndim == 2 else own[j])


WITHOUT_MOON = {"wolf": TABLE["wolf"]}


def test_a_missing_object_in_an_image_of_a_batch(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match='Masks: image 2: "Yellow Moon." was not found'):
        find_in(TABLE, WITHOUT_MOON)
    with pytest.raises(ValueError, match='image 2: "Yellow Moon." .* found in another image, and'):
        find_in(TABLE, WITHOUT_MOON, missing="leave out")
    regions, edits, *_ = find_in(WITHOUT_MOON, WITHOUT_MOON, missing="leave out")
    assert edits.sources == ("wolf",) and len(regions.images) == 2
    regions, *_ = find_in(TABLE, WITHOUT_MOON, missing="whole image")
    assert torch.equal(regions.images[1].raw[1], 1 - regions.images[1].dilated[0])
    assert torch.equal(regions.images[0].raw[1], box(MOON, 1))


def test_nothing_found_in_images_of_a_batch() -> None:
    with pytest.raises(ValueError, match="Masks: image 2: nothing was found."):
        find_in(TABLE, {})
    with pytest.raises(ValueError, match="image 2: nothing was found. .* in another image, and"):
        find_in(TABLE, {}, nothing_found="without regions")
    regions, edits, *_ = find_in({}, {}, nothing_found="without regions")
    assert not edits.settings.rgb_cam and bool(regions.raw.all())


@pytest.mark.parametrize("missing", ["stop", "leave out"])
def test_a_batch_of_one_is_a_single_image(missing: str) -> None:
    regions, edits, *_ = find_in(TABLE, missing=missing)
    assert regions.images == (regions,) and edits.items[0].mask.shape == (64, 64)


def test_a_picture_of_one_pixel_has_regions() -> None:
    table = {"wolf": {(0.0, 0.0, 1.0, 1.0): 0.9}}
    masks = find(table, "wolf -> goat", image=picture(height=1, width=1), segmenter=None)[2]
    assert torch.equal(masks, torch.ones(1, 1, 1))


def test_a_picture_of_eight_thousand_pixels_has_regions() -> None:
    table = {"wolf": {(100.0, 200.0, 7000.0, 4000.0): 0.9}}
    image = torch.full((1, 4320, 7680, 3), 0.5)
    masks = find(table, "wolf -> goat", image=image, segmenter=None)[2]
    assert masks.shape == (1, 4320, 7680) and int(masks.sum()) == 6900 * 3800


def test_boxes_that_reach_outside_the_picture_are_cut_off() -> None:
    masks = find({"wolf": {(-9.0, -9.0, 99.0, 20.0): 0.9}}, "wolf -> goat", segmenter=None)[2]
    assert torch.equal(masks[0], box((0, 0, 64, 20)))


def test_a_segmenter_gets_boxes_inside_the_picture() -> None:
    class Asked(Boxes):
        def segment(self, image: Tensor, boxes: Tensor) -> Tensor:
            self.boxes = boxes
            return super().segment(image, boxes)

    segmenter = Asked()
    find({"wolf": {(-9.0, -9.0, 99.0, 20.0): 0.9}}, "wolf -> goat", segmenter=segmenter)
    assert segmenter.boxes.tolist() == [[0, 0, 64, 20]]


def test_a_box_in_which_the_segmenter_sees_nothing_is_its_own_mask(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Blind:
        def segment(self, image: Tensor, boxes: Tensor) -> Tensor:
            return torch.zeros(len(boxes), *image.shape[:2], dtype=torch.bool)

    masks = find(segmenter=Blind())[2]
    assert torch.equal(masks, torch.stack([box(WOLF), box(MOON)]))
    assert "sees nothing in a box" in caplog.text


def test_a_hundred_edits_have_a_hundred_regions() -> None:
    phrases = [f"thing number {chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(100)]
    table = {
        p: {(i % 10 * 6.0, i // 10 * 6.0, i % 10 * 6 + 5.0, i // 10 * 6 + 5.0): 0.9}
        for i, p in enumerate(phrases)
    }
    text = "\n".join(f"{phrase} -> cat" for phrase in phrases)
    masks = find(table, text, segmenter=None)[2]
    assert masks.shape[0] == 100 and bool((masks.flatten(1).sum(dim=1) == 25).all())
