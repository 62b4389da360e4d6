import pytest
import torch
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from torch import Tensor

from ale_edit.inversion.update_rule import (
    ItemNoise,
    Level,
    UpdateRule,
    noise_image,
    predict_edit,
    pure_noise,
)
from ale_edit.tests.tiny import generator, randn

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SHAPE = (2, 4, 6, 5)


def ddcm_step(
    source: Tensor,
    target: Tensor,
    x0: Tensor,
    edit: Tensor,
    sigma: float,
    sigma_next: float,
    noise: Tensor,
    eta: float,
) -> dict[str, Tensor]:
    """One step of two branches in the variance-exploding space."""
    latents = {"source": source, "target": target}
    levels = Level(1.0, sigma), Level(1.0, sigma_next)
    return UpdateRule(eta=eta).advance(latents, x0, {"target": edit}, *levels, noise)


def alpha_bars() -> Tensor:
    return LCMScheduler(**BETAS).alphas_cumprod.double()


def sigma_of(alpha_bar: Tensor) -> float:
    return float(((1 - alpha_bar) / alpha_bar).sqrt())


@pytest.mark.parametrize("step", range(14))
def test_a_step_with_fresh_noise_is_diffusers_lcm_step_for_the_predicted_edit(step: int):
    scheduler = LCMScheduler(**BETAS)
    scheduler.set_timesteps(15)
    t, t_next = scheduler.timesteps[step : step + 2].tolist()
    sigma, sigma_next = (sigma_of(alpha_bars()[i]) for i in (t, t_next))
    x0, edit, noise = randn(*SHAPE, seed=1), randn(*SHAPE, seed=2), randn(*SHAPE, seed=step)
    x = edit + sigma * randn(*SHAPE, seed=3)
    scheduler._init_step_index(t)
    latent, draws = x / (1 + sigma**2) ** 0.5, generator(step)
    after, _ = scheduler.step((x - edit) / sigma, t, latent, draws, return_dict=False)
    ours = ddcm_step(x, x, x0, edit, sigma, sigma_next, noise, eta=1.0)
    vp = ours["target"] / (1 + sigma_next**2) ** 0.5
    torch.testing.assert_close(vp, after, rtol=0, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("t", "t_next"), [(999, 939), (499, 419), (139, 79)])
def test_the_loop_is_infedits_formula_in_variance_preserving_form(eta: float, t: int, t_next: int):
    """methods.md B.1, in double precision. The source's own noise is consistent only with eta 1."""
    a, a_next = alpha_bars()[t], alpha_bars()[t_next]
    sigma, sigma_next = sigma_of(a), sigma_of(a_next)
    x0, e_s, e_t, noise, x_s, x_t = (randn(*SHAPE, seed=i).double() for i in range(6))
    z_s, z_t = x_s * a.sqrt(), x_t * a.sqrt()

    e_c = (z_s - a.sqrt() * x0) / (1 - a).sqrt()
    p = x0 + ((z_t - z_s) - (1 - a).sqrt() * (e_t - e_s)) / a.sqrt()
    e = (e_t - e_s) + e_c
    renoise = ((1 - a_next) * (1 - eta)).sqrt() * e + (eta * (1 - a_next)) ** 0.5 * noise
    expected_target, expected_source = a_next.sqrt() * p + renoise, a_next.sqrt() * x0 + renoise

    edit = predict_edit(x0, x_s - sigma * e_s, x_t - sigma * e_t)
    torch.testing.assert_close(edit, p, rtol=0, atol=1e-9)
    ours = ddcm_step(x_s, x_t, x0, edit, sigma, sigma_next, noise, eta)
    for made, expected in ((ours["target"], expected_target), (ours["source"], expected_source)):
        torch.testing.assert_close(made * a_next.sqrt(), expected, rtol=0, atol=1e-9)


def test_the_branches_stay_apart_by_the_edit_alone():
    x0, edit, noise = (randn(*SHAPE, seed=i) for i in range(3))
    after = ddcm_step(noise, noise, x0, edit, 2.0, 1.0, noise, eta=0.5)
    torch.testing.assert_close(after["target"] - after["source"], edit - x0, rtol=0, atol=1e-5)


def test_equal_predictions_predict_exactly_the_source():
    x0, denoised = randn(*SHAPE, seed=1), 30 * randn(*SHAPE, seed=2)
    assert torch.equal(predict_edit(x0, denoised, denoised), x0)


def test_a_pure_start_has_the_models_variance_and_no_trace_of_the_image():
    noise = randn(8, 4, 32, 32, seed=1)
    begun = pure_noise(noise, 14.6146)
    torch.testing.assert_close(begun.std(), torch.tensor(14.6488), rtol=1e-2, atol=0)
    assert begun.mean().abs() < 1


def test_another_start_is_the_image_with_noise():
    x0, noise = randn(*SHAPE, seed=1), randn(*SHAPE, seed=2)
    torch.testing.assert_close(noise_image(x0, noise, Level(1.0, 3.0)), x0 + 3 * noise)


def test_item_j_of_a_batch_draws_the_noise_of_a_single_run_at_seed_plus_j():
    like = torch.zeros(3, 4, 5, 6)
    batch = ItemNoise(40, like.shape)
    singles = [ItemNoise(40 + j, (1, 4, 5, 6)) for j in range(3)]
    for _ in range(3):
        expected = torch.cat([single.draw(like) for single in singles])
        assert torch.equal(batch.draw(like), expected)


def test_draws_differ_between_steps_and_items_and_repeat_with_the_seed():
    like = torch.zeros(2, 4, 5, 6)
    first, second = ItemNoise(1, like.shape), ItemNoise(1, like.shape)
    draws = [first.draw(like) for _ in range(2)]
    assert not torch.equal(draws[0], draws[1]) and not torch.equal(draws[0][0], draws[0][1])
    assert torch.equal(draws[0], second.draw(like))


def test_the_largest_seed_wraps_instead_of_failing():
    like = torch.zeros(2, 1, 2, 2)
    wrapped = ItemNoise(2**64 - 1, like.shape).draw(like)[1]
    assert torch.equal(wrapped, ItemNoise(0, (1, 1, 2, 2)).draw(like)[0])


def test_noise_follows_the_latents_type_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    noise = ItemNoise(1, (1, 2, 3, 3)).draw(torch.zeros(1, dtype=torch.float16))
    assert noise.dtype == torch.float16
    assert torch.equal(before, torch.get_rng_state())
