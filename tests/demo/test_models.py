import pytest
import torch

from ale_edit.demo.models import load_demo_model
from ale_edit.demo.render import render_batch
from ale_edit.demo.scenes import CHECK_SEEDS, make_scene

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module")
def demo():
    return load_demo_model()


def test_the_vae_keeps_30_db_and_gives_unit_variance_latents(demo):
    _, _, vae = demo
    images, _ = render_batch([make_scene(CHECK_SEEDS[i], triples="all") for i in range(16)])
    latents = vae.encode(images)
    assert latents.shape == (16, 4, 16, 16)
    assert 0.7 < float((latents * 0.18215).std()) < 1.4
    mse = (vae.decode(latents) - images).square().mean((1, 2, 3))
    assert float((-10 * mse.log10()).mean()) >= 30


@pytest.mark.parametrize(("height", "width"), [(72, 136), (130, 131)])
def test_the_vae_takes_any_size_and_crops_to_a_multiple_of_8(demo, height, width):
    vae = demo[2]
    decoded = vae.decode(vae.encode(torch.rand(1, height, width, 3)))
    assert decoded.shape == (1, height // 8 * 8, width // 8 * 8, 3)


def test_tiled_decoding_agrees_with_plain_decoding(demo):
    vae = demo[2]
    vae.throw_exception_if_invalid()
    latent = vae.encode(render_batch([make_scene(1)], 256)[0])
    tiled = vae.decode_tiled(latent, tile_x=24, tile_y=24, overlap=8)
    assert (tiled - vae.decode(latent)).abs().mean() < 0.02


def test_any_prompt_encodes_and_unknown_words_look_alike(demo):
    clip = demo[1]
    wolf, goat, ball = (
        clip.encode_from_tokens(clip.tokenize(f"red-colored {noun}"))
        for noun in ("wolf", "goat", "ball")
    )
    assert wolf.shape == (1, 77, 128)
    assert torch.equal(wolf, goat) and not torch.equal(wolf, ball)


def test_the_text_encoder_is_causal_and_pads_with_end_of_text(demo):
    clip = demo[1]
    one = clip.encode_from_tokens(clip.tokenize("red-colored ball"))
    two = clip.encode_from_tokens(clip.tokenize("red-colored ball and star"))
    torch.testing.assert_close(one[:, :5], two[:, :5], atol=1e-5, rtol=1e-4)
    assert (one[:, 5:] - two[:, 5:]).abs().mean() > 0.1


def test_a_stock_sampler_samples_it(demo):
    import comfy.sample

    model, clip, vae = demo
    positive, negative = (
        [[clip.encode_from_tokens(clip.tokenize(text)), {}]] for text in ("red-colored ball", "")
    )
    latent = torch.zeros(1, 4, 16, 16)
    samples = comfy.sample.sample(
        model, comfy.sample.prepare_noise(latent, 1), 8, 3.0, "euler", "normal",
        positive, negative, latent, disable_pbar=True,
    )  # fmt: skip
    image = vae.decode(samples)
    assert image.shape == (1, 128, 128, 3) and torch.isfinite(image).all()
    red, green, blue = image[0].reshape(-1, 3).max(0).values
    assert red > 0.6
    assert (image[..., 0] - image[..., 2]).max() > 0.4


def test_it_has_sd15s_latent_format_schedule_and_prediction_type(demo):
    model = demo[0].model
    assert model.latent_format.scale_factor == 0.18215
    assert model.model_type.name == "EPS"
    assert float(model.model_sampling.sigma_max) == pytest.approx(14.6146, abs=1e-3)


def test_live_previews_show_the_demo_worlds_colours(demo):
    import comfy.latent_formats

    model, _, vae = demo
    images, _ = render_batch([make_scene(CHECK_SEEDS[i]) for i in range(16)])
    wanted = torch.nn.functional.avg_pool2d(images.movedim(-1, 1), 8).movedim(1, -1) * 2 - 1
    latents = model.model.latent_format.process_in(vae.encode(images)).movedim(1, -1)
    ours, stock = model.model.latent_format, comfy.latent_formats.SD15()
    shown = latents @ torch.tensor(ours.latent_rgb_factors) + torch.tensor(
        ours.latent_rgb_factors_bias
    )
    as_sd15 = latents @ torch.tensor(stock.latent_rgb_factors)
    assert (shown - wanted).square().mean() < (as_sd15 - wanted).square().mean() / 4
