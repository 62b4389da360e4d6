"""Maps of words over an image: as heat, and as masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

COLORS = (
    *((0.0, 0.0, 0.15), (0.35, 0.05, 0.45), (0.75, 0.15, 0.35)),
    *((0.98, 0.5, 0.1), (1.0, 0.95, 0.55)),
)
"""From no share to the greatest, equally spaced."""
LEAST, MOST = 0.35, 0.75
"""How much of the image the heat covers at no share, and at the greatest."""


def enlarge(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (B, W, h, w) in [0, 1], smoothly enlarged to (B, W, *size), each with greatest value
    1."""
    enlarged = interpolate(maps.float(), tuple(size), mode="bicubic").clamp(min=0)
    return enlarged / enlarged.amax((-1, -2), keepdim=True).clamp(min=1e-12)


def paint(images: Tensor, shares: Tensor) -> Tensor:
    """Images (B, H, W, 3) in [0, 1] under the heat of W maps (B, W, H, W) each: (B, W, H, W, 3)."""
    colors = torch.tensor(COLORS)
    at = shares.clamp(0, 1) * (len(COLORS) - 1)
    below = at.long().clamp(max=len(COLORS) - 2)
    heat = torch.lerp(colors[below], colors[below + 1], (at - below)[..., None])
    cover = LEAST + (MOST - LEAST) * shares
    return torch.lerp(images[:, None].expand_as(heat), heat, cover[..., None])
