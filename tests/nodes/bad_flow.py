"""Inputs that do not fit a flow transformer.

Imported by tests as `ale_edit.tests.nodes.bad_flow`.
"""

from __future__ import annotations

from typing import Any

import torch

from ale_edit.tests.host.flow_models import flow_latent, flow_model, flow_text
from ale_edit.tests.nodes.bad_input import Case, World, latent, regions
from ale_edit.tests.nodes.graph import one


def for_noise(model: Any) -> Any:
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    return ModelSamplingDiscrete().patch(model, "eps", False)[0]


def sample(world: World, name: str, samples: Any = None, **entries: Any) -> Any:
    """One edit; entries: what other nodes put into the source and the target prompt."""
    model = flow_model(name)
    source, target = (
        [[text, {**options, **entries}] for text, options in flow_text(name, seed)]
        for seed in (1, 2)
    )
    negative = flow_text(name, 3)
    guider = one("ALETwoBranchGuider", model=model, source=source, target=target, negative=negative)
    sigmas = one("ALELCMSchedule", model=model, steps=2)
    samples = flow_latent(name) if samples is None else samples
    return world.sample(guider, sigmas=sigmas, latent_image=latent(samples))


OTHER_SAMPLING = "which was trained by flow matching, but its sampling is"
FLOW_CASES = [
    Case(
        "sampling of another kind in blending",
        lambda w: one("ALEBackgroundBlending", model=for_noise(w.flux), regions=regions()),
        "ALEBackgroundBlending",
        OTHER_SAMPLING,
        ("Background Blending", "model input", "Flux", "ModelSamplingDiscrete"),
    ),
    Case(
        "sampling of another kind in the guider",
        lambda w: w.guide(for_noise(w.flux)),
        "ALETwoBranchGuider",
        OTHER_SAMPLING,
        ("Two-Branch Guider", "model input", "Flux", "ModelSamplingDiscrete"),
    ),
    Case(
        "sampling of another kind in the schedule",
        lambda w: one("ALELCMSchedule", model=for_noise(w.flux)),
        "ALELCMSchedule",
        OTHER_SAMPLING,
        ("LCM Schedule", "model input", "Flux", "ModelSamplingDiscrete"),
    ),
    Case(
        "no pooled output",
        lambda w: sample(w, "Flux.1", pooled_output=None),
        "ALETwoBranchGuider",
        "has no pooled output",
        ("Two-Branch Guider", "source input", "Flux.1"),
    ),
    Case(
        "reference latents",
        lambda w: sample(w, "Flux.1", reference_latents=[flow_latent("Flux.1")]),
        "ALETwoBranchGuider",
        "carries reference latents",
        ("Two-Branch Guider", "source input"),
    ),
    Case(
        "mask on image tokens",
        lambda w: sample(w, "Flux.1", attention_mask_img_shape=(2, 2)),
        "ALETwoBranchGuider",
        "carries an attention mask on image tokens",
        ("Two-Branch Guider", "source input"),
    ),
    Case(
        "frames",
        lambda w: sample(w, "Qwen-Image", torch.ones(1, 16, 3, 8, 8)),
        "ALETwoBranchGuider",
        "this VAE takes a batch of images for a clip",
        ("Two-Branch Guider", "3 frames"),
    ),
    Case(
        "draws of noise that are not fresh",
        lambda w: one("ALEVirtualInversion", eta=0.5, n_avg=2),
        "ALEVirtualInversion",
        "an average over draws of noise needs fresh noise alone",
        ("Virtual Inversion", "n_avg is 2", "eta 0.5"),
    ),
]
