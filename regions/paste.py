"""Putting an edited image back onto the pixels of its source.

A VAE crops an image to whole latent cells, and shifts colours slightly even where nothing was
edited.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .regions import Regions, each_image, resize_background


def restore_size(edited: Tensor, source: Tensor, cell: int) -> Tensor:
    """edited (B, h, w, 3 or 4) at the exact size of source (B or 1, H, W, 3 or 4), without alpha:
    the strip the VAE cropped is the source's. cell: pixels along each side of a latent cell.

    Raises ValueError when the sizes differ by more than that strip, or the batches do not fit.
    """
    height, width = source.shape[1:3]
    top, left = (height - edited.shape[1]) // 2, (width - edited.shape[2]) // 2
    if not (0 <= height - edited.shape[1] < cell and 0 <= width - edited.shape[2] < cell):
        raise ValueError(
            f"the edited image is {edited.shape[1]}x{edited.shape[2]} (height x width), the source "
            f"{height}x{width}. Connect the image that was encoded for this edit."
        )
    if source.shape[0] not in (1, edited.shape[0]):
        raise ValueError(
            f"there are {edited.shape[0]} edited images and {source.shape[0]} sources. Connect one "
            "source image, or as many as edited ones."
        )
    out = source[..., :3].expand(edited.shape[0], -1, -1, -1).clone()
    out[:, top : top + edited.shape[1], left : left + edited.shape[2]] = edited[..., :3]
    return out


def paste_background(edited: Tensor, source: Tensor, regions: Regions, cell: int) -> Tensor:
    """The edited pixels inside the dilated regions and the source's outside, with the regions'
    edge, and the source's alpha where it has one; shapes as restore_size takes them."""
    height, width = source.shape[1:3]
    each_image(regions, len(edited))
    backgrounds = [resize_background(one.soft_background, height, width) for one in regions.images]
    background = torch.stack(backgrounds)[..., None].to(source)
    restored = restore_size(edited, source, cell).to(source)
    pasted = torch.lerp(restored, source[..., :3], background)
    alpha = source[..., 3:].expand(len(pasted), -1, -1, -1)
    return torch.cat([pasted, alpha], dim=-1) if alpha.shape[-1] else pasted
