"""Wrong guiders, samplers, conditionings, latents and noise levels.

Imported by tests as `ale_edit.tests.nodes.bad_sampling`.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch

from ale_edit.tests.families import family_model
from ale_edit.tests.nodes.bad_input import Case, World, latent, stock_sampler
from ale_edit.tests.nodes.graph import one
from ale_edit.tests.tiny import (
    tiny_controlnet,
)


def with_extra(conditioning: Any, key: str, value: Any) -> Any:
    """As a node that sets something on a conditioning."""
    return [[tensor, {**extras, key: value}] for tensor, extras in conditioning]


def with_control(conditioning: Any) -> Any:
    return with_extra(conditioning, "control", object())


def controlled(world: World, net: Any, images: int = 1) -> dict[str, Any]:
    """Source and target through one Apply ControlNet."""
    node = importlib.import_module("nodes").ControlNetApplyAdvanced()
    picture = torch.rand(images, 64, 64, 3)
    conds = node.apply_controlnet(*world.ore(), net, picture, 1.0, 0.0, 1.0)
    return dict(zip(("source", "target"), conds, strict=True))


def inpainting(world: World) -> dict[str, Any]:
    """Source and target through Inpaint Model Conditioning, the negative past it."""
    extras = {
        "concat_latent_image": torch.rand(1, 4, 8, 8),
        "concat_mask": torch.ones(1, 1, 64, 64),
    }
    source, target = world.ore()
    for key, value in extras.items():
        source, target = with_extra(source, key, value), with_extra(target, key, value)
    return {"source": source, "target": target}


LATENT_OF_ANOTHER = "Encode the source image with the VAE of the same checkpoint"
SAMPLING_CASES = [
    Case(
        "stock sampler",
        lambda w: w.sample(sampler=stock_sampler("euler")),
        "ALETwoBranchGuider",
        "needs a sampler that runs both branches",
        ("Two-Branch Guider", "sampler input", "sample_euler", "Virtual Inversion"),
    ),
    Case(
        "stock guider",
        lambda w: w.sample(w.stock_guider()),
        "ALEVirtualInversion",
        "needs a source and a target branch",
        ("Virtual Inversion", "guider", "CFGGuider", "Two-Branch Guider"),
    ),
    Case(
        "two sources",
        lambda w: w.guide(source=w.plain("a") + w.plain("b")),
        "ALETwoBranchGuider",
        "conditioning entries, it needs exactly one",
        ("Two-Branch Guider", "source input", "2"),
    ),
    Case(
        "two targets",
        lambda w: w.guide(target=w.plain("a") + w.plain("b")),
        "ALETwoBranchGuider",
        "conditioning entries, it needs exactly one",
        ("Two-Branch Guider", "target input", "2"),
    ),
    Case(
        "control on one branch",
        lambda w: w.guide(target=with_control(w.plain("a"))),
        "ALETwoBranchGuider",
        "inputs differ in",
        ("Two-Branch Guider", "source and target", "control"),
    ),
    Case(
        "sizes on one branch",
        lambda w: w.guide(target=with_extra(w.plain("a"), "width", 768)),
        "ALETwoBranchGuider",
        "inputs differ in",
        ("Two-Branch Guider", "source and target", "width"),
    ),
    Case(
        "a negative without the inpainting mask",
        lambda w: w.sample(w.guide(family_model("SD 1.5 inpainting"), **inpainting(w))),
        "ALETwoBranchGuider",
        "the negative input differs from source and target in concat_",
        ("Two-Branch Guider", "Inpaint Model Conditioning"),
    ),
    Case(
        "a part of the steps",
        lambda w: w.sample(
            w.guide(
                source=with_extra(w.plain("a"), "end_percent", 0.4),
                target=with_extra(w.plain("b"), "end_percent", 0.4),
            )
        ),
        "ALETwoBranchGuider",
        "is not active at step",
        ("Two-Branch Guider", "source input", "step 2 of 2", "Timestep Range"),
    ),
    Case(
        "a negative for a part of the steps",
        lambda w: w.sample(w.guide(negative=with_extra(w.plain("a"), "start_percent", 0.5))),
        "ALETwoBranchGuider",
        "is not active at step",
        ("Two-Branch Guider", "negative input", "step 1 of 2"),
    ),
    Case(
        "ControlNet of another family",
        lambda w: w.sample(w.guide(**controlled(w, tiny_controlnet(width=64)))),
        "ALETwoBranchGuider",
        "was made for another family of models",
        ("Two-Branch Guider", "ControlNet of the source input", "32 channels"),
    ),
    Case(
        "two control images for one latent",
        lambda w: w.sample(w.guide(**controlled(w, tiny_controlnet(), images=2))),
        "ALETwoBranchGuider",
        "Connect one control image, or one for each latent",
        ("Two-Branch Guider", "source input holds 2 images", "latent 1"),
    ),
    Case(
        "empty latent",
        lambda w: w.sample(latent_image=latent(torch.zeros(1, 4, 8, 8))),
        "ALETwoBranchGuider",
        "the latent of this run is empty",
        ("Two-Branch Guider", "VAE Encode"),
    ),
    Case(
        "latent of NaN",
        lambda w: w.sample(latent_image=latent(torch.full((1, 4, 8, 8), torch.nan))),
        "ALETwoBranchGuider",
        "holds NaN or infinite values",
        ("Two-Branch Guider", "latent"),
    ),
    Case(
        "latent of 16 channels",
        lambda w: w.sample(latent_image=latent(torch.ones(1, 16, 8, 8))),
        "ALETwoBranchGuider",
        LATENT_OF_ANOTHER,
        ("Two-Branch Guider", "latent", "16", "4"),
    ),
    Case(
        "no sigmas",
        lambda w: w.sample(sigmas=torch.tensor([0.0])),
        "ALETwoBranchGuider",
        "has no step",
        ("Two-Branch Guider", "sigmas input", "LCM Schedule"),
    ),
    Case(
        "rising sigmas",
        lambda w: w.sample(sigmas=torch.tensor([1.0, 2.0, 0.0])),
        "ALETwoBranchGuider",
        "must fall at every step and end at 0",
        ("Two-Branch Guider", "sigmas", "1, 2, 0"),
    ),
    Case(
        "zero steps",
        lambda w: one("ALELCMSchedule", model=w.model, steps=0),
        "ALELCMSchedule",
        "a latent consistency schedule has 1 to 50 steps",
        ("LCM Schedule", "steps is 0"),
    ),
    Case(
        "too little strength",
        lambda w: one("ALELCMSchedule", model=w.model, steps=4, strength=0.1),
        "ALELCMSchedule",
        "leave no step to sample",
        ("LCM Schedule", "4 steps", "strength 0.1"),
    ),
]
