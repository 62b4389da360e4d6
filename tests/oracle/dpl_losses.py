"""The losses of Dynamic Prompt Learning and LocInv, and the background of clusters, cell by cell.

Wang et al. (arXiv 2309.15664), Tang et al. (arXiv 2405.01496) and their published code. Written
from the specification alone (methods.md D.2); shares no line with the pack.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .ore_by_hand import N


def cosine(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.flatten(), b.flatten()
    lengths = (a * a).sum().sqrt() * (b * b).sum().sqrt()
    return (a * b).sum() / lengths if float(lengths.detach()) > 0 else (a * b).sum()


def smoothed(cells: Tensor) -> Tensor:
    """By exp(-d^2) of the 3 x 3 neighbours; beyond a border the grid is mirrored at its last
    row."""
    height, width = cells.shape
    weights = {(dy, dx): math.exp(-(dy * dy + dx * dx)) for dy in (-1, 0, 1) for dx in (-1, 0, 1)}
    total = sum(weights.values())

    def mirrored(i: int, n: int) -> int:
        return -i if i < 0 else 2 * (n - 1) - i if i >= n else i

    rows = []
    for y in range(height):
        row = []
        for x in range(width):
            near = [
                weight * cells[mirrored(y + dy, height), mirrored(x + dx, width)]
                for (dy, dx), weight in weights.items()
            ]
            row.append(torch.stack(near).sum() / total)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def attention_balancing(a: Tensor, nouns: Sequence[Sequence[int]]) -> Tensor:
    sharp = (100 * a[:, :, 1 : N - 1]).softmax(-1)
    losses = []
    for rows in nouns:
        own = torch.stack([sharp[:, :, row - 1] for row in rows]).sum(0)
        losses.append((1 - smoothed(own).max()).clamp(min=0))
    return torch.stack(losses).max()


def losses_of(
    a: Tensor,
    nouns: Sequence[Sequence[int]],
    adjectives: Sequence[Sequence[int]],
    background: Tensor | None,
    masks: Sequence[Tensor],
) -> list[Tensor]:
    """The losses of an attention (h, w, 77). background: (h, w), of DPL; without it, LocInv's.
    adjectives: of each noun, if they are bound."""
    maps = [torch.stack([a[:, :, row] for row in rows]).sum(0) for rows in nouns]
    count = len(maps)
    found = []
    if background is not None:
        found.append(attention_balancing(a, nouns))
        found.append(torch.stack([cosine(own, background) for own in maps]).mean())
        pairs = [cosine(maps[i], maps[j]) for i in range(count) for j in range(i + 1, count)]
        found.append(torch.stack(pairs).mean())
    else:
        alike = [cosine(own, mask) for own, mask in zip(maps, masks, strict=True)]
        found.append(1 - torch.stack(alike).mean())
        inside = [(own * mask).sum() / own.sum() for own, mask in zip(maps, masks, strict=True)]
        found.append(1 - torch.stack(inside).mean())
    if adjectives:
        bound = [
            cosine(own, torch.stack([a[:, :, row] for row in rows]).sum(0))
            for own, rows in zip(maps, adjectives, strict=True)
        ]
        found.append(1 - torch.stack(bound).mean())
    return found


def background_of(labels: Tensor, maps: Tensor, least: float) -> Tensor:
    """(h, w) flags: cells of the nouns' maps (K, h, w) with a part of a cluster that no noun scores
    above `least` in. labels: of the cells of another grid, whose sides are in whole proportion."""
    (height, width), (rows, columns) = maps.shape[1:], labels.shape
    spread = torch.stack([(own - own.min().abs()) / own.max() for own in maps])
    shown = torch.zeros(len(maps), rows, columns)
    for y in range(rows):
        for x in range(columns):
            shown[:, y, x] = spread[:, y * height // rows, x * width // columns]
    free = torch.zeros(rows, columns, dtype=torch.bool)
    for cluster in {int(label) for label in labels.flatten()}:
        cells = labels == cluster
        if max(float(own[cells].mean()) for own in shown) <= least:
            free |= cells
    found = torch.zeros(height, width)
    for y in range(height):
        for x in range(width):
            for v in range(rows):
                for u in range(columns):
                    touches = (
                        v * height < (y + 1) * rows
                        and (v + 1) * height > y * rows
                        and u * width < (x + 1) * columns
                        and (u + 1) * width > x * columns
                    )
                    if touches and free[v, u]:
                        found[y, x] = 1
    return found
