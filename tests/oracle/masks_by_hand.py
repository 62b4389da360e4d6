"""Masks of the oracle, in numpy: disc dilation, layer grids, overlap, the latent's background.

Written from the specification (ALE-Edit, section 3.2, Eq. 4, the published code's behaviour, and
what the pack defines where the paper is silent); shares no line with the pack.
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


def shares(mask: Masks, height: int, width: int) -> np.ndarray:
    """(height, width): the share of each cell's pixels that are in the mask (H, W). A pixel that a
    border between cells cuts counts in both."""
    h, w = mask.shape
    share = np.empty((height, width))
    for i, j in np.ndindex(height, width):
        rows = slice(i * h // height, -(-(i + 1) * h // height))
        columns = slice(j * w // width, -(-(j + 1) * w // width))
        share[i, j] = mask[rows, columns].mean()
    return share


def on_grid(masks: Masks, height: int, width: int, variant: str) -> Masks:
    """(K, height, width). Published code: nearest. The paper is silent; the pack's paper variant: a
    cell belongs to a mask that holds a quarter of its pixels. An object that vanishes so keeps the
    cell that it covers most, its alone, since a shared cell would go to the background."""
    if variant == "published code":
        return nearest(masks, height, width)
    share = np.stack([shares(mask, height, width) for mask in masks])
    grids = share >= 0.25
    for i in range(len(masks)):
        if not grids[i].any():
            row, column = np.unravel_index(share[i].argmax(), share[i].shape)
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
    """(height, width): Eq. 4's m_back, a cell without any pixel of an object; or the inverse of the
    published code's union over four nearest samplings."""
    foreground = np.asarray(masks.any(0))
    if variant == "paper":
        return shares(foreground, height, width) == 0
    grid = nearest(foreground, height, width)
    for scale in (2, 4, 8):
        coarse = nearest(foreground, height // scale, width // scale)
        grid = grid | nearest(coarse, height, width)
    return ~grid
