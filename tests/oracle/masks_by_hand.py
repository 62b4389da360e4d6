"""Masks of the oracle, in numpy: disc dilation, nearest resizing, overlap, the latent's background.

Written from the specification alone (ALE-Edit, section 3.2, Eq. 4 and the published code's
behaviour); shares no line with the pack.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import binary_dilation

Masks = np.ndarray  # bool; (K, H, W) or (H, W)


def dilate(masks: Masks, fraction: float) -> Masks:
    """(K, H, W): each mask grown by the disc x^2 + y^2 <= r^2 with r = int(H * fraction)."""
    radius = int(masks.shape[-2] * fraction)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = x**2 + y**2 <= radius**2
    return np.stack([binary_dilation(mask, structure=disc) for mask in masks])


def nearest(mask: Masks, height: int, width: int) -> Masks:
    """(..., height, width): the pixel at floor(i * size / cells), as torchvision takes it."""
    rows = np.arange(height) * mask.shape[-2] // height
    columns = np.arange(width) * mask.shape[-1] // width
    return mask[..., rows[:, None], columns]


def most_covered_cell(mask: Masks, height: int, width: int) -> tuple[int, int]:
    """The cell of a (height, width) grid with the largest share of the mask."""
    fine = np.repeat(np.repeat(mask, height, axis=0), width, axis=1)
    h, w = mask.shape
    share = fine.reshape(height, h, width, w).mean((1, 3), dtype=np.float64)
    row, column = np.unravel_index(share.argmax(), share.shape)
    return int(row), int(column)


def on_grid(masks: Masks, height: int, width: int, variant: str) -> Masks:
    """(K, height, width): nearest; in the paper variant an object that vanishes keeps one cell, its
    alone, since a shared cell would go to the background."""
    grids = nearest(masks, height, width).copy()
    if variant == "paper":
        for i, mask in enumerate(masks):
            if not grids[i].any():
                row, column = most_covered_cell(mask, height, width)
                grids[:, row, column] = False
                grids[i, row, column] = True
    return grids


def regions_and_background(grids: Masks, overlap: str) -> tuple[Masks, Masks]:
    """(K, h, w) and (h, w), a partition: a cell of several objects belongs to the background,
    or (Algorithm 2, line 12) to the last of them."""
    if overlap == "background":
        regions = grids & (grids.sum(0) == 1)
    else:
        later = [grids[i + 1 :].any(0) for i in range(len(grids))]
        regions = grids & ~np.stack(later)
    return regions, ~np.asarray(regions.any(0))


def latent_background(masks: Masks, height: int, width: int, variant: str) -> Masks:
    """(height, width): Eq. 4's m_back, or the published code's union over four scales, inverted."""
    foreground = np.asarray(masks.any(0))
    grid = nearest(foreground, height, width)
    if variant == "published code":
        for scale in (2, 4, 8):
            coarse = nearest(foreground, height // scale, width // scale)
            grid = grid | nearest(coarse, height, width)
    return ~grid
