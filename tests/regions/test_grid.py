from typing import Any

import pytest
import torch
from scipy import ndimage
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize

from ale_edit.regions.grid import (
    cell_groups,
    coverage,
    find_hidden_objects,
    latent_background,
    paint_cells,
)
from ale_edit.regions.regions import fit_masks
from ale_edit.tests.tiny import box_mask, randn

SIZES = [(16, 16), (8, 8), (4, 4), (2, 2), (6, 9), (5, 7), (1, 1)]


def random_masks(count: int, seed: int = 0, height: int = 96, width: int = 144) -> Tensor:
    smooth = ndimage.gaussian_filter(randn(count, height, width, seed=seed).numpy(), (0, 9, 9))
    return (torch.tensor(smooth) > 0.02).float()


def pixel(row: int, column: int, height: int = 64, width: int = 64) -> Tensor:
    return box_mask(height, width, top=row, left=column, bottom=row + 1, right=column + 1)


@pytest.mark.parametrize("size", SIZES)
def test_coverage_is_torchvisions_nearest_resize(size: tuple[int, int]):
    masks = random_masks(3)
    expected = resize(masks, list(size), InterpolationMode.NEAREST, antialias=False) >= 0.5
    assert torch.equal(coverage(masks, *size, "published code"), expected)


