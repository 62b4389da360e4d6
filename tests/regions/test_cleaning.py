"""Islands and holes of masks."""

from __future__ import annotations

import torch

from ale_edit.regions.cleaning import remove_specks


def mask() -> torch.Tensor:
    """A square of 20x20 with a hole of 2x2, an island of 2x2, and an island of 10x10."""
    out = torch.zeros(50, 50, dtype=torch.bool)
    out[5:25, 5:25] = True
    out[10:12, 10:12] = False
    out[30:32, 5:7] = True
    out[35:45, 35:45] = True
    return out


def test_small_islands_and_holes_go_and_large_ones_stay() -> None:
    cleaned = remove_specks(mask(), 0.05)
    expected = torch.zeros(50, 50, dtype=torch.bool)
    expected[5:25, 5:25] = True
    expected[35:45, 35:45] = True
    assert torch.equal(cleaned, expected)


def test_zero_leaves_a_mask_as_it_is() -> None:
    assert torch.equal(remove_specks(mask(), 0.0), mask())


def test_the_largest_island_always_stays() -> None:
    dots = torch.zeros(20, 20, dtype=torch.bool)
    dots[::4, ::4] = True
    assert remove_specks(dots, 0.5).sum() == 1


def test_a_notch_at_the_border_is_no_hole() -> None:
    notched = torch.ones(20, 20, dtype=torch.bool)
    notched[0:2, 8:10] = False
    assert torch.equal(remove_specks(notched, 0.05), notched)


def test_an_empty_mask_stays_empty() -> None:
    assert not remove_specks(torch.zeros(8, 8, dtype=torch.bool), 0.1).any()
