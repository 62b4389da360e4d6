"""Regions on the grid of one attention layer: which cells belong to which object.

The published code samples the masks with nearest-neighbour, which reads the top left pixel of each
cell: an object of a few cells loses its left and upper rim. The paper does not say how masks are
resized; its variant here counts pixels, so a cell belongs to what covers it (docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .regions import THRESHOLD, fit_masks

MIN_SHARE = 0.25


@dataclass(frozen=True, eq=False)
class CellGroup:
    """Cells of a layer that are treated alike.

    cells: (n,) int64, positions in the flattened grid, ascending.
    value: index of the embedding that the cells take their value from; K (the number of objects) is
        the background's.
    visible: the objects whose words the cells may attend to.
    """

    cells: Tensor
    value: int
    visible: tuple[int, ...]


def coverage(masks: Tensor, height: int, width: int, variant: str) -> Tensor:
    """(K, height, width) bool: the cells of a grid that belong to each mask (K, H, W).

    "published code": the cells whose first pixel is in the mask (nearest sampling).
    "paper": the cells of which the mask has at least the share MIN_SHARE. A non-empty mask without
    such a cell gets the one in which it has the most pixels, and that cell is taken from the other
    objects unless it is their only one.
    """
    if variant == "published code":
        # antialias-free, as torchvision's resize(NEAREST)
        return F.interpolate(masks[None], size=(height, width), mode="nearest")[0] >= THRESHOLD
    covered = F.adaptive_avg_pool2d(masks, (height, width)) >= MIN_SHARE
    for i in range(len(masks)):
        if not covered[i].any() and masks[i].any():
            cell = _choose_cell(masks[i], covered)
            covered[:, cell[0], cell[1]] = False
            covered[i, cell[0], cell[1]] = True
    return covered


def find_nearest(masks: Tensor, height: int, width: int) -> Tensor:
    """(height, width) int64: which of the masks (K, H, W) is the nearest to each cell of a grid, by
    the mean distance of its pixels."""
    from scipy.ndimage import distance_transform_edt

    each = [np.asarray(distance_transform_edt((mask < THRESHOLD).numpy())) for mask in masks]
    distances = torch.from_numpy(np.stack(each)).float()
    return F.adaptive_avg_pool2d(distances, (height, width)).argmin(0)


def sample_masks(
    masks: Tensor, names: Sequence[str], grid: tuple[int, int], latent: tuple[int, int], cell: int
) -> Tensor:
    """(K, *grid) bool: masks (K, H, W) of the named objects on a grid of a latent (h, w), by
    nearest sampling. cell: pixels along each side of a latent cell.

    Raises ValueError for a mask without a cell.
    """
    fitted = fit_masks(masks, cell * latent[0], cell * latent[1], cell)
    cells = coverage(fitted, *grid, "published code")
    for name, own in zip(names, cells, strict=True):
        if not own.any():
            raise ValueError(
                f'the mask of "{name}" has no cell of the {grid[0]}x{grid[1]} (height x width) on '
                "which the edit acts. Paint a larger mask, use a larger image, or remove the edit."
            )
    return cells


def require_cells(
    images: Sequence[Tensor],
    names: Sequence[str],
    grid: tuple[int, int],
    latent: tuple[int, int],
    cell: int,
) -> None:
    """Raises ValueError for a mask of the images (K, H, W) without a cell of a grid of the latent,
    before anything is sampled. See `sample_masks`."""
    for masks in images:
        sample_masks(masks, names, grid, latent, cell)


def find_mask_cells(
    images: Sequence[Tensor], size: tuple[int, int], cell: int, device: torch.device
) -> Tensor:
    """(B, 1, h, w) bool: the cells of latents of a size (h, w) in which any of an image's masks
    (K, H, W) has a pixel. images: those of each image, or of one for all. cell: pixels along each
    side of a latent cell."""
    height, width = size
    fitted = (fit_masks(masks, cell * height, cell * width, cell) for masks in images)
    found = [~latent_background(masks, height, width, "paper") for masks in fitted]
    return torch.stack(found)[:, None].to(device)


def paint_cells(cells: Tensor, size: tuple[int, int], cell: int) -> Tensor:
    """Values (B, h, w) of latent cells on the pixels of an image: (B, *size). The pixels that a VAE
    crops are as those beside them.

    cell: pixels along each side of a latent cell.
    """
    pixels = cells.repeat_interleave(cell, -2).repeat_interleave(cell, -1)
    (above, below), (left, right) = (
        (rest // 2, rest - rest // 2)
        for rest in (whole - own for whole, own in zip(size, pixels.shape[-2:], strict=True))
    )
    padding = (left, right, above, below)
    return F.pad(pixels[:, None].float(), padding, mode="replicate")[:, 0]


def _choose_cell(mask: Tensor, covered: Tensor) -> tuple[int, int]:
    """The (row, column) in which `mask` (H, W) has the most pixels, sparing cells that are another
    object's only one; where all of its cells are such, the nearest other cell to its centre."""
    height, width = covered.shape[-2:]
    share = F.adaptive_avg_pool2d(mask[None, None], (height, width))[0, 0]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    center_row, center_column = ((share * n).sum() / share.sum() for n in (rows, columns))
    distance = (rows - center_row) ** 2 + (columns - center_column) ** 2
    score = torch.where(share > 0, share, -distance - 1)
    is_only_cell = (covered & (covered.sum(dim=(1, 2), keepdim=True) == 1)).any(dim=0)
    if not is_only_cell.all():
        score = score.masked_fill(is_only_cell, -torch.inf)
    best = int(score.argmax())
    return best // width, best % width


