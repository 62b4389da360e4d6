"""Models that these nodes cannot serve: one sentence that names node, input, reason and cure."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete, ModelSamplingSD3

from ale_edit.host.attention.rgb_cam import apply_rgb_cam
from ale_edit.host.attention.self_injection import apply_self_injection
from ale_edit.host.sampling.blending import apply_background_blending
from ale_edit.host.sampling.schedule import lcm_sigmas
from ale_edit.tests.families import REFUSED, family_model
from ale_edit.tests.host.runs import edit, two_branch_guider
from ale_edit.tests.host.test_families import guide
from ale_edit.tests.tiny import tiny_flux, two_regions

NODES = {
    "Region Cross-Attention": lambda m: apply_rgb_cam(m, two_regions()),
    "Self-Attention Injection": lambda m: apply_self_injection(m, 0.5),
    "Background Blending": lambda m: apply_background_blending(m, two_regions()),
    "Two-Branch Guider": lambda m: two_branch_guider(m, [], [], []),
    "LCM Schedule": lambda m: lcm_sigmas(m, 4, 1.0),
}
REASONS = {
    "SVD": ["SVD_img2vid", "video"],
    "x4 upscaler": ["SD_X4Upscaler", "no self-attention"],
    "SD 0.9 XS": ["BaseModel", "no self-attention"],
    "Flux": ["Flux", "no UNet cross-attention"],
}


def message(run: Any) -> str:
    with pytest.raises(ValueError) as error:
        run()
    return str(error.value)


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("name", REASONS)
def test_a_model_that_makes_no_image_from_text_through_a_unet(name, node):
    model = family_model(name) if name in REFUSED else tiny_flux()
    text = message(lambda: NODES[node](model))
    words = [node, "model input", *REASONS[name], "SD 1.5, SD 2 or SDXL"]
    assert [word for word in words if word not in text] == [], text
    assert text.endswith(".") and "\n" not in text


SAMPLINGS = {
    "flow matching": lambda m: ModelSamplingSD3().patch(m, 3.0)[0],
    "from image to image": lambda m: ModelSamplingDiscrete().patch(m, "img_to_img", False)[0],
}


@pytest.mark.parametrize("reason", SAMPLINGS)
@pytest.mark.parametrize("name", ["SD 1.5", "SDXL"])
def test_a_sampling_whose_latents_are_no_image_plus_noise(name, reason):
    """Noise and image would be added in the wrong shares: a wrong image without an error."""
    model = SAMPLINGS[reason](family_model(name))
    runs = {
        "LCM Schedule": lambda: lcm_sigmas(model, 4, 1.0),
        "Two-Branch Guider": lambda: guided(model),
    }
    for node, run in runs.items():
        text = message(run)
        assert node in text and reason in text and "Remove that node" in text, text


def guided(model: Any) -> torch.Tensor:
    from ale_edit.host.sampling.virtual_inversion import virtual_inversion_sampler
    from ale_edit.tests.tiny import source_latent

    sigmas, latent = torch.tensor([0.9, 0.4, 0.0]), source_latent()
    zeros = torch.zeros_like(latent)
    return guide(model).sample(zeros, latent, virtual_inversion_sampler(), sigmas)


def test_what_is_refused_in_two_branches_is_not_refused_for_a_stock_sampler():
    """RGB-CAM alone needs no virtual inversion."""
    from ale_edit.tests.families import conditioning, plain_conditioning
    from ale_edit.tests.host.runs import generate

    model = SAMPLINGS["flow matching"](family_model("SDXL"))
    texts = conditioning(30), plain_conditioning(40)
    made = generate(apply_rgb_cam(model, two_regions()), *texts)
    assert torch.isfinite(made).all()
    assert not torch.equal(made, generate(model, *texts))


def test_a_refusal_leaves_the_model_well():
    model = family_model("SD 1.5")
    expected = edit(guide(model), steps=2)
    message(lambda: guided(SAMPLINGS["flow matching"](model)))
    assert torch.equal(edit(guide(model), steps=2), expected)
