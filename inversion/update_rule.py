"""One update rule for editing without inversion: DDCM, FlowEdit and FlowAlign.

A source branch follows the known image x0, re-noised at every step; edited branches differ from it
by delta. With noise levels x = a x0 + s n (a = 1, s = sigma where latents are an image plus noise;
a = 1 - t, s = t in flow matching), D the denoised prediction after guidance, d = D_edited -
D_source and delta = x_edited - x_source, the next difference is

    delta' = a' d + kappa (s' / s) (delta - a d) - zeta d

and the result is x0 + delta' of the last step, where a' = 1 and s' = 0.

- kappa 0 is DDCM, the virtual inversion of InfEdit (Xu, Huang, Pan, Ma, Chai: Inversion-Free Image
  Editing with Natural Language, CVPR 2024, arXiv 2312.04965, Algorithm 2, with eta 1).
- kappa 1 is FlowEdit (arXiv 2412.08629).
- zeta, with kappa 1, is the source-consistency term of FlowAlign (arXiv 2505.23145).

Shapes: latents (B, C, h, w), or with one more dimension on models that have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

SOURCE = "source"

Latents: TypeAlias = Mapping[str, Tensor]
"""By branch; the source branch is "source"."""


@dataclass(frozen=True)
class Level:
    """A noise level: latents are `image` times the image plus `noise` times normal noise."""

    image: float
    noise: float


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


def noise_image(x0: Tensor, noise: Tensor, level: Level) -> Tensor:
    """An image at a noise level."""
    return level.image * x0 + level.noise * noise


def pure_noise(noise: Tensor, sigma: float) -> Tensor:
    """The first latent where nothing of the image is left (InfEdit's "denoise=False"), for latents
    that are an image plus noise: it has the model's total variance, 1 + sigma^2."""
    return noise * (1 + sigma**2) ** 0.5


def predict_edit(x0: Tensor, source_denoised: Tensor, edited_denoised: Tensor) -> Tensor:
    """The edited image as predicted at one step: p = x0 + d, exactly x0 where the two predictions
    are equal."""
    return x0 + (edited_denoised - source_denoised)


@dataclass(frozen=True)
class UpdateRule:
    """kappa in [0, 1]: how much of the difference so far a step keeps. zeta in [0, 1]: how much of
    the predicted change it holds back. eta in [0, 1]: the share of fresh noise in the variance; the
    rest is an edited branch's own noise, and only 1 is self-consistent.

    Raises ValueError for values out of range.
    """

    kappa: float = 0.0
    zeta: float = 0.0
    eta: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("kappa", self.kappa), ("zeta", self.zeta), ("eta", self.eta)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}. Set it between 0 and 1.")

    @property
    def is_source_free(self) -> bool:
        """Whether the source branch is the same whatever the others are."""
        return self.eta == 1

    def advance(
        self,
        latents: Latents,
        x0: Tensor,
        edits: Latents,
        level: Level,
        after: Level,
        noise: Tensor,
    ) -> dict[str, Tensor]:
        """The latents of all branches at the next level.

        edits: p of each edited branch. noise: (B, C, h, w), fresh, shared by all branches.
        """
        renoise = self._renoise(latents, edits, level, after, noise)
        source = after.image * x0 + next(reversed(renoise.values()))
        advanced = {SOURCE: source}
        for name, edit in edits.items():
            advanced[name] = after.image * edit + renoise[name]
            if self.kappa or self.zeta:
                d = edit - x0
                kept = latents[name] - latents[SOURCE] - level.image * d
                advanced[name] += self.kappa * (after.noise / level.noise) * kept - self.zeta * d
        return advanced

    def finish(self, x0: Tensor, edit: Tensor) -> Tensor:
        """The result, from p of the last step."""
        return edit - self.zeta * (edit - x0) if self.zeta else edit

    def _renoise(
        self, latents: Latents, edits: Latents, level: Level, after: Level, noise: Tensor
    ) -> dict[str, Tensor]:
        """The noise part of each edited branch's next latent. The source takes that of the last
        branch, as InfEdit's published code does; with eta 1 all are the same."""
        if self.eta == 1:
            return dict.fromkeys(edits, after.noise * noise)
        own = {
            name: (latents[name] - level.image * edit) / level.noise for name, edit in edits.items()
        }
        return {
            name: after.noise * ((1 - self.eta) ** 0.5 * own[name] + self.eta**0.5 * noise)
            for name in edits
        }
