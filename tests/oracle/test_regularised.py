"""Regularised noise equals that of diffusers' pix2pix-zero pipeline, and loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.pipelines.deprecated.stable_diffusion_variants import (
    pipeline_stable_diffusion_pix2pix_zero as published,
)
from torch import Tensor

from ale_edit.inversion.regularised import (
    NoiseRegulariser,
    RegularisationSettings,
    autocorrelation,
    divergence,
    level_sides,
)

from .pix2pix_zero_diffusers import auto_correlation, draw_rolls, regulariser

PIPELINE: Any = published.StableDiffusionPix2PixZeroPipeline
SIZES = [(16, 16), (24, 32), (33, 18), (8, 8), (4, 5), (2, 3), (1, 1)]


def noise_of(*shape: int, seed: int = 3) -> Tensor:
    """Correlated noise with another mean and variance than white noise, in double precision."""
    draws = torch.Generator().manual_seed(seed)
    white = torch.randn(*shape, generator=draws, dtype=torch.float64)
    return 0.6 * white + 0.3 * white.roll(1, -1) + 0.2 * white.roll(2, -2) + 0.1


@pytest.mark.parametrize("size", SIZES[:4], ids=str)
def test_the_losses_are_those_of_diffusers(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch):
    """With the same shifts. diffusers' loss also draws a shift of 0, and its pyramid ends by the
    height."""
    e = noise_of(1, 4, *sorted(size))
    rolls = draw_rolls(e[0], torch.Generator().manual_seed(1))
    planned = iter([level[c] for c in range(4) for level in rolls])
    with monkeypatch.context() as patch:
        patch.setattr(torch, "randint", lambda *_, **__: torch.tensor([next(planned)]))
        expected = PIPELINE.auto_corr_loss(None, e)
    assert next(planned, None) is None
    found = autocorrelation(e, [torch.tensor([level]) for level in rolls])
    assert float(found) == pytest.approx(float(expected), abs=1e-12)
    assert float(auto_correlation(e[0], rolls)) == pytest.approx(float(expected), abs=1e-12)
    kl = PIPELINE.kl_divergence(None, e)
    assert float(divergence(e)) == pytest.approx(float(kl), abs=1e-12)


@pytest.mark.parametrize("size", SIZES[:5], ids=str)
def test_regularised_noise_equals_loops(size: tuple[int, int]):
    """Of a batch: each image as if it were alone."""
    e = noise_of(2, 4, *size).float()
    found = NoiseRegulariser(5, 2)(e)
    for j in range(2):
        expected = regulariser(5 + j)(e[j].double())
        torch.testing.assert_close(found[j].double(), expected, rtol=0, atol=2e-5)
    assert float((found - e).abs().max()) > 1e-3


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sides_of_any_size_have_shifts(size: tuple[int, int]):
    e = noise_of(1, 4, *size).float()
    assert bool(NoiseRegulariser(2**64 - 1, 1)(e).isfinite().all())
    assert level_sides(*size)[0] == min(size) and level_sides(*size)[-1] <= 8


def test_noise_comes_nearer_to_white_noise():
    e = noise_of(1, 4, 64, 64).float()
    found = e
    regularise = NoiseRegulariser(0, 1)
    before, after = [], []
    for _ in range(8):
        found = regularise(found)
    for seed in range(20):
        rolls = [
            torch.tensor([level]) for level in draw_rolls(e[0], torch.Generator().manual_seed(seed))
        ]
        before.append(float(autocorrelation(e, rolls)))
        after.append(float(autocorrelation(found, rolls)))
    print(f"autocorrelation {sum(before) / 20:.4f} -> {sum(after) / 20:.4f}, divergence "
          f"{float(divergence(e)):.4f} -> {float(divergence(found)):.4f}")  # fmt: skip
    assert sum(after) < 0.9 * sum(before)
    assert float(divergence(found)) < float(divergence(e))


def test_weights_of_0_change_nothing():
    e = noise_of(2, 4, 16, 16).float()
    off = RegularisationSettings(autocorrelation=0.0, divergence=0.0)
    assert torch.equal(NoiseRegulariser(0, 2, off)(e), e)


def test_two_runs_give_the_same():
    e = noise_of(2, 4, 16, 16).float()
    assert torch.equal(NoiseRegulariser(4, 2)(e), NoiseRegulariser(4, 2)(e))
    assert not torch.equal(NoiseRegulariser(4, 2)(e)[1], NoiseRegulariser(4, 2)(e.flip(0))[0])
