"""Small islands and holes of a mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor


def remove_specks(mask: Tensor, fraction: float) -> Tensor:
    """A mask (H, W), bool, without islands and holes that have less than a fraction of its pixels;
    0 leaves it as it is. Its largest island always stays.

    Pixels that touch at an edge belong together. A hole at the image's border is none.
    """
    if fraction <= 0 or not mask.any():
        return mask
    least = fraction * float(mask.sum())
    array = mask.numpy()
    kept = _keep_pieces(array, least, keep_largest=True)
    outside = ~kept
    return torch.from_numpy(~_keep_pieces(outside, least, keep_border=True))


def _keep_pieces(
    mask: np.ndarray, least: float, *, keep_largest: bool = False, keep_border: bool = False
) -> np.ndarray:
    """The connected pieces of at least so many pixels."""
    from scipy.ndimage import label

    labelled: Any = label(mask)
    labels, count = labelled
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    keep = sizes >= least
    if keep_largest and count:
        keep[1 + int(sizes[1:].argmax())] = True
    if keep_border:
        rims = (labels[0], labels[-1], labels[:, 0], labels[:, -1])
        keep[np.unique(np.concatenate(rims))] = True
    keep[0] = False
    return keep[labels]
