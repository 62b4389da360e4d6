"""How well the attention maps of nouns show their objects: the losses of Dynamic Prompt Learning
and of LocInv.

Wang, Yang, Yang, Butt, van de Weijer: Dynamic Prompt Learning (NeurIPS 2023, arXiv 2309.15664);
Tang, Wang, van de Weijer: LocInv (arXiv 2405.01496), with the numbers of their published code.
Attention (B, h, w, N) is the mean of heads and layers, over one chunk of N tokens; maps of words
(B, K, h, w) are of K words; a word is the rows of its tokens, whose maps are summed. Losses are
(B,).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import conv2d, cosine_similarity, pad

Words: TypeAlias = Sequence[Sequence[int]]
SHARPNESS = 100.0
"""Factor on the attention before its softmax."""


def maps_of(attention: Tensor, words: Words) -> Tensor:
    """(B, K, h, w)"""
    return torch.stack([attention[..., list(rows)].sum(-1) for rows in words], 1)


def balance_loss(attention: Tensor, words: Words) -> Tensor:
    """Of the noun that is least clear at its clearest place: 1 less the smoothed share of its
    tokens there, by a softmax over all tokens but the first and the last."""
    inner = (SHARPNESS * attention[..., 1:-1]).softmax(-1)
    shares = smooth(maps_of(inner, [[row - 1 for row in rows] for rows in words]))
    return (1 - shares.flatten(2).amax(-1)).clamp(min=0).amax(-1)


def smooth(maps: Tensor) -> Tensor:
    """By a kernel of 3 x 3 cells with exp(-d^2) at distance d, at reflected borders."""
    side = torch.arange(-1, 2, dtype=maps.dtype, device=maps.device).square().neg().exp()
    kernel = side[:, None] * side / side.sum() ** 2
    mode = "reflect" if min(maps.shape[-2:]) > 1 else "replicate"
    padded = pad(maps.flatten(0, 1)[:, None], (1, 1, 1, 1), mode=mode)
    return conv2d(padded, kernel[None, None]).view_as(maps)


def leakage_loss(maps: Tensor, background: Tensor) -> Tensor:
    """The mean cosine of the nouns' maps with a background (B or 1, h, w); 0 where it is empty."""
    return _cosines(maps, background[:, None].expand(len(maps), *maps.shape[1:])).mean(1)


def overlap_loss(maps: Tensor) -> Tensor:
    """The mean cosine of each two nouns' maps; 0 of a single noun."""
    pairs = list(combinations(range(maps.shape[1]), 2))
    if not pairs:
        return maps.sum((1, 2, 3)) * 0
    first, second = ([pair[i] for pair in pairs] for i in range(2))
    return _cosines(maps[:, first], maps[:, second]).mean(1)


def region_similarity_loss(maps: Tensor, regions: Tensor) -> Tensor:
    """1 less the mean cosine of the nouns' maps with their regions (B or 1, K, h, w)."""
    return 1 - _cosines(maps, regions.expand_as(maps)).mean(1)


def region_overlap_loss(maps: Tensor, regions: Tensor) -> Tensor:
    """1 less the mean share of the nouns' maps inside their regions (B or 1, K, h, w)."""
    return 1 - ((maps * regions).sum((2, 3)) / maps.sum((2, 3))).mean(1)


def binding_loss(nouns: Tensor, adjectives: Tensor) -> Tensor:
    """1 less the mean cosine of the maps of nouns with those of their adjectives."""
    return 1 - _cosines(nouns, adjectives).mean(1)


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    return cosine_similarity(a.flatten(2), b.to(a).flatten(2), dim=-1)
