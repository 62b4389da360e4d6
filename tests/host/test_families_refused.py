"""Models that these nodes cannot serve: one sentence that names node, input, reason and cure."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete, ModelSamplingSD3

from ale_edit.editors import EDITORS
from ale_edit.host.attention.rgb_cam import apply_rgb_cam
from ale_edit.host.attention.self_injection import apply_self_injection
from ale_edit.host.editing import open_edit
from ale_edit.host.inverting.methods import invert_by
from ale_edit.host.sampling.blending import apply_background_blending
from ale_edit.host.sampling.schedule import lcm_sigmas
from ale_edit.inversion.stored import Schedule
from ale_edit.tests.families import REFUSED, family_model
from ale_edit.tests.host.flow_models import (
    MODELS,
    flow_latent,
    flow_model,
    flow_text,
    tiny_aura_flow,
)
from ale_edit.tests.host.runs import edit, two_branch_guider
from ale_edit.tests.host.test_families import guide
from ale_edit.tests.tiny import edits_of, two_regions

UNETS = "SD 1.5, SD 2 or SDXL"
INSIDE = {  # what acts inside the attention layers of a UNet
    "Region Cross-Attention": lambda m: apply_rgb_cam(m, two_regions()),
    "Self-Attention Injection": lambda m: apply_self_injection(m, 0.5),
}
NODES = {
    **INSIDE,
    "Background Blending": lambda m: apply_background_blending(m, two_regions()),
    "Two-Branch Guider": lambda m: two_branch_guider(m, [], [], []),
    "LCM Schedule": lambda m: lcm_sigmas(m, 4, 1.0),
}
REASONS = {
    "SVD": ["SVD_img2vid", "video"],
    "x4 upscaler": ["SD_X4Upscaler", "no self-attention"],
    "SD 0.9 XS": ["BaseModel", "no self-attention"],
    "AuraFlow": ["AuraFlow (MMDiT)", "no UNet cross-attention"],
}


def message(run: Any) -> str:
    with pytest.raises(ValueError) as error:
        run()
    return str(error.value)


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("name", REASONS)
def test_a_model_that_makes_no_image_from_text_through_a_unet(name, node):
    model = family_model(name) if name in REFUSED else tiny_aura_flow()
    known = [] if node in INSIDE else ["SD 3, Flux.1, Flux.2, Chroma, Qwen-Image"]
    require_words(message(lambda: NODES[node](model)), [node, *REASONS[name], UNETS, *known])


@pytest.mark.parametrize("node", INSIDE)
@pytest.mark.parametrize("name", MODELS)
def test_a_flow_transformer_where_a_node_acts_inside_a_unet(name, node):
    model = flow_model(name)
    text = message(lambda: INSIDE[node](model))
    require_words(text, [node, type(model.model).__name__, "no UNet cross-attention", UNETS])


@pytest.mark.parametrize("editor", EDITORS, ids=lambda editor: editor.name)
def test_a_flow_transformer_in_an_editor(editor, clip):
    text = message(
        lambda: open_edit(
            editor, editor.settings(), flow_model("Flux.1"), clip, edits_of(), regions=two_regions()
        )
    )
    require_words(text, [editor.title, "Flux (Flux)", "no UNet cross-attention", UNETS])


def test_an_inversion_by_a_flow_transformer():
    model, text = flow_model("Flux.1"), flow_text("Flux.1", 1)
    said = message(
        lambda: invert_by(
            "DDIM",
            model,
            text,
            flow_latent("Flux.1"),
            Schedule(4),
            "",
            negative=text,
            guidance=1.0,
            convention="published code",
            seed=0,
        )  # fmt: skip
    )
    require_words(said, ["Flux (Flux)", "no UNet cross-attention", UNETS])


def require_words(text: str, words: list[str]) -> None:
    assert [word for word in ["model input", *words] if word not in text] == [], text
    assert text.endswith(".") and "\n" not in text


def test_a_flow_transformer_with_the_sampling_of_another_kind_of_model():
    model = ModelSamplingDiscrete().patch(flow_model("Flux.1"), "eps", False)[0]
    for node in ("Background Blending", "Two-Branch Guider", "LCM Schedule"):
        require_words(
            message(lambda node=node: NODES[node](model)),
            [node, "Flux", "ModelSamplingDiscrete", "Remove that node"],
        )


def run_flow(name: str, source: Any, latent: Any = None, target: Any = None) -> torch.Tensor:
    from ale_edit.host.sampling.virtual_inversion import virtual_inversion_sampler

    guider = two_branch_guider(flow_model(name), source, target or source, flow_text(name, 2))
    latent = flow_latent(name) if latent is None else latent
    sigmas = torch.tensor([0.9, 0.4, 0.0])
    return guider.sample(torch.zeros_like(latent), latent, virtual_inversion_sampler(), sigmas)


def with_entry(name: str, **entries: Any) -> Any:
    ((text, options),) = flow_text(name, 1)
    return [[text, {**options, **entries}]]


FLOW_INPUTS = {
    "text of another encoder": (
        lambda: run_flow("Qwen-Image", [[torch.ones(1, 9, 40), {"pooled_output": None}]]),
        ["source input", "40 channels", "48", "CLIP"],
    ),
    "no pooled output": (
        lambda: run_flow("SD 3.5", with_entry("SD 3.5", pooled_output=None)),
        ["source input", "no pooled output", "SD 3", "CLIP-L"],
    ),
    "no pooled output in one text": (
        lambda: run_flow(
            "Flux.1", flow_text("Flux.1", 1), target=with_entry("Flux.1", pooled_output=None)
        ),
        ["target input", "no pooled output", "Flux.1"],
    ),
    "reference latents": (
        lambda: run_flow("Flux.1", with_entry("Flux.1", reference_latents=[torch.ones(1)])),
        ["source input", "reference latents", "Remove the node"],
    ),
    "Redux with a mask": (
        lambda: run_flow("Flux.1", with_entry("Flux.1", attention_mask_img_shape=(2, 2))),
        ["source input", "attention mask", "Apply Style Model", "Remove the node"],
    ),
    "latents of four channels": (
        lambda: run_flow("Flux.1", flow_text("Flux.1", 1), torch.ones(1, 4, 8, 8)),
        ["(1, 4, 8, 8)", "(batch, 16, height, width)", "VAE"],
    ),
    "latents without frames": (
        lambda: run_flow("Qwen-Image", flow_text("Qwen-Image", 1), torch.ones(1, 16, 8, 8)),
        ["(1, 16, 8, 8)", "(batch, 16, 1 frame, height, width)", "VAE"],
    ),
    "a clip": (
        lambda: run_flow("Qwen-Image", flow_text("Qwen-Image", 1), torch.ones(1, 16, 3, 8, 8)),
        ["3 frames", "one by one"],
    ),
}


@pytest.mark.parametrize("name", FLOW_INPUTS)
def test_inputs_that_do_not_fit_a_flow_transformer(name):
    run, words = FLOW_INPUTS[name]
    text = message(run)
    assert [word for word in ["Two-Branch Guider", *words] if word not in text] == [], text
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
