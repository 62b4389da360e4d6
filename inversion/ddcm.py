"""Denoising Diffusion Consistent Model (DDCM), the virtual inversion of InfEdit.

Xu, Huang, Pan, Ma, Chai: Inversion-Free Image Editing with Natural Language, CVPR 2024 (arXiv
2312.04965), Algorithm 2. Everything is in ComfyUI's variance-exploding space, x = x0 + sigma * eps,
where the whole step needs only the source latent x0 and the two denoised predictions. Shapes:
latents (B, C, h, w).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Branches:
    """Noisy latents of the source and the target branch, each (B, C, h, w)."""

    source: Tensor
    target: Tensor


class ItemNoise:
    """Noise drawn on the CPU with one generator an item: item j of a batch at `seed` is the single
    run at seed + j."""

    def __init__(self, seed: int, shape: Sequence[int]) -> None:
        batch, *self._item_shape = shape
        self._generators = [torch.Generator().manual_seed((seed + j) % 2**64) for j in range(batch)]

    def draw(self, like: Tensor) -> Tensor:
        """Standard normal noise of shape (B, C, h, w), moved to the device and type of `like`."""
        items = [torch.randn(self._item_shape, generator=g) for g in self._generators]
        return torch.stack(items).to(like)


def start(x0: Tensor, noise: Tensor, sigma: float, is_pure_noise: bool) -> Branches:
    """Both branches at the first sigma: pure noise (InfEdit's "denoise=False"), or the noised
    source image.

    Pure noise has the model's total variance, 1 + sigma^2, and holds nothing of x0.
    """
    x = noise * (1 + sigma**2) ** 0.5 if is_pure_noise else x0 + sigma * noise
    return Branches(x, x)


def predicted_edit(x0: Tensor, source_denoised: Tensor, target_denoised: Tensor) -> Tensor:
    """The edited image as predicted at one step: p = x0 + (D_target - D_source), exactly x0 where
    the two predictions are equal."""
    return x0 + (target_denoised - source_denoised)


def ddcm_step(
    branches: Branches,
    x0: Tensor,
    edit: Tensor,
    sigma: float,
    sigma_next: float,
    noise: Tensor,
    eta: float,
) -> Branches:
    """The next noisy latents. With eta = 1 both branches are re-noised with the same fresh noise.

    edit: p of this step. eta in [0, 1] weighs the variance of fresh noise against the target's own.
    """
    own_noise = (branches.target - edit) / sigma
    renoise = sigma_next * ((1 - eta) ** 0.5 * own_noise + eta**0.5 * noise)
    return Branches(x0 + renoise, edit + renoise)
