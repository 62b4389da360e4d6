from functools import partial

import numpy as np
import pytest
import torch
from scipy import ndimage

from ale_edit.regions.regions import ImageRegions, dilate, fit_masks, make_regions, resize_masks
from ale_edit.tests.tiny import box_mask, randn


def random_masks(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return (randn(count, height, width, seed=seed) > 1.8).float()


@pytest.mark.parametrize("radius", [0, 1, 2, 3, 7, 12, 40])
@pytest.mark.parametrize("shape", [(40, 56), (9, 31), (5, 4), (1, 20), (20, 1)])
def test_dilation_is_scipys_with_a_disc(radius: int, shape: tuple[int, int]):
    masks = random_masks(3, *shape)
    masks[0, 0, 0], masks[2] = 1, 0
    y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disc = x * x + y * y <= radius * radius
    expected = [ndimage.binary_dilation(mask.numpy() > 0, structure=disc) for mask in masks]
    assert torch.equal(dilate(masks, radius), torch.tensor(np.stack(expected)).float())


def test_the_radius_is_a_fraction_of_the_image_height():
    mask = box_mask(200, 100, top=100, left=50, bottom=101, right=51)
    dilated = make_regions([mask], ["wolf"], 0.049).dilated[0]
    rows, columns = dilated.nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (91, 109, 41, 59)


def test_raw_masks_stay_undilated_and_hard():
    mask = torch.zeros(32, 32)
    mask[10, 10], mask[10, 11], mask[10, 12] = 0.49, 0.5, 1.0
    regions = make_regions([mask], ["wolf"], 0.1)
    assert regions.raw[0].nonzero().tolist() == [[10, 11], [10, 12]]
    assert set(regions.raw.unique().tolist()) == {0.0, 1.0}
    assert regions.dilated.sum() > regions.raw.sum()


@pytest.mark.parametrize("mask", [torch.zeros(16, 16), torch.full((16, 16), 0.49)])
def test_an_empty_mask_is_refused_by_the_name_of_its_object(mask: torch.Tensor):
    good = torch.ones(16, 16)
    with pytest.raises(ValueError, match='^the mask of "moon" is empty: no pixel is 0.5 or more.$'):
        make_regions([good, mask], ["wolf", "moon"], 0.01)


def test_the_background_is_what_no_dilated_mask_covers():
    masks = random_masks(3, 40, 40)
    regions = make_regions(list(masks), ["a", "b", "c"], 0.05)
    assert torch.equal(regions.background == 0, dilate(masks, 2).any(dim=0))


def test_overlaps_are_of_masks_that_share_a_pixel_after_dilation_with_the_share_of_each():
    masks = [
        box_mask(50, 50, top=0, left=0, bottom=10, right=10),
        box_mask(50, 50, top=0, left=12, bottom=10, right=20),
        box_mask(50, 50, top=30, left=30, bottom=40, right=40),
        box_mask(50, 50, top=35, left=35, bottom=45, right=45),
    ]
    names = ["a", "b", "c", "d"]
    assert make_regions(masks, names, 0.0).overlaps() == {(2, 3): (0.25, 0.25)}
    assert list(make_regions(masks, names, 0.04).overlaps()) == [(0, 1), (2, 3)]
    whole = make_regions([masks[0], torch.ones(50, 50)], names[:2], 0.0)
    assert whole.overlaps() == {(0, 1): (1.0, pytest.approx(100 / 2500))}


@pytest.mark.parametrize("feather", [0.01, 0.03, 0.06, 0.1, 0.2])
def test_the_soft_background_is_0_on_the_masks_and_rises_to_1_outside(feather: float):
    mask = box_mask(100, 120, top=40, left=50, bottom=60, right=70)
    regions = make_regions([mask], ["wolf"], 0.02, feather)
    soft = regions.soft_background
    distance = torch.tensor(ndimage.distance_transform_edt(regions.dilated[0].numpy() == 0))
    assert soft.min() == 0 and soft.max() == 1
    assert not soft[regions.dilated[0] > 0].any()
    assert (soft[distance > max(1.5 * 100 * feather, 5)] == 1).all()
    profile = soft[50, 72:]  # away from the edge of the dilated mask
    assert (profile.diff() >= -1e-6).all()
    assert ((profile > 0) & (profile < 1)).any()


def test_the_soft_background_is_0_where_the_masks_touch_the_image_border():
    mask = box_mask(64, 64, top=0, left=0, bottom=64, right=20)
    regions = make_regions([mask], ["wolf"], 0.0, 0.1)
    assert not regions.soft_background[:, :20].any()


def test_without_feather_the_soft_background_is_the_hard_one():
    regions = make_regions(list(random_masks(2, 40, 40)), ["a", "b"], 0.05)
    assert torch.equal(regions.soft_background, regions.background)


@pytest.mark.parametrize("cell", [8, 16])
@pytest.mark.parametrize(("height", "width"), [(70, 71), (64, 71), (71, 64), (64, 64)])
def test_masks_of_an_image_that_the_vae_crops_are_cropped_alike(height: int, width: int, cell: int):
    height, width = height + cell - 8, width + cell - 8
    masks = random_masks(2, height, width)
    # ComfyUI's VAE.vae_encode_crop_pixels
    top, left = (height % cell) // 2, (width % cell) // 2
    expected = masks[:, top : top + 64, left : left + 64]
    assert torch.equal(fit_masks(masks, 64, 64, cell), expected)


def test_masks_of_another_size_are_resized_to_the_nearest_pixel():
    masks = random_masks(2, 32, 48)
    doubled = masks.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)
    assert torch.equal(fit_masks(masks, 64, 96, 8), doubled)
    assert torch.equal(fit_masks(doubled, 32, 48, 8), masks)


@pytest.mark.parametrize("size", [(98, 102), (102, 98), (97, 100), (100, 103), (98, 98)])
@pytest.mark.parametrize("axis", [0, 1])
def test_no_line_of_a_mask_is_lost_whichever_axis_shrinks(axis: int, size: tuple[int, int]):
    """100 masks, each with one row or column set: with the other axis growing, each still has one;
    a line that shrinks together with its neighbour has the place of both."""
    masks = torch.eye(100)[:, :, None].expand(-1, -1, 100)
    made = resize_masks(masks.transpose(1, 1 + axis), *size)
    assert made.shape == (100, *size)
    lines = made.amax(dim=2 - axis)  # (100, n): the lines of each mask
    assert torch.equal(made.amin(dim=2 - axis), lines)  # and each is whole
    n = size[axis]
    for line in range(100):
        start, stop = line * n // 100, -(-(line + 1) * n // 100)
        if n < 100:  # the windows of torch's adaptive pooling
            expected = [i for i in range(n) if i * 100 // n <= line < -(-(i + 1) * 100 // n)]
        else:  # nearest
            expected = [i for i in range(start, stop + 1) if i < n and i * 100 // n == line]
        assert expected and lines[line].nonzero().flatten().tolist() == expected


@pytest.mark.parametrize("fit", [partial(fit_masks, cell=8), resize_masks])
def test_masks_of_another_shape_are_refused_with_both_sizes(fit):
    with pytest.raises(ValueError, match="^the masks are 64x128 .* image is 96x96.*Make"):
        fit(torch.ones(1, 64, 128), 96, 96)


def test_a_mask_over_everything_is_legal():
    regions = make_regions([torch.ones(16, 16)], ["wolf"], 0.5)
    assert isinstance(regions, ImageRegions)
    assert not regions.background.any()
