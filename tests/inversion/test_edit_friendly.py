"""Noise maps of DDPM steps: against diffusers' own step, against the update rule, and their
variance beside that of a sampling run."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from ale_edit.inversion.ddim import begin, finish
from ale_edit.inversion.edit_friendly import (
    draw_latents,
    posterior,
    posterior_mean,
    solve_map,
    step_by_map,
)
from ale_edit.inversion.update_rule import ItemNoise, Level, UpdateRule, predict_edit
from ale_edit.tests.tiny import generator, randn

SHAPE = (2, 4, 6, 5)
LEVELS = [14.6, 8.0, 4.0, 1.5, 0.5, 0.03]
X0 = randn(*SHAPE, seed=20).double()


def denoise(seed: int, x: Tensor, sigma: float) -> Tensor:
    """A network: neither linear nor the same at any two levels."""
    mixing, shift = randn(4, 4, seed=seed).double() / 2, randn(*SHAPE[1:], seed=seed + 1).double()
    scaled = x / (1 + sigma**2) ** 0.5
    return torch.tanh(torch.einsum("oc,bchw->bohw", mixing, scaled) + sigma * shift / 9)


def drawn() -> list[Tensor]:
    noise = ItemNoise(3, SHAPE)
    return draw_latents(X0, LEVELS, lambda: noise.draw(X0))


def invert(seed: int = 1) -> list[Tensor]:
    latents = drawn()
    return [
        solve_map(latents[i], denoise(seed, latents[i], level), latents[i + 1], level, after)
        for i, (level, after) in enumerate(pairwise(LEVELS))
    ]


def sample(maps: list[Tensor], seed: int) -> Tensor:
    x = drawn()[0]
    for noise_map, level, after in zip(maps, LEVELS[:-1], LEVELS[1:], strict=True):
        x = step_by_map(x, denoise(seed, x, level), noise_map, level, after)
    return finish(x, LEVELS[-1])


def test_the_same_network_gives_the_image_back_and_another_does_not():
    maps = invert()
    assert torch.allclose(sample(maps, seed=1), X0, rtol=0, atol=1e-12)
    assert float((sample(maps, seed=5) - X0).abs().max()) > 0.1


def test_a_thousand_steps_in_single_precision_give_the_image_back():
    levels = torch.logspace(1.2, -1.5, 1001).tolist()
    x0, noise = X0.float(), ItemNoise(3, SHAPE)
    x, *others = draw_latents(x0, levels, lambda: noise.draw(x0))
    maps, reached = [], x
    for wanted, level, after in zip(others, levels[:-1], levels[1:], strict=True):
        denoised = denoise(1, reached.double(), level).float()
        maps.append(solve_map(reached, denoised, wanted, level, after))
        reached = step_by_map(reached, denoised, maps[-1], level, after)
    for noise_map, level, after in zip(maps, levels[:-1], levels[1:], strict=True):
        x = step_by_map(x, denoise(1, x.double(), level).float(), noise_map, level, after)
    assert torch.allclose(finish(x, levels[-1]), x0, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("t", "steps"), [(980, 50), (500, 50), (20, 50), (900, 10)])
def test_a_step_is_that_of_diffusers_ddim_with_eta_1(t: int, steps: int):
    scheduler: Any = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
    )
    scheduler.set_timesteps(steps)
    sigmas = [
        float(((1 - abar) / abar) ** 0.5)
        for abar in scheduler.alphas_cumprod[[t, t - 1000 // steps]].double()
    ]
    x, denoised, z = (randn(*SHAPE, seed=s).double() for s in (1, 2, 3))
    x = x * (1 + sigmas[0] ** 2) ** 0.5
    scaled = x / (1 + sigmas[0] ** 2) ** 0.5
    theirs = scheduler.step((x - denoised) / sigmas[0], t, scaled, eta=1.0, variance_noise=z)
    ours = step_by_map(x, denoised, z, *sigmas) / (1 + sigmas[1] ** 2) ** 0.5
    assert torch.allclose(ours, theirs.prev_sample, rtol=0, atol=1e-5)


def test_an_edit_is_the_update_rule_with_kappa_the_ratio_of_the_levels():
    """Its source draws the same independent noises; the last step has no noise level but 0."""
    latents, target = drawn(), drawn()[0]
    maps = invert()
    for i, (level, after) in enumerate(zip(LEVELS[:-2], LEVELS[1:-1], strict=True)):
        edit = predict_edit(X0, denoise(1, latents[i], level), denoise(5, target, level))
        ours = step_by_map(target, denoise(5, target, level), maps[i], level, after)
        branches = {"source": latents[i], "target": target}
        noise = (latents[i + 1] - X0) / after
        target = UpdateRule(kappa=after / level).advance(
            branches, X0, {"target": edit}, Level(1.0, level), Level(1.0, after), noise
        )["target"]
        assert torch.allclose(ours, target, rtol=0, atol=1e-12)


def test_the_last_level_holds_the_image_and_a_step_there_goes_nowhere():
    noise = ItemNoise(3, SHAPE)
    *_, before, last = draw_latents(X0, [2.0, 0.03, 0.03], lambda: noise.draw(X0))
    assert torch.equal(before, last) and torch.equal(last, begin(X0, 0.03))
    other = randn(*SHAPE, seed=4).double()
    assert torch.equal(posterior_mean(last, other, 0.03, 0.03), last)
    assert not solve_map(last, other, other, 0.03, 0.03).any()


@pytest.mark.parametrize("levels", [(1.0, 2.0), (0.0, 0.0), (1.0, -1.0), (float("nan"), 1.0)])
def test_levels_that_do_not_fall_are_refused(levels: tuple[float, float]):
    with pytest.raises(ValueError, match="Noise levels must fall"):
        posterior(*levels)


# -- the paper's claims about the maps, of a network that knows the image --------------------------

MANY = (1, 4, 128, 128)
FALLING = [10.0, 7.0, 5.0, 3.5, 2.5]


def maps_of(latents: list[Tensor], x0: Tensor) -> list[Tensor]:
    pairs = pairwise(FALLING)
    return [solve_map(latents[i], x0, latents[i + 1], *pair) for i, pair in enumerate(pairs)]


def independent(x0: Tensor) -> list[Tensor]:
    draws = generator(7)
    return [x0 + s * torch.randn(MANY, generator=draws).double() for s in FALLING]


def dependent(x0: Tensor) -> list[Tensor]:
    """A diffusion: each level is the one before with more noise, as in a native noise space."""
    draws, latents = generator(7), [x0]
    for less, more in zip([0.0, *FALLING[:0:-1]], FALLING[::-1], strict=True):
        noise = torch.randn(MANY, generator=draws).double()
        latents.insert(0, latents[0] + (more**2 - less**2) ** 0.5 * noise)
    return latents[:-1]


def correlation(a: Tensor, b: Tensor) -> float:
    return float((a * b).mean() / (a.square().mean() * b.square().mean()) ** 0.5)


def test_maps_have_more_variance_than_native_ones_and_neighbours_are_opposed():
    x0 = randn(*MANY, seed=2).double()
    ours, native = (maps_of(make(x0), x0) for make in (independent, dependent))
    for i, (level, after) in enumerate(pairwise(FALLING)):
        expected = (level**2 + after**2) / (level**2 - after**2)
        assert float(ours[i].var()) == pytest.approx(expected, rel=0.03) and expected > 2.5
        assert float(native[i].var()) == pytest.approx(1.0, rel=0.03)
    assert all(correlation(a, b) < -0.3 for a, b in pairwise(ours))
    assert all(abs(correlation(a, b)) < 0.03 for a, b in pairwise(native))
