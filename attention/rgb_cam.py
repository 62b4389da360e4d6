"""Region-Guided Blending for Cross-Attention Masking (RGB-CAM).

Mun, Nam, Cho, Ok: Addressing Text Embedding Leakage in Diffusion-based Image Editing, ICCV 2025
(arXiv 2412.04715), section 3.2, Algorithm 2 and Eq. 3. Shapes: B batch, L positions, N tokens, C =
heads * width channels, K objects.

As published, every position is computed with each of the K+1 values and all but one result is
thrown away. Here the positions are grouped by region first, so that the attention rows sum to L
whatever K is. A word that a region must not see is left out of its keys, which is the limit of the
published additive mask of -100.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

Attention: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(q (B, L, C), k (B, N, C), v (B, N, C)) -> (B, L, C)."""
MaskedAttention: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(q, k, v, bias (L, N), added to the scores) -> (B, L, C)."""


@dataclass(frozen=True, eq=False)
class RegionText:
    """The text of one region of one layer: positions (n,) int64, keys and values (1, n_visible,
    C)."""

    positions: Tensor
    keys: Tensor
    values: Tensor


def visible_tokens(owner: Tensor, objects: Sequence[int]) -> Tensor:
    """(n,) int64: the tokens that a region may attend to: those of no object, and those of the
    given objects.

    owner: (N,) int64, object of each token, or a negative number for the start of text, "and" and
        the end-of-text run.
    """
    allowed = owner < 0
    for i in objects:
        allowed = allowed | (owner == i)
    return allowed.nonzero().flatten()


def region_text(
    keys: Tensor,
    values: Tensor,
    owner: Tensor,
    positions: Tensor,
    value: int,
    objects: Sequence[int],
) -> RegionText:
    """Keys and values that one region attends to (Algorithm 2, lines 4 and 10).

    keys: (N, C) projections of the plain prompt; values: (K+1, N, C) projections of ORE_1 .. ORE_K,
        e'_base.
    """
    tokens = visible_tokens(owner.to(keys.device), objects)
    return RegionText(positions.to(keys.device), keys[None, tokens], values[value, tokens][None])


@dataclass(frozen=True, eq=False)
class LayerText:
    """The texts of all regions of one layer.

    positions: (L,) int64, those of the regions in turn; together they hold every position once.
    """

    regions: tuple[RegionText, ...]
    positions: Tensor


def layer_text(regions: Sequence[RegionText]) -> LayerText:
    """The regions of one layer, prepared for region_cross_attention."""
    return LayerText(tuple(regions), torch.cat([region.positions for region in regions]))


def region_cross_attention(q: Tensor, text: LayerText, attention: Attention) -> Tensor:
    """RGB-CAM's output A for queries (B, L, C), Algorithm 2 of ALE-Edit: (B, L, C)."""
    if len(text.regions) == 1:
        return _attend(q, text.regions[0], attention)
    sizes = [len(region.positions) for region in text.regions]
    parts = q.index_select(1, text.positions).split(sizes, dim=1)
    grouped = [_attend(q, region, attention) for q, region in zip(parts, text.regions, strict=True)]
    return torch.empty_like(q).index_copy_(1, text.positions, torch.cat(grouped, dim=1))


@dataclass(frozen=True, eq=False)
class JoinedText:
    """The texts of all regions of one layer as one text: keys and values (1, M, C); bias (L, M), 0
    where a position may attend to a token, else minus infinity."""

    keys: Tensor
    values: Tensor
    bias: Tensor


def join_text(text: LayerText) -> JoinedText:
    """The regions of one layer, prepared for attend_joined; in the order of their first
    positions, so that the order of the objects changes no rounding."""
    regions = sorted(text.regions, key=lambda region: region.positions[:1].tolist())
    keys = torch.cat([region.keys for region in regions], dim=1)
    bias = keys.new_full((len(text.positions), keys.shape[1]), -torch.inf)
    start = 0
    for region in regions:
        stop = start + region.keys.shape[1]
        bias[region.positions, start:stop] = 0
        start = stop
    return JoinedText(keys, torch.cat([region.values for region in regions], dim=1), bias)


def attend_joined(q: Tensor, text: JoinedText, attention: MaskedAttention) -> Tensor:
    """The same as region_cross_attention in one call of up to K+1 times the operations: faster
    where so few positions are grouped that the calls take longer than the computing."""
    keys, values = (t.expand(q.shape[0], -1, -1) for t in (text.keys, text.values))
    return attention(q, keys, values, text.bias)


def _attend(q: Tensor, text: RegionText, attention: Attention) -> Tensor:
    batch = q.shape[0]
    return attention(q, text.keys.expand(batch, -1, -1), text.values.expand(batch, -1, -1))
