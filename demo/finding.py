"""Finds the objects of a generated image: connected patches of saturated colour."""

import numpy as np
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
    labels = label_patches(inside)
    sizes = [(int((labels == i).sum()), i) for i in labels[inside].unique().tolist()]
    kept = [i for size, i in sorted(sizes, reverse=True) if size > _SMALLEST * inside.numel()]
    if not kept:
        return torch.zeros(0, *inside.shape)
    return torch.stack([(labels == i).float() for i in kept[:at_most]])


def label_patches(inside: Tensor) -> Tensor:
    """Label (H, W) per pixel: the largest pixel number of its patch of `inside`; 0 outside.

    Pixels that touch at a corner belong to one patch.
    """
    from scipy import ndimage

    patches = np.zeros(inside.shape, np.int32)
    ndimage.label(inside.cpu().numpy(), np.ones((3, 3)), output=patches)
    numbers = np.arange(1, inside.numel() + 1).reshape(inside.shape)
    largest = ndimage.maximum(numbers, patches, np.arange(patches.max() + 1))
    largest[0] = 0
    return torch.from_numpy(largest[patches]).to(inside.device)
