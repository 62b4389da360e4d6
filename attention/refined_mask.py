"""A mask of an object that follows the cross-attention maps of its words.

CPAM (Anonymous, "Rethinking Attentions in Zero-Shot Real Image Editing"), section 3.5, with the
numbers of the published code. Shapes: B images, L = h * w positions of a layer's grid.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate


class RefinedMask:
    """The mean of the maps of words, over the layers of all grids and the steps of one run."""

    def __init__(self) -> None:
        self._sum: Tensor | None = None
        self._count = 0

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
