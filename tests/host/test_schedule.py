import pytest
import torch
from diffusers.schedulers.scheduling_lcm import LCMScheduler

from ale_edit.host.sampling.schedule import lcm_sigmas


def test_15_steps_are_the_sigmas_of_the_specification(model):
    """methods.md A.7, rounded there to four decimals."""
    expected = [14.6146, 10.3094, 7.4854, 5.0878, 3.9126, 3.0689, 2.2765, 1.8459]
    expected += [1.5092, 1.1606, 0.9514, 0.7734, 0.5693, 0.4313, 0.2959, 0.0]
    torch.testing.assert_close(
        lcm_sigmas(model, 15, 1.0), torch.tensor(expected), rtol=0, atol=6e-5
    )


@pytest.mark.parametrize("steps", [1, 4, 8, 15, 50])
def test_sigmas_are_diffusers_noise_levels(model, steps):
    scheduler = LCMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000
    )
    scheduler.set_timesteps(steps)
    bars = scheduler.alphas_cumprod[scheduler.timesteps]
    sigmas = lcm_sigmas(model, steps, 1.0)
    assert len(sigmas) == steps + 1 and sigmas[-1] == 0
    torch.testing.assert_close(sigmas[:-1], ((1 - bars) / bars).sqrt(), rtol=1e-5, atol=0)


def test_sigmas_are_exact_entries_of_the_models_table(model):
    """So that the time step that the UNet gets is whole."""
    sampling = model.get_model_object("model_sampling")
    sigmas = lcm_sigmas(model, 15, 1.0)[:-1]
    table = sampling.sigmas
    assert all((sigma - table).abs().min() < 1e-6 * sigma for sigma in sigmas)
    assert sampling.timestep(sigmas).tolist()[:3] == [999, 939, 879]


def test_strength_keeps_the_last_steps(model):
    assert torch.equal(lcm_sigmas(model, 15, 0.8), lcm_sigmas(model, 15, 1.0)[3:])


def test_sigmas_live_on_the_cpu_in_fp32(model):
    sigmas = lcm_sigmas(model, 3, 1.0)
    assert (sigmas.device.type, sigmas.dtype) == ("cpu", torch.float32)
