"""Inpainting UNets: the mask and the masked image beside the latent, by ComfyUI's own node."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.tests.families import conditioning, family_model, plain_conditioning
from ale_edit.tests.host.runs import edit, patched, relative_error
from ale_edit.tests.host.test_families import NEGATIVE, SOURCE, TARGET, guide
from ale_edit.tests.host.test_two_branch_guider import edit_by_two_runs
from ale_edit.tests.tiny import box_mask, generator, randn, source_latent, tiny_vae

CORE = importlib.import_module("nodes")  # ComfyUI's; type checkers would take it for ours
NAMES = ["SD 1.5 inpainting", "SDXL inpainting"]


@pytest.fixture(scope="module")
def vae() -> Any:
    return tiny_vae()


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest) -> Any:
    return family_model(request.param)


def picture(batch: int = 1, seed: int = 4) -> Tensor:
    return torch.rand(batch, 64, 64, 3, generator=generator(seed))


def lower_half(batch: int = 1) -> Tensor:
    masks = [box_mask(64, 64, top=32 - 8 * j, left=0, bottom=64, right=64) for j in range(batch)]
    return torch.stack(masks)


def texts(**settings: Any) -> list[Any]:
    source, target = (conditioning(seed, **settings) for seed in (SOURCE, TARGET))
    return [source, target, plain_conditioning(NEGATIVE)]


def hidden(vae: Any, image: Tensor, mask: Tensor) -> tuple[list[Any], Tensor]:
    """Source, target and negative after Inpaint Model Conditioning, wired as a graph wires it, and
    the latent of its noise mask."""
    node, (source, target, negative) = CORE.InpaintModelConditioning(), texts()
    source, _, _ = node.encode(source, negative, image, vae, mask)
    target, negative, latent = node.encode(target, negative, image, vae, mask)
    return [source, target, negative], latent["samples"]


def test_each_branch_sees_the_mask_and_the_hidden_image_as_in_a_stock_run(model, vae):
    conds, _ = hidden(vae, picture(), lower_half())
    made = edit(guide(model, (1.5, 2.0), *conds))
    expected = edit_by_two_runs(model, None, (1.5, 2.0), conds=conds)
    print(f"two stock runs: {relative_error(made, expected):.1e} of the std")
    assert relative_error(made, expected) < 1e-4
    assert relative_error(made, edit(guide(model, (1.5, 2.0)))) > 1e-2


def test_images_of_a_batch_keep_their_own_masks(model, vae):
    image, mask, chain = picture(2), lower_half(2), patched(model)
    conds, latent = hidden(vae, image, mask)
    made = edit(guide(chain, (1.0, 2.0), *conds), latent)
    for j in range(2):
        conds, _ = hidden(vae, image[j : j + 1], mask[j : j + 1])
        alone = edit(guide(chain, (1.0, 2.0), *conds), latent[j : j + 1], seed=5 + j)
        assert relative_error(made[j : j + 1], alone) < 1e-4


def test_a_noise_mask_hides_what_it_lets_change(model, vae):
    """Set Latent Noise Mask alone, as ComfyUI fills it in: the mask, and the source's latent."""
    latent, mask, chain = source_latent(), lower_half(), patched(model)
    conds = texts(blending=False)
    made = edit(guide(chain, (1.0, 2.0), *conds), latent, noise_mask=mask)
    hidden_part = {"concat_mask": mask, "concat_latent_image": latent}
    source, target, negative = ([[c[0][0], {**c[0][1], **hidden_part}]] for c in conds)
    guider = guide(chain, (1.0, 2.0), source, target, negative)
    expected = edit(guider, latent, noise_mask=mask)
    assert relative_error(made, expected) < 1e-5
    torch.testing.assert_close(made[..., :4, :], latent[..., :4, :], rtol=1e-6, atol=1e-5)
    assert ((made - latent)[..., 4:, :].abs() > 1e-3).float().mean() > 0.9


def test_a_second_edit_with_another_hidden_image_computes_its_own_source(model, vae):
    chain = patched(model)

    def run(image: Tensor, reuses_source: bool) -> Tensor:
        source, target, negative = hidden(vae, image, lower_half())[0]
        return edit(guide(chain, (1.0, 2.0), source, target, negative, reuses_source))

    run(picture(), True)
    assert torch.equal(run(picture(seed=5), True), run(picture(seed=5), False))


@pytest.mark.parametrize("key", ["concat_mask", "concat_latent_image"])
@pytest.mark.parametrize("place", ["source", "target", "negative"])
def test_one_input_without_the_same_mask_and_image_is_refused(model, vae, place, key):
    made, _ = hidden(vae, picture(), lower_half())
    conds: dict[str, Any] = dict(zip(("source", "target", "negative"), made, strict=True))
    conds[place][0][1][key] = randn(1, 4, 8, 8)
    with pytest.raises(ValueError) as error:
        edit(guide(model, **conds))
    text = str(error.value)
    assert "Two-Branch Guider" in text and key in text and "same" in text
    if place == "negative":
        assert "negative input" in text and "Inpaint Model Conditioning" in text


def test_a_negative_that_guidance_does_not_use_may_be_any(model, vae):
    (source, target, _), _ = hidden(vae, picture(), lower_half())
    made = edit(guide(model, (1.0, 1.0), source, target))
    assert torch.isfinite(made).all()
