"""InfEdit's words by hand, for the oracle: which source token each target token takes its map from,
and which tokens the local blend goes by (its published seq_aligner, as methods.md B.4 says).

On token ids with start and end token, one chunk of 77. Written from the specification alone; shares
no line with the pack.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from .ore_by_hand import N, TextEncoder


@dataclass(frozen=True)
class Words:
    """source_of: 77 source rows, -1 where a target row keeps its own map. edited, kept: 77 flags,
    alpha_e and alpha_m. length: target ids with start and end."""

    source_of: list[int]
    edited: list[bool]
    kept: list[bool]
    length: int


def aligned(source: list[int], target: list[int]) -> list[int]:
    """For each target token the source token it is paired with, or -1: gap 0, match 1, mismatch -1.

    Of equally good alignments the one that, read from the end, rather leaves a target token alone,
    then rather a source token, and pairs last.
    """

    @cache
    def best(i: int, j: int) -> int:
        """The score of the first i source and the first j target tokens."""
        if i == 0 or j == 0:
            return 0
        same = 1 if source[i - 1] == target[j - 1] else -1
        return max(best(i - 1, j), best(i, j - 1), best(i - 1, j - 1) + same)

    def walk(i: int, j: int) -> list[int]:
        if j == 0:
            return []
        if i == 0 or best(i, j) == best(i, j - 1):
            return [*walk(i, j - 1), -1]
        if best(i, j) == best(i - 1, j):
            return walk(i - 1, j)
        return [*walk(i - 1, j - 1), i - 1]

    return walk(len(source), len(target))


def words(
    encoder: TextEncoder, source: str, target: str, edit: str, keep: str, has_swapped_rows: bool
) -> Words:
    """has_swapped_rows: compare the embeddings of the rows that the published code exchanges."""
    x, y = encoder.ids(source), encoder.ids(target)
    e, m = encoder.ids(edit)[1:-1], encoder.ids(keep)[1:-1]
    x_rows, y_rows = encoder.encode(source), encoder.encode(target)
    pairs = aligned(x, y)
    source_of = pairs + list(range(len(y), N))
    edited = [False] * N
    j = 0
    while j < len(y):
        if pairs[j] >= 0:
            j += 1
            continue
        run = [j]
        while pairs[run[-1] + 1] < 0:
            run.append(run[-1] + 1)
        best: tuple[float, int, int] | None = None
        for t in run:
            for s in range(pairs[run[0] - 1] + 1, pairs[run[-1] + 1]):
                alike = (x_rows[t], y_rows[s]) if has_swapped_rows else (y_rows[t], x_rows[s])
                likeness = float(torch.cosine_similarity(*alike, dim=0))
                if best is None or likeness > best[0]:
                    best = (likeness, t, s)
        if best is not None:
            source_of[best[1]] = best[2]
            edited[best[1]] = x[best[2]] in e
        j = run[-1] + 1
    for flags, ids in ((edited, e), (kept := [False] * N, m)):
        at = 1
        for token in ids:
            if token not in y[at:]:
                break  # a word of the source prompt, for which `edited` has the word in its place
            at = y.index(token, at)
            flags[at] = True
    assert all(y[j] == x[source_of[j]] for j in range(N) if kept[j])
    return Words(source_of, edited, kept, len(y))


def seen_by_target(base: Tensor, own: Tensor, source_of: list[int]) -> Tensor:
    """R: (heads, L, 77) of the source's map, row by row; a row without a source has its own."""
    columns = [own[..., j] if s < 0 else base[..., s] for j, s in enumerate(source_of)]
    return torch.stack(columns, dim=-1)