@pytest.mark.parametrize("size", SIZES)
def test_nearest_reads_the_pixel_at_the_floor_of_the_scaled_index(size: tuple[int, int]):
    masks = random_masks(2)
    rows = [i * 96 // size[0] for i in range(size[0])]
    columns = [j * 144 // size[1] for j in range(size[1])]
    expected = masks[:, rows][:, :, columns] >= 0.5
    assert torch.equal(coverage(masks, *size, "published code"), expected)


def test_a_small_object_keeps_the_cell_it_covers_most():
    small = box_mask(64, 64, top=20, left=28, bottom=22, right=35)  # most of it in column 1 of 4
    covered = coverage(small[None], 4, 4, "paper")
    assert not coverage(small[None], 4, 4, "published code").any()
    assert covered[0].nonzero().tolist() == [[1, 1]]


def test_a_small_object_takes_its_cell_from_a_large_one():
    large, small = torch.ones(64, 64), pixel(21, 37)
    covered = coverage(torch.stack([large, small]), 4, 4, "paper")
    assert covered[1].nonzero().tolist() == [[1, 2]]
    assert torch.equal(covered[0], ~covered[1])


@pytest.mark.parametrize("size", [(12, 18), (8, 8), (6, 9), (5, 7)])
def test_in_the_paper_variant_a_cell_belongs_to_what_fills_a_quarter_of_it(size: tuple[int, int]):
    masks = random_masks(3)
    height, width = size
    for mask, cells in zip(masks, coverage(masks, *size, "paper"), strict=True):
        for i in range(height):
            for j in range(width):
                top, bottom = i * 96 // height, -(-(i + 1) * 96 // height)
                left, right = j * 144 // width, -(-(j + 1) * 144 // width)
                share = float(mask[top:bottom, left:right].mean())
                assert bool(cells[i, j]) == (share >= 0.25)


def test_an_object_that_vanishes_spares_the_only_cell_of_another():
    only = box_mask(64, 64, top=16, left=16, bottom=32, right=32)  # exactly cell (1, 1) of 4x4
    small = box_mask(
        64, 64, top=18, left=20, bottom=20, right=34
    )  # mostly there, a bit to the right
    covered = coverage(torch.stack([only, small]), 4, 4, "paper")
    assert covered[0].nonzero().tolist() == [[1, 1]]
    assert covered[1].nonzero().tolist() == [[1, 2]]


def cells_near(mask: Tensor, size: int) -> Tensor:
    """The cells in which a mask has a pixel, and their neighbours."""
    holds = torch.nn.functional.adaptive_max_pool2d(mask[None], size)[0].numpy() > 0
    return torch.tensor(ndimage.binary_dilation(holds, structure=torch.ones(3, 3).numpy()))


@pytest.mark.parametrize("count", [2, 3])
def test_an_object_wholly_in_the_only_cell_of_another_still_gets_a_cell_at_its_place(count: int):
    masks = torch.stack([pixel(55 + i, 57 + i) for i in range(count)])  # all in cell (3, 3) of 4x4
    covered = coverage(masks, 4, 4, "paper")
    for mask, cells in zip(masks, covered, strict=True):
        assert cells.any()
        assert not (cells & ~cells_near(mask, 4)).any()


@pytest.mark.parametrize("seed", range(8))
def test_no_object_vanishes_on_any_grid(seed: int):
    rows, columns = (randn(2, 6, seed=seed).abs() * 23 % 63).long().tolist()
    masks = torch.stack([pixel(r, c) for r, c in zip(rows, columns, strict=True)])
    for size in (32, 16, 8, 4):
        covered = coverage(masks, size, size, "paper")
        assert covered.flatten(1).any(dim=1).all()


def test_a_mask_without_pixels_gets_no_cell():
    assert not coverage(torch.zeros(1, 64, 64), 4, 4, "paper").any()


@pytest.mark.parametrize("last_object_wins", [False, True])
@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_groups_hold_every_cell_once(count: int, last_object_wins: bool):
    covered = coverage(random_masks(count), 12, 18, "paper")
    groups = cell_groups(covered, last_object_wins)
    cells = torch.cat([group.cells for group in groups])
    assert torch.equal(cells.sort().values, torch.arange(12 * 18))
    assert all((group.cells.diff() > 0).all() for group in groups)


@pytest.mark.parametrize("last_object_wins", [False, True])
def test_each_cell_takes_the_value_and_the_words_that_the_overlap_rule_gives_it(
    last_object_wins: bool,
):
    covered = coverage(random_masks(3), 12, 18, "published code")
    assert (covered.sum(dim=0) == 3).any()
    for group in cell_groups(covered, last_object_wins):
        for cell in group.cells.tolist():
            objects = covered.flatten(1)[:, cell].nonzero().flatten().tolist()
            is_background = not objects or (len(objects) > 1 and not last_object_wins)
            assert group.value == (3 if is_background else objects[-1])
            assert list(group.visible) == objects


def cells(*rows: str) -> Tensor:
    """(K, 2, n) bool: the objects, by number, in each cell of two rows of a grid ("01" is two)."""
    grid = [row.split() for row in rows]
    count = 1 + max(int(digit) for row in grid for cell in row for digit in cell if digit != ".")
    return torch.tensor([[[str(i) in cell for cell in row] for row in grid] for i in range(count)])


@pytest.mark.parametrize(
    ("rows", "to_background", "to_last"),
    [
        (("0 0 1", ". 1 1"), {}, {}),
        (("0 01 1", ". . ."), {}, {}),
        (("01 01 .", ". . ."), {0: (1,), 1: (0,)}, {0: (1,)}),  # they coincide
        (("0 01 01", "0 0 0"), {1: (0,)}, {}),  # the first covers the second
        (("1 01 01", "1 1 1"), {0: (1,)}, {0: (1,)}),  # the second covers the first
        (("1 01 02", "1 2 2"), {0: (1, 2)}, {0: (1, 2)}),  # two of them together
        (("1 1 .", ". . ."), {}, {}),  # an object that covers no cell is not hidden
    ],
)
def test_an_object_is_hidden_when_others_have_all_of_its_cells(
    rows: tuple[str, str], to_background: dict[int, Any], to_last: dict[int, Any]
):
    covered = cells(*rows)
    assert find_hidden_objects(covered, last_object_wins=False) == to_background
    assert find_hidden_objects(covered, last_object_wins=True) == to_last


@pytest.mark.parametrize("size", [(12, 18), (16, 16), (8, 4), (24, 36)])
def test_the_papers_background_has_no_pixel_of_an_object(size: tuple[int, int]):
    masks = random_masks(2)
    background = latent_background(masks, *size, "paper")
    pixels = torch.nn.functional.interpolate(background[None, None].float(), size=(96, 144))[0, 0]
    assert not (masks.bool() & pixels.bool()).any()
    blocks = masks.amax(dim=0).reshape(size[0], 96 // size[0], size[1], 144 // size[1])
    assert torch.equal(~background, blocks.sum(dim=(1, 3)) > 0)


def test_a_small_object_is_not_blended_away_in_the_paper_variant():
    background = latent_background(pixel(13, 29)[None], 8, 8, "paper")
    assert (~background).nonzero().tolist() == [[1, 3]]


@pytest.mark.parametrize("size", [(16, 16), (24, 16), (12, 20)])
def test_the_published_foreground_is_the_union_over_four_scales(size: tuple[int, int]):
    masks = random_masks(2, height=8 * size[0], width=8 * size[1])
    foreground = masks.amax(dim=0, keepdim=True)
    union = torch.zeros(1, *size, dtype=torch.bool)
    for divisor in (1, 2, 4, 8):
        coarse = [side // divisor for side in size]
        sampled = resize(foreground, coarse, InterpolationMode.NEAREST, antialias=False)
        union |= resize(sampled, list(size), InterpolationMode.NEAREST, antialias=False) > 0.5
    background = latent_background(masks, *size, "published code")
    assert torch.equal(background, ~union[0])


def test_the_published_foreground_is_larger_than_what_the_latent_grid_samples():
    masks = random_masks(2, height=128, width=128)
    sampled = coverage(masks, 16, 16, "published code").any(dim=0)
    foreground = ~latent_background(masks, 16, 16, "published code")
    assert not (sampled & ~foreground).any()
    assert foreground.sum() > sampled.sum()


@pytest.mark.parametrize("size", [(32, 48), (39, 48), (33, 55)])
def test_painted_cells_are_those_that_the_latent_gets_back(size: tuple[int, int]):
    """Whatever a VAE crops."""
    cells = randn(2, 4, 6) > 0.5
    pixels = paint_cells(cells, size, 8)
    assert pixels.shape == (2, *size)
    for own, painted in zip(cells, pixels, strict=True):
        fitted = fit_masks(painted[None], 32, 48, 8)
        assert torch.equal(latent_background(fitted, 4, 6, "paper"), ~own)
