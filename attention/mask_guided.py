"""Mask-guided attention: parts of one branch read parts of branches.

MasaCtrl (arXiv 2304.08465, section 3.3), where the foreground of the target reads that of the
source, and its background the source's background; and CPAM. The published codes compute every
position with the keys of the foreground and again with those of the background, and take one of
both by the mask of the reader. Here each position is computed once. Shapes: B images, L = h * w
positions.
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
    """Positions (n,) int64 of the reader, and the positions (m,) of a branch that they read."""

    readers: Tensor | slice
    read: Tensor | slice
    branch: str = "source"


WHOLE = Part(ALL, ALL)


def split_positions(reader: Tensor, other: Tensor) -> tuple[Part, ...]:
    """Foreground and background of one image, by masks (L,) bool of both branches. A part without
    positions is left out; one that has nothing to read reads the whole other image."""
    return tuple(
        Part(positions(reader == is_foreground), positions_or_all(other == is_foreground))
        for is_foreground in (True, False)
        if (reader == is_foreground).any()
    )


def positions(mask: Tensor) -> Tensor | slice:
    """Those of a mask (L,) bool."""
    return ALL if mask.all() else mask.nonzero().flatten()


def positions_or_all(mask: Tensor) -> Tensor | slice:
    """Those of a mask (L,) bool; all where it has none, since attention must read something."""
    return positions(mask) if mask.any() else ALL


def attend_in_parts(call: Call, images: Sequence[Sequence[Part]], reader: str) -> Tensor:
    """(B, L, C): the reader's queries over the keys and values of branches, part by part.

    images: the parts of each image, or of one for all.
    """
    q = call.q[reader]
    if len(images) == 1:
        return _attend(call, q, images[0], slice(None))
    own = zip(q.split(1), images, strict=True)
    return torch.cat([_attend(call, *one, slice(i, i + 1)) for i, one in enumerate(own)])


def _attend(call: Call, q: Tensor, parts: Sequence[Part], rows: slice) -> Tensor:
    """rows: of the images of q."""
    out = torch.empty_like(q)
    for part in parts:
        is_plain = part.readers is ALL and part.read is ALL
        attend = call.attend if is_plain else call.attend_parts
        k, v = (t[part.branch][rows] for t in (call.k, call.v))
        out[:, part.readers] = attend(q[:, part.readers], k[:, part.read], v[:, part.read])
    return out
