"""Edit-friendly DDPM inversion: noise maps with which DDPM sampling gives an image back.

Huberman-Spiegelglas, Kulikov, Michaeli: An Edit Friendly DDPM Noise Space: Inversion and
Manipulations, CVPR 2024 (arXiv 2304.06140). With latents x = x0 + s n, their denoised prediction D
and the next noise level s' <= s, a step of DDPM (DDIM with eta 1; Song, Meng, Ermon, ICLR 2021,
arXiv 2010.02502, Eq. 12 and 16) is

    x' = mu + std z,    mu = D + (s'^2 / s^2) (x - D),    std = s' sqrt(1 - s'^2 / s^2)

The latent of each level is the image with a noise of its own, independent of the others. z follows
from two latents that are neighbours, and is a noise map. These maps have more variance than the
normal noise of a sampling run: (s^2 + s'^2) / (s^2 - s'^2) where D is the image.

An edit takes the same steps with other predictions. It differs from the source by

    delta' = d + (s'^2 / s^2) (delta - d),    d = D_edited - D_source,

which is the update rule (update_rule.py) with kappa = s' / s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .ddim import begin
from .update_rule import Level, noise_image


def posterior(sigma: float, after: float) -> tuple[float, float]:
    """(share, std) of a DDPM step from noise level sigma to `after`: the share of the own noise
    that the mean keeps, in [0, 1], and the standard deviation of the fresh noise, in units of the
    latent. A step that goes nowhere has (1, 0).

    Raises ValueError when the levels do not fall.
    """
    if not 0 <= after <= sigma or sigma == 0:
        raise ValueError(
            f"a step leads from sigma {sigma:.4g} to {after:.4g}. Noise levels must fall, from "
            "above 0."
        )
    share = (after / sigma) ** 2
    return share, after * (1 - share) ** 0.5


def draw_latents(x0: Tensor, levels: Sequence[float], draw: Callable[[], Tensor]) -> list[Tensor]:
    """The image x0 (B, C, h, w) at each of N + 1 descending noise levels, each with a noise of its
    own from `draw`; at the last level, the least that the network knows, without noise."""
    image = begin(x0, levels[-1])
    return [
        noise_image(x0, draw(), Level(1.0, level)) if level > levels[-1] else image
        for level in levels
    ]


def posterior_mean(x: Tensor, denoised: Tensor, sigma: float, after: float) -> Tensor:
    """mu of latents x (B, C, h, w) at sigma; x itself where the step goes nowhere."""
    return torch.lerp(denoised, x, posterior(sigma, after)[0])


def solve_map(x: Tensor, denoised: Tensor, wanted: Tensor, sigma: float, after: float) -> Tensor:
    """z (B, C, h, w), with which a step leads from x at sigma to `wanted` at `after`; 0 where the
    step goes nowhere."""
    _, std = posterior(sigma, after)
    if std == 0:
        return torch.zeros_like(x)
    return (wanted - posterior_mean(x, denoised, sigma, after)) / std


def step_by_map(
    x: Tensor, denoised: Tensor, noise_map: Tensor, sigma: float, after: float
) -> Tensor:
    """The latents (B, C, h, w) at `after`, with a noise map in the place of fresh noise."""
    _, std = posterior(sigma, after)
    return posterior_mean(x, denoised, sigma, after) + std * noise_map
