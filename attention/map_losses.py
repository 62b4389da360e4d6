"""How much of the attention in a region is on words: the two constraints of MAG-Edit.

Mao, Chen, Zhang, Gu, Wang, Luo, Zhu, Shou: MAG-Edit: Localized Image Editing in Complex Scenarios
via Mask-Based Attention-Adjusted Guidance (arXiv 2312.11396). Maps (B, heads, L, N) of an attention
layer with L positions over N tokens; a region (B or 1, L) is 1 inside and 0 outside, and has at
least one position; a word is the rows of its tokens. Losses are (B,).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from .descent import descend

Word: TypeAlias = Sequence[int]
WordLoss: TypeAlias = Callable[[Tensor, Tensor, Word], Tensor]


def token_ratio_loss(maps: Tensor, region: Tensor, word: Word) -> Tensor:
    """(1 - r)^2, r the word's share of the attention of a position of the region: the mean of its
    tokens over the sum of all tokens, which is not 1 where maps were carried over."""
    shares = maps[..., list(word)].mean(-1) / maps.sum(-1)
    inside = region[:, None]
    return (1 - (shares * inside).sum(-1) / inside.sum(-1)).square().mean(1)


def spatial_ratio_loss(maps: Tensor, region: Tensor, word: Word) -> Tensor:
    """3 - 4 r, r the region's share of the attention that all positions pay to the word."""
    attention = maps[..., list(word)].sum(-1)
    return (3 - 4 * (attention * region[:, None]).sum(-1) / attention.sum(-1)).mean(1)


def mean_loss(
    loss: WordLoss, layers: Sequence[Tensor], region: Tensor, words: Sequence[Word]
) -> Tensor:
    """The mean over the layers and the words of one object."""
    return torch.stack([loss(maps, region, word) for maps in layers for word in words]).mean(0)


def move_down(x: Tensor, gradient: Tensor, where: Tensor, sigma: float) -> Tensor:
    """Latents after one update along the gradient of a loss by x, on the cells of `where` (B or 1,
    1, h, w). The method updates by sigma times the gradient."""
    return descend(x, gradient, where * sigma, sigma)
