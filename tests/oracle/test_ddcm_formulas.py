"""The pack's virtual inversion and schedule equal InfEdit's formulas on diffusers' LCMScheduler."""

import pytest
import torch

from ale_edit.inversion.lcm_schedule import lcm_timesteps
from ale_edit.inversion.update_rule import Level, UpdateRule, predict_edit, pure_noise
from ale_edit.tests.oracle.ale_diffusers import (
    renoise,
    scheduler,
    timesteps,
    virtual_noise,
    virtual_prediction,
)
from ale_edit.tests.tiny import randn


def alpha_bar(t: int) -> float:
    return float(scheduler().alphas_cumprod[t])


@pytest.mark.parametrize("steps", range(1, 51))
def test_the_time_steps_are_diffusers(steps):
    assert lcm_timesteps(steps) == timesteps(steps)


@pytest.mark.parametrize("eta", [1.0, 0.7, 0.0])
def test_a_step_equals_infedits_formulas(eta):
    schedule = timesteps(15)
    for i, (t, t_next) in enumerate(zip(schedule, schedule[1:], strict=False)):
        abar, abar_next = alpha_bar(t), alpha_bar(t_next)
        sigma, sigma_next = (((1 - a) / a) ** 0.5 for a in (abar, abar_next))
        z_s, z_t, x0, e_s, e_t, n = randn(6, 1, 4, 8, 8, seed=i).double()
        p = virtual_prediction(z_s, z_t, x0, e_s, e_t, abar=abar)
        e = virtual_noise(z_s, x0, e_s, e_t, abar=abar)
        x_s, x_t = z_s / abar**0.5, z_t / abar**0.5
        edit = predict_edit(x0, x_s - sigma * e_s, x_t - sigma * e_t)
        torch.testing.assert_close(edit, p, atol=1e-5, rtol=0)
        levels = Level(1.0, sigma), Level(1.0, sigma_next)
        latents, edits = {"source": x_s, "target": x_t}, {"target": edit}
        after = UpdateRule(eta=eta).advance(latents, x0, edits, *levels, n)
        for ours, around in ((after["source"], x0), (after["target"], p)):
            theirs = renoise(around, e, n, abar=abar_next, eta=eta)
            torch.testing.assert_close(ours * abar_next**0.5, theirs, atol=1e-5, rtol=0)


def test_pure_noise_has_the_total_variance():
    abar = alpha_bar(999)
    sigma = ((1 - abar) / abar) ** 0.5
    n = randn(1, 4, 8, 8).double()
    torch.testing.assert_close(pure_noise(n, sigma) * abar**0.5, n, atol=1e-5, rtol=0)


@pytest.mark.comfy
def test_the_sigmas_are_those_of_diffusers_alphas():
    from ale_edit.host.sampling.schedule import lcm_sigmas
    from ale_edit.tests.tiny import tiny_model

    abars = scheduler().alphas_cumprod[timesteps(15)]
    expected = torch.cat([((1 - abars) / abars).sqrt(), torch.zeros(1)])
    torch.testing.assert_close(lcm_sigmas(tiny_model(), 15, 1.0), expected, atol=1e-6, rtol=1e-5)
