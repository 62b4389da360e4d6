"""LPIPS of the background (R. Zhang et al., 2018, arXiv 1801.03924), of any backbone's features.

`features` maps images (1, 3, H, W) in [-1, 1] to feature maps (1, C, h, w), one for each layer;
`heads` holds the linear weights (C,) of each layer. Scaling to the backbone's colours is its own.
Lower is better; NaN without background. Images are (H, W, 3) in [0, 1], backgrounds (H, W).
"""

from collections.abc import Callable, Sequence
from math import nan

import torch
import torch.nn.functional as F
from torch import Tensor

from .preservation import blacken

Features = Callable[[Tensor], Sequence[Tensor]]


@torch.no_grad()
def lpips_map(features: Features, heads: Sequence[Tensor], a: Tensor, b: Tensor) -> Tensor:
    """Distance (H, W) at each pixel: every layer's map, enlarged to the images' size, summed."""
    size = a.shape[:2]
    maps = _layer_maps(features, heads, a, b)
    enlarged = [F.interpolate(m, size, mode="bilinear", align_corners=False) for m in maps]
    return torch.stack(enlarged).sum(0)[0, 0]


@torch.no_grad()
def pie_bench_lpips(
    features: Features, heads: Sequence[Tensor], source: Tensor, edited: Tensor, background: Tensor
) -> float:
    """PIE-Bench's lpips_unedit_part: both images black inside the objects, mean over all pixels."""
    if not (background > 0.5).any():
        return nan
    black = [blacken(image, background) for image in (source, edited)]
    return float(sum(m.mean() for m in _layer_maps(features, heads, *black)))


def background_lpips(
    features: Features, heads: Sequence[Tensor], source: Tensor, edited: Tensor, background: Tensor
) -> float:
    """Mean distance over background pixels, with the source's objects in both images."""
    inside = background > 0.5
    if not inside.any():
        return nan
    pasted = torch.where(inside[..., None], edited, source)
    return float(lpips_map(features, heads, source, pasted)[inside].mean())


def _layer_maps(features: Features, heads: Sequence[Tensor], a: Tensor, b: Tensor) -> list[Tensor]:
    """Distance (1, 1, h, w) of the normalised features of each layer."""
    of_a, of_b = (features(image.permute(2, 0, 1)[None].float() * 2 - 1) for image in (a, b))
    return [
        ((_unit(x) - _unit(y)).square() * head[None, :, None, None]).sum(1, keepdim=True)
        for x, y, head in zip(of_a, of_b, heads, strict=True)
    ]


def _unit(features: Tensor) -> Tensor:
    return features / (features.square().sum(1, keepdim=True) + 1e-8).sqrt()
