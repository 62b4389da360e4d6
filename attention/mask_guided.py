"""Mask-guided mutual self-attention: the foreground of one branch reads that of another, and its
background the other's background.

Cao et al.: MasaCtrl (arXiv 2304.08465), section 3.3. The published code computes every position
with the keys of the foreground and again with those of the background, and takes one of both by the
mask of the reader. Here each position is computed once. Shapes: B images, L = h * w positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .control import Call

ALL = slice(None)


@dataclass(frozen=True, eq=False)
class Part:
    """Positions (n,) int64 of the reader, and the positions (m,) of the other that they read."""

    readers: Tensor | slice
    read: Tensor | slice


WHOLE = Part(ALL, ALL)


def split_positions(reader: Tensor, other: Tensor) -> tuple[Part, ...]:
    """Foreground and background of one image, by masks (L,) bool of both branches. A part without
    positions is left out; one that has nothing to read reads the whole other image."""
    found = []
    for is_foreground in (True, False):
        readers, read = ((mask == is_foreground).nonzero().flatten() for mask in (reader, other))
        if len(readers):
            is_whole = len(read) in (0, len(other))
            found.append(
                Part(ALL if len(readers) == len(reader) else readers, ALL if is_whole else read)
            )
    return tuple(found)


def attend_in_parts(
    call: Call, images: Sequence[Sequence[Part]], reader: str, other: str
) -> Tensor:
    """(B, L, C): the reader's queries over the other's keys and values, part by part.

    images: the parts of each image, or of one for all.
    """
    q, k, v = call.q[reader], call.k[other], call.v[other]
    if len(images) == 1:
        return _attend(call, q, k, v, images[0])
    rows = zip(q.split(1), k.split(1), v.split(1), images, strict=True)
    return torch.cat([_attend(call, *row) for row in rows])


def _attend(call: Call, q: Tensor, k: Tensor, v: Tensor, parts: Sequence[Part]) -> Tensor:
    out = torch.empty_like(q)
    for part in parts:
        is_plain = part.readers is ALL and part.read is ALL
        attend = call.attend if is_plain else call.attend_parts
        out[:, part.readers] = attend(q[:, part.readers], k[:, part.read], v[:, part.read])
    return out