def cell_groups(covered: Tensor, last_object_wins: bool) -> tuple[CellGroup, ...]:
    """Groups of cells with the same value and the same visible words; together they hold every cell
    once.

    covered: (K, h, w) bool. A cell that several objects cover takes the background's value, or that
    of the last object (Algorithm 2, line 12) when last_object_wins; the words of all objects that
    cover it stay visible to it.
    """
    count = covered.shape[0]
    patterns, which = torch.unique(covered.flatten(1).T, dim=0, return_inverse=True)
    groups = []
    for p, pattern in enumerate(patterns):
        visible = tuple(pattern.nonzero().flatten().tolist())
        has_owner = len(visible) == 1 or (visible and last_object_wins)
        value = visible[-1] if has_owner else count
        groups.append(CellGroup((which == p).nonzero().flatten(), value, visible))
    return tuple(groups)


def find_hidden_objects(covered: Tensor, last_object_wins: bool) -> dict[int, tuple[int, ...]]:
    """The objects that cover cells of a grid (K, h, w) of which none takes their value, each with
    the objects that share its cells."""
    groups = cell_groups(covered, last_object_wins)
    owners = {group.value for group in groups}
    shared = {
        i: {j for group in groups if i in group.visible for j in group.visible}
        for i in range(len(covered))
    }
    return {i: tuple(sorted(js - {i})) for i, js in shared.items() if js and i not in owners}


def latent_background(masks: Tensor, height: int, width: int, variant: str) -> Tensor:
    """(height, width) bool on the latent grid: where Background Blending keeps the source. Eq. 4 of
    ALE-Edit.

    "paper": the cells in which no object has a pixel (a pixel cut by the border of two cells counts
    in both). "published code": the foreground is the union of the masks sampled at the latent size
    and at a half, a quarter and an eighth of it, so it grows by up to 8 cells.
    """
    if variant == "paper":
        return F.adaptive_max_pool2d(masks, (height, width)).amax(dim=0) < THRESHOLD
    foreground = masks.amax(dim=0)[None, None]
    union = F.interpolate(foreground, size=(height, width), mode="nearest")
    for divisor in (2, 4, 8):
        size = (max(height // divisor, 1), max(width // divisor, 1))
        coarse = F.interpolate(foreground, size=size, mode="nearest")
        union = torch.maximum(union, F.interpolate(coarse, size=(height, width), mode="nearest"))
    return union[0, 0] < THRESHOLD
