"""TE and TI: how much of an object's target shows in the background and on the other objects.

Mun, Nam, Cho, Ok: Addressing Text Embedding Leakage in Diffusion-based Image Editing, ICCV 2025
(arXiv 2412.04715), Eq. 5 and 6. Cut-outs are black outside the mask and not cropped, as in
PIE-Bench; a similarity is CLIPScore's max(100 cos, 0).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import nan

import torch
from torch import Tensor

Cosines = Callable[[Tensor, list[str]], Tensor]
"""Cosines (B, T) of images (B, H, W, 3) in [0, 1] and T texts."""


@dataclass(frozen=True)
class Leakage:
    """Lower is better; a bare figure says little without that of the source image.

    te: mean score of the background and each target. ti: mean score of each object and each other
    object's target; NaN with one object. pairs (K, K+1): score of target i (row) on object j
    (column), the last column on the background.
    """

    te: float
    ti: float
    pairs: Tensor


def leakage(cosines: Cosines, image: Tensor, masks: Tensor, targets: Sequence[str]) -> Leakage:
    """TE and TI of an image (H, W, 3) with raw object masks (K, H, W) and K target phrases."""
    if len(masks) != len(targets) or not len(masks):
        raise ValueError(
            f"{len(masks)} masks and {len(targets)} targets. Give one mask for each target phrase."
        )
    alone = cut_outs(image, masks)
    similar = cosines(alone, list(targets)).cpu()  # (K+1, K)
    pairs = (100 * similar).clamp(min=0).T
    if bool((masks > 0.5).any(0).all()):
        pairs = torch.cat([pairs[:, :-1], torch.full_like(pairs[:, -1:], nan)], 1)
    return Leakage(te_of(pairs), ti_of(pairs), pairs)


def cut_outs(image: Tensor, masks: Tensor) -> Tensor:
    """(K+1, H, W, 3): each object alone, then the background alone, on black."""
    objects = (masks > 0.5).to(image.dtype)
    background = 1 - objects.amax(0, keepdim=True)
    return image * torch.cat([objects, background])[..., None]


def te_of(pairs: Tensor) -> float:
    """Target-external leakage, Eq. 5, of scores (K, K+1) as in `Leakage.pairs`."""
    return float(pairs[:, -1].mean())


def ti_of(pairs: Tensor) -> float:
    """Target-internal leakage, Eq. 6, of scores (K, K+1); NaN with one object."""
    count = len(pairs)
    if count < 2:
        return nan
    others = ~torch.eye(count, dtype=torch.bool)
    return float(pairs[:, :-1][others].mean())
