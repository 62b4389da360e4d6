"""Finds the objects of a generated image: connected patches of saturated colour."""

import torch
import torch.nn.functional as F
from torch import Tensor

_SATURATED = 0.22  # max - min of RGB; backgrounds stay below 0.12
_SMALLEST = 0.006  # of the image's area


def find_objects(image: Tensor, at_most: int = 6) -> Tensor:
    """Masks (K, H, W) of the patches of an image (H, W, 3) in [0, 1], largest first."""
    seeds = (image.amax(-1) - image.amin(-1) > _SATURATED).float()[None, None]
    closed = -F.max_pool2d(-F.max_pool2d(seeds, 5, 1, 2), 5, 1, 2)  # bridges joints and highlights
    inside = closed[0, 0] > 0
    labels = connected(inside)
    sizes = [(int((labels == i).sum()), i) for i in labels[inside].unique().tolist()]
    kept = [i for size, i in sorted(sizes, reverse=True) if size > _SMALLEST * inside.numel()]
    if not kept:
        return torch.zeros(0, *inside.shape)
    return torch.stack([(labels == i).float() for i in kept[:at_most]])


def connected(inside: Tensor) -> Tensor:
    """Label (H, W) per pixel: the largest pixel number reachable within `inside`; 0 outside."""
    exact = torch.float32 if inside.numel() < 2**24 else torch.float64
    numbers = torch.arange(1, inside.numel() + 1, dtype=exact).view_as(inside)
    labels = (numbers * inside)[None, None]
    while True:
        spread = F.max_pool2d(labels, 3, 1, 1) * inside
        if torch.equal(spread, labels):
            return labels[0, 0]
        labels = spread
