"""The regions of an image: a mask per object, dilated, and the background that no object covers;
and those of each image of a batch.

ALE-Edit, section 3.2 ("a slight dilation to improve transitions along object boundaries") and
appendix D.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

THRESHOLD = 0.5
ASPECT_TOLERANCE = 0.05
USUAL_CELL = 8
"""Pixels along each side of a latent cell of most models. For what has neither a model nor a VAE to
ask: Regions and the scores, which take images and masks alone."""
LARGEST_CELL = 16
"""The same of the model with the largest cells, Flux.2: Paste Background allows for what its VAE
crops."""


@dataclass(frozen=True, eq=False)
class ImageRegions:
    """Masks of K objects at image size.

    raw: (K, H, W) in {0, 1}, as given. dilated: (K, H, W) in {0, 1}, what attention and blending
        use.
    names: K phrases, in the order of the edits.
    feather: width in pixels over which the background's edge fades; 0 is a hard edge.
    """

    raw: Tensor
    dilated: Tensor
    names: tuple[str, ...]
    feather: int = 0

    @property
    def images(self) -> tuple[ImageRegions, ...]:
        """Those of each image: one, which serves all images of a batch."""
        return (self,)

    @property
    def background(self) -> Tensor:
        """(H, W) in {0, 1}: pixels that no dilated mask covers."""
        return (self.dilated.amax(dim=0) < THRESHOLD).to(self.dilated.dtype)

    @property
    def soft_background(self) -> Tensor:
        """(H, W) in [0, 1]: 0 on the dilated masks, rising to 1 over about `feather` pixels outside
        them."""
        if self.feather == 0:
            return self.background
        reach = max(self.feather // 3, 1)
        grown = dilate(self.dilated.amax(dim=0)[None], 2 * reach)
        # a box of half-width `reach` around a pixel of the mask lies within distance 2 * reach of
        # it
        padded = F.pad(grown[None], (reach,) * 4, mode="replicate")
        box = 2 * reach + 1
        rows = F.avg_pool2d(padded, (box, 1), stride=1)
        return 1 - F.avg_pool2d(rows, (1, box), stride=1)[0, 0]

    def overlaps(self) -> dict[tuple[int, int], tuple[float, float]]:
        """Of objects (i, j), i < j, whose dilated masks share a pixel, the share of each mask that
        lies in the other."""
        flat = self.dilated.flatten(1)
        shared = (flat @ flat.T).tolist()
        pairs = combinations(range(len(self.names)), 2)
        return {
            (i, j): (shared[i][j] / shared[i][i], shared[i][j] / shared[j][j])
            for i, j in pairs
            if shared[i][j] > 0
        }


@dataclass(frozen=True, eq=False)
class RegionsBatch:
    """Regions of the same objects in two or more images of one size, each image's own."""

    images: tuple[ImageRegions, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return self.images[0].names


Regions: TypeAlias = ImageRegions | RegionsBatch


def each_image(regions: Regions, count: int) -> tuple[ImageRegions, ...]:
    """The regions of each of `count` images.

    Raises ValueError when they are of another number of images, and not of one.
    """
    found = regions.images
    if len(found) not in (1, count):
        raise ValueError(
            f"the regions were made from {len(found)} images, but there are {count} images here. "
            "Make the regions from these images, or from one image for all."
        )
    return found * count if len(found) == 1 else found


def size_of(regions: Regions) -> tuple[int, int]:
    """(height, width) of the masks."""
    height, width = regions.images[0].raw.shape[-2:]
    return height, width


def object_masks(regions: Regions) -> Tensor:
    """(B K, H, W): the masks as given, of image 1 first."""
    return torch.cat([one.raw for one in regions.images])


def soft_backgrounds(regions: Regions) -> Tensor:
    """(B, H, W): the background of each image, which fades with the feather."""
    return torch.stack([one.soft_background for one in regions.images])


def make_regions(
    masks: Sequence[Tensor], names: Sequence[str], dilation: float, feather: float = 0.0
) -> ImageRegions:
    """Regions from one mask per object.

    masks: K tensors (H, W) in [0, 1]; values from 0.5 on belong to the object. dilation, feather:
    radius of the growing disc and width of the soft edge, as fractions of the image height (the
    paper: 0.01; its code: 0.04).

    Raises ValueError when a mask is empty, naming the object.
    """
    raw = torch.stack([mask.cpu() >= THRESHOLD for mask in masks]).to(torch.float32)
    for name, mask in zip(names, raw, strict=True):
        if not mask.any():
            raise ValueError(f'the mask of "{name}" is empty: no pixel is 0.5 or more.')
    height = raw.shape[-2]
    dilated = dilate(raw, int(height * dilation))
    return ImageRegions(raw, dilated, tuple(names), int(height * feather))


def dilate(masks: Tensor, radius: int) -> Tensor:
    """Binary masks (K, H, W) grown by the disc x^2 + y^2 <= radius^2 (pixels)."""
    return torch.stack([_dilate(mask, radius) for mask in masks])


def _dilate(mask: Tensor, radius: int) -> Tensor:
    """One mask (H, W), grown. Only the part of the picture that it can reach is looked at."""
    from scipy.ndimage import distance_transform_edt

    inside = (mask >= THRESHOLD).numpy()
    out = np.zeros_like(inside)
    if inside.any():
        reach = tuple(
            slice(max(int(ns[0]) - radius, 0), int(ns[-1]) + radius + 1)
            for ns in (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
        )
        out[reach] = np.asarray(distance_transform_edt(~inside[reach])) <= radius
    return torch.from_numpy(out).to(mask.dtype)


def grow_by_area(mask: Tensor, share: float) -> Tensor:
    """A binary mask (H, W) grown by a square whose side is a share of that of a square of its
    area (CPAM's published code)."""
    side = int(float(mask.sum()) ** 0.5 * share + 1e-9)
    height, width = mask.shape
    for kernel in ((side, 1), (1, side)) if side > 1 else ():
        before = (kernel[0] // 2, kernel[1] // 2)
        mask = F.max_pool2d(mask[None], kernel, stride=1, padding=before)[0, :height, :width]
    return mask


def fit_masks(masks: Tensor, height: int, width: int, cell: int) -> Tensor:
    """Masks (K, h, w) brought to (K, height, width), the pixels that a latent stands for.

    cell: pixels along each side of a latent cell. A VAE crops the pixels that fill no cell: masks
    that are that much larger are centre-cropped likewise; other sizes are resized. Raises
    ValueError when the shapes differ too much for that.
    """
    h, w = masks.shape[-2:]
    if 0 <= h - height < cell and 0 <= w - width < cell:
        top, left = (h - height) // 2, (w - width) // 2
        return masks[..., top : top + height, left : left + width]
    return resize_masks(masks, height, width)


def resize_masks(masks: Tensor, height: int, width: int) -> Tensor:
    """Masks (K, h, w) resized to (K, height, width): the maximum of the pixels that fall together
    along an axis that shrinks, so that no mask is lost, nearest along one that grows.

    Raises ValueError when the aspect ratios differ by more than ASPECT_TOLERANCE.
    """
    h, w = masks.shape[-2:]
    if abs(h * width / (w * height) - 1) > ASPECT_TOLERANCE:
        raise ValueError(
            f"the masks are {h}x{w} (height x width), the image is {height}x{width}: their shapes "
            "differ. Make the masks from the image that is edited, at its size."
        )
    shrunk = F.adaptive_max_pool2d(masks, (min(h, height), min(w, width)))
    return F.interpolate(shrunk[None], size=(height, width), mode="nearest")[0]


def fit_background(background: Tensor, height: int, width: int, cell: int) -> Tensor:
    """A background (h, w) brought to (height, width) as fit_masks does with the masks it leaves."""
    return -fit_masks(-background[None], height, width, cell)[0]


def resize_background(background: Tensor, height: int, width: int) -> Tensor:
    """A background (h, w) resized to (height, width): the minimum of the pixels that fall together,
    so that no object is lost."""
    return -resize_masks(-background[None], height, width)[0]
