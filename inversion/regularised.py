"""Noise regularisation: the noise that each step of an inversion predicts becomes more like white
noise, so that an edit that starts from it looks natural.

Parmar, Singh, Zhang, Li, Lu, Zhu: Zero-shot Image-to-Image Translation, SIGGRAPH 2023 (arXiv
2302.03027), section 3.2, with the numbers of the published code (pix2pix-zero). The predicted noise
moves down the gradients of two losses: its autocorrelation at random shifts, on a pyramid of
halved resolutions, and its divergence from a mean of 0 and a variance of 1.

Shapes: noise (B, C, h, w); losses (B,).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

PUBLISHED_CELLS = 64 * 64
"""Of the latents of the published weights. Both losses are means, so their gradients fall with the
number of cells; weights that grow with it keep the updates alike at any size."""
LEAST_SIDE = 8
"""The pyramid ends at the first level with a side of at most so many cells."""


@dataclass(frozen=True)
class RegularisationSettings:
    """rounds: each is `rolls` steps down the autocorrelation, and one down the divergence.
    autocorrelation, divergence: their weights at PUBLISHED_CELLS."""

    rounds: int = 5
    rolls: int = 5
    autocorrelation: float = 20.0
    divergence: float = 20.0


class NoiseRegulariser:
    """Regularises predicted noise; to be called where autograd records.

    The shifts are drawn on the CPU with one generator an item: item j of a batch at `seed` is the
    single run at seed + j.
    """

    def __init__(
        self, seed: int, batch: int, settings: RegularisationSettings | None = None
    ) -> None:
        self._generators = [torch.Generator().manual_seed((seed + j) % 2**64) for j in range(batch)]
        self._settings = settings or RegularisationSettings()

    def __call__(self, noise: Tensor) -> Tensor:
        settings, own = self._settings, noise.float()
        share = noise[0, 0].numel() / PUBLISHED_CELLS
        for _ in range(settings.rounds):
            for _ in range(settings.rolls):
                shifts = [each.to(noise.device) for each in self._draw_shifts(noise)]
                given = own.detach().requires_grad_()
                gradient = _find_gradient(autocorrelation(given, shifts), given)
                own = own - share * settings.autocorrelation / settings.rolls * gradient
            given = own.detach().requires_grad_()
            own = own - share * settings.divergence * _find_gradient(divergence(given), given)
        return own.to(noise)

    def _draw_shifts(self, noise: Tensor) -> list[Tensor]:
        """(B, C) of each level of the pyramid, from 1 to half of a side."""
        sides = level_sides(noise.shape[-2], noise.shape[-1])
        channels = (noise.shape[1],)
        items = [
            [torch.randint(1, max(2, side // 2), channels, generator=g) for side in sides]
            for g in self._generators
        ]
        return [torch.stack(level) for level in zip(*items, strict=True)]


def _find_gradient(loss: Tensor, noise: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss.sum(), noise)
    return gradient


def level_sides(height: int, width: int) -> list[int]:
    """The shorter side of each level of the pyramid."""
    sides = [min(height, width)]
    while sides[-1] > LEAST_SIDE:
        sides.append(sides[-1] // 2)
    return sides


def autocorrelation(noise: Tensor, shifts: Sequence[Tensor]) -> Tensor:
    """Of each channel and level, the squared mean product of the noise with itself, shifted down
    and shifted right; their sum. shifts: (B, C) of each level."""
    total = noise.new_zeros(len(noise))
    for level, own in enumerate(shifts):
        if level:
            noise = avg_pool2d(noise, 2)
        for dim in (-2, -1):
            product = noise * roll_each(noise, own, dim)
            total = total + product.mean((-2, -1)).square().sum(1)
    return total


def roll_each(noise: Tensor, shifts: Tensor, dim: int) -> Tensor:
    """`torch.roll` along the last or the last but one dimension, by a shift (B, C) for each
    channel."""
    side = noise.shape[dim]
    places = torch.arange(side, device=noise.device) - shifts[..., None]
    index = (places % side)[..., None, :] if dim == -1 else (places % side)[..., None]
    return noise.gather(dim, index.expand(noise.shape))


def divergence(noise: Tensor) -> Tensor:
    """v + m^2 - 1 - log v of the mean m and the variance v of an image's noise: twice the
    Kullback-Leibler divergence of normal noise with these from white noise."""
    values = noise.flatten(1)
    mean, variance = values.mean(1), values.var(1)
    return variance + mean.square() - 1 - (variance + 1e-7).log()
