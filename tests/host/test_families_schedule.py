"""LCM Schedule and other noise levels on every kind of model sampling, against diffusers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfy_extras.nodes_custom_sampler import BasicScheduler, KarrasScheduler
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from torch import Tensor

from ale_edit.editors.ale import background_weights
from ale_edit.host.sampling.schedule import lcm_sigmas
from ale_edit.host.sampling.virtual_inversion import virtual_inversion_sampler
from ale_edit.tests.families import CONTINUOUS, FAMILIES, conditioning, family_model
from ale_edit.tests.host.runs import patched, relative_error
from ale_edit.tests.host.test_families import NEGATIVE, OFF, SOURCE, TARGET, guide
from ale_edit.tests.tiny import source_latent, two_regions


def diffusers_sigmas(steps: int, has_zero_snr: bool, prediction: str) -> Tensor:
    scheduler = LCMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        rescale_betas_zero_snr=has_zero_snr,
    )
    scheduler.set_timesteps(steps)
    bars = scheduler.alphas_cumprod[scheduler.timesteps]
    return ((1 - bars) / bars).sqrt()


@pytest.mark.parametrize("steps", [1, 4, 15, 50])
@pytest.mark.parametrize("name", FAMILIES)
def test_sigmas_are_diffusers_on_every_family(name, steps):
    model = family_model(name)
    prediction = {"EPS": "epsilon"}.get(model.model.model_type.name, "v_prediction")
    has_zero_snr = model.get_model_object("model_sampling").zsnr
    made = lcm_sigmas(model, steps, 1.0)
    expected = diffusers_sigmas(steps, has_zero_snr, prediction)
    if has_zero_snr:
        assert expected[0] == torch.inf and 4000 < made[0] < 5000  # ComfyUI's finite stand-in
        made, expected = made[1:], expected[1:]
    torch.testing.assert_close(made[:-1], expected, rtol=5e-6, atol=0)
    assert made[-1] == 0


@pytest.mark.parametrize("name", ["SD 1.5", "SDXL"])
@pytest.mark.parametrize("has_zero_snr", [False, True])
@pytest.mark.parametrize("sampling", ["eps", "v_prediction", "lcm", "x0"])
def test_sigmas_follow_the_node_model_sampling_discrete(name, sampling, has_zero_snr):
    """The last of the 1000 zero-SNR entries apart, which is infinite in diffusers."""
    model = ModelSamplingDiscrete().patch(family_model(name), sampling, has_zero_snr)[0]
    made, expected = lcm_sigmas(model, 15, 1.0), diffusers_sigmas(15, has_zero_snr, "epsilon")
    torch.testing.assert_close(made[1:-1], expected[1:], rtol=5e-6, atol=0)
    assert float(made[0]) > 4000 if has_zero_snr else abs(float(made[0]) - 14.6146) < 1e-4


@pytest.mark.parametrize("name", FAMILIES)
def test_the_unet_is_asked_for_diffusers_time_steps(name):
    model, asked = family_model(name), []
    sampling = model.get_model_object("model_sampling")
    for sigma in lcm_sigmas(model, 15, 1.0)[:-1]:
        asked.append(int(sampling.timestep(sigma)))
    scheduler = LCMScheduler()
    scheduler.set_timesteps(15)
    assert asked == scheduler.timesteps.tolist()


# -- models without a table ------------------------------------------------------------------------


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_model_without_a_table_of_noise_levels_is_refused(name):
    with pytest.raises(ValueError) as error:
        lcm_sigmas(family_model(name), 15, 1.0)
    words = ["LCM Schedule", "model input", "1000", "ModelSamplingContinuousEDM", "Karras"]
    assert [word for word in words if word not in str(error.value)] == []


def karras(model: Any, steps: int) -> Tensor:
    largest = float(model.get_model_object("model_sampling").sigma_max)
    return KarrasScheduler.execute(steps, largest, 0.05, 7.0).args[0]


def exponential(model: Any, steps: int) -> Tensor:
    return BasicScheduler.execute(model, "exponential", steps, 1.0).args[0]


def edit(guider: Any, latent: Tensor, sigmas: Tensor) -> Tensor:
    zeros = torch.zeros_like(latent)
    return guider.sample(
        zeros, latent, virtual_inversion_sampler(), sigmas, disable_pbar=True, seed=5
    )


@pytest.mark.parametrize("schedule", [karras, exponential])
@pytest.mark.parametrize("name", [*CONTINUOUS, "SDXL", "SD 2, v"])
def test_stock_schedules_serve_virtual_inversion(name, schedule):
    model, latent, regions = family_model(name), source_latent(2), two_regions()
    sigmas = schedule(model, 5)
    text = conditioning(TARGET, **OFF)
    same = edit(guide(patched(model), (2.0, 2.0), text, text), latent, sigmas)
    assert relative_error(same, latent) < 1e-4
    made = edit(guide(patched(model, regions)), latent, sigmas)
    keeps = background_weights(regions, 8, 8, "paper", is_soft=False, cell=8)
    torch.testing.assert_close(made[..., keeps], latent[..., keeps], rtol=1e-6, atol=1e-5)
    assert ((made - latent)[..., ~keeps].abs().amax(dim=1) > 1e-3).all()
    assert relative_error(made, latent) < 10


@pytest.mark.parametrize("name", CONTINUOUS)
def test_an_edit_at_stock_noise_levels_is_two_stock_runs(name, monkeypatch):
    from ale_edit.tests.families import plain_conditioning
    from ale_edit.tests.host import stock_runs as by_hand

    model = family_model(name)
    sigmas = karras(model, by_hand.STEPS)
    monkeypatch.setattr(by_hand, "lcm_sigmas", lambda *_: sigmas)
    texts = conditioning(SOURCE), conditioning(TARGET), plain_conditioning(NEGATIVE)
    expected = by_hand.edit_by_two_runs(model, None, (1.5, 2.0), conds=texts)
    made = edit(guide(model, (1.5, 2.0), *texts), source_latent(), sigmas)
    print(f"{name}, two stock runs: {relative_error(made, expected):.1e} of the std")
    assert relative_error(made, expected) < 1e-4
