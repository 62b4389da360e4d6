"""A mask of an object that follows the cross-attention maps of its words.

CPAM (Anonymous, "Rethinking Attentions in Zero-Shot Real Image Editing"), section 3.5, with the
numbers of the published code. Shapes: B images, L = h * w positions of a layer's grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .control import Call
from .word_maps import query_parts


class RefinedMask:
    """The mean of the maps of words, over the layers of all grids and the steps of one run."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0

    def look(self, call: Call, rows: Sequence[int]) -> None:
        """Add the target's map of the words at some rows of its text: of all positions, whatever
        they attend to."""
        q, k, words = call.q["target"], call.k["target"], list(rows)
        parts = query_parts(call, ("target",))
        found = [call.probs(q[:, part], k)[..., words].mean((1, 3)) for part in parts]
        self.add(torch.cat(found, 1), call.layer.grid, call.layer.latent)

    def add(self, own: Tensor, grid: tuple[int, int], latent: tuple[int, int]) -> None:
        """Add a layer's map (B, L), as a share of its greatest place, on the latent's cells."""
        share = own / own.amax(-1, keepdim=True)
        enlarged = interpolate(share.unflatten(-1, grid)[:, None], latent)[:, 0]
        self._sum = enlarged if self._sum is None else self._sum + enlarged
        self._count += 1

    def mask(self, threshold: float) -> Tensor | None:
        """(B, h, w) bool: where the mean, from 0 at its least to 1 at its greatest place, is above
        a threshold. None before the first map."""
        if self._sum is None:
            return None
        mean = self._sum / self._count
        least, greatest = mean.amin((-1, -2), keepdim=True), mean.amax((-1, -2), keepdim=True)
        return (mean - least) / (greatest - least) > threshold
