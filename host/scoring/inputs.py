"""What is connected to the score nodes: their pictures and masks, checked."""

from __future__ import annotations

import logging

from torch import Tensor

from ...regions.regions import USUAL_CELL, Regions, each_image, fit_masks
from ..messages import name_node
from ..pictures import read_pictures

logger = logging.getLogger(__name__)

LEAKAGE, PRESERVATION, COMPARE = "Leakage Score", "Preservation Score", "Compare"


def sources_of(source: Tensor, edited: Tensor, node: str) -> Tensor:
    """The source images (B, H, W, 3) of the edited ones, without the strip that a VAE crops.

    Raises ValueError when sizes or numbers do not fit.
    """
    source = read_pictures(source, node, "source")
    (count, height, width), sizes = edited.shape[:3], source.shape[1:3]
    if not (0 <= sizes[0] - height < USUAL_CELL and 0 <= sizes[1] - width < USUAL_CELL):
        raise ValueError(
            f"{node}: the source input is {sizes[0]}x{sizes[1]} (height x width), the image input "
            f"{height}x{width}. Connect the image that was encoded for this edit, at its size."
        )
    if len(source) not in (1, count):
        raise ValueError(
            f"{node}: the image input holds {count} images, the source input {len(source)}. "
            "Connect one source image, or as many as edited ones."
        )
    top, left = (sizes[0] - height) // 2, (sizes[1] - width) // 2
    return source[:, top : top + height, left : left + width].expand(count, -1, -1, -1)


def fit_raw_masks(regions: Regions, edited: Tensor, node: str) -> list[Tensor]:
    """The undilated masks (K, H, W) of each edited image, at its size.

    Masks of another size but the same shape are resized, which is logged. Raises ValueError when
    the shapes differ, or the regions are of another number of images.
    """
    height, width = edited.shape[1:3]
    with name_node(node):
        each = each_image(regions, len(edited))
    size = tuple(each[0].raw.shape[1:])
    try:
        masks = [fit_masks(one.raw, height, width, USUAL_CELL) for one in regions.images]
    except ValueError as error:
        raise ValueError(
            f"{node}: the masks of the regions input are {size[0]}x{size[1]} (height x width), the "
            f"image input is {height}x{width}: their shapes differ. Connect the regions of the "
            "image that was edited."
        ) from error
    if max(abs(size[0] - height), abs(size[1] - width)) >= USUAL_CELL:
        logger.warning(
            "%s: the masks are %dx%d and were resized to %dx%d (height x width).",
            *(node, *size, height, width),
        )
    return masks * len(each) if len(masks) == 1 else masks
