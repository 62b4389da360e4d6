"""Bad input of the nodes for stored inversions, and of editors that are given one.

Imported by tests as `ale_edit.tests.nodes.bad_inversions`.
"""

from __future__ import annotations

from typing import Any

import torch

from ale_edit.inversion.stored import Inversion, Schedule
from ale_edit.tests.nodes.bad_editors import INVERTED, NO_UNET, edit_by, inverted
from ale_edit.tests.nodes.bad_input import Case, World
from ale_edit.tests.nodes.graph import one, run


def invert(world: World, **inputs: Any) -> Any:
    usual = {"model": world.model, "clip": world.clip, "steps": 4}
    usual["latent"] = {"samples": torch.ones(1, 4, 8, 8)}
    return one("ALEInvertImage", **{**usual, **inputs})


def of_five_steps() -> Inversion:
    latents = torch.zeros(6, 1, 4, 8, 8)
    return Inversion("DDIM", Schedule(5), (1.0,) * 6, latents, "", "another model")


INVERSION_CASES = [
    Case(
        "Flux in Invert Image",
        lambda w: invert(w, model=w.flux),
        "ALEInvertImage",
        NO_UNET,
        ("Invert Image", "model input", "Flux"),
    ),
    Case(
        "Flux in Sample from Inversion",
        lambda w: run("ALESampleFromInversion", model=w.flux, inversion=inverted()),
        "ALESampleFromInversion",
        NO_UNET,
        ("Sample from Inversion", "model input", "Flux"),
    ),
    Case(
        "no text encoder in Invert Image",
        lambda w: invert(w, clip=None),
        "ALEInvertImage",
        "the clip input is empty",
        ("Invert Image: ", "SD 1.5"),
    ),
    Case(
        "an inversion of no step",
        lambda w: invert(w, strength=0.2),
        "ALEInvertImage",
        "leave no step to sample",
        ("Invert Image", "4 steps", "0.2"),
    ),
    *(
        Case(
            f"an inversion of other steps in {title}",
            lambda w, node_id=node_id: edit_by(node_id, w, inversion=of_five_steps()),
            node_id,
            "the inversion has",
            (f"{title}: ", "5 DDIM steps", "4 "),
        )
        for node_id, title in INVERTED.items()
        if node_id not in ("ALEP2P", "ALEMAGEdit", "ALEPix2PixZero")  # no empty source prompt
    ),
]
# tests/nodes/test_inversion.py and test_not_finite.py, tests/host/test_null_text.py,
# test_mag_edit.py and test_pix2pix_zero.py
ELSEWHERE = (
    "the inversion has",
    "the error at step",
    "of the inversion gave NaN",
    "there is no inversion",
    "holds no inversion",
    "which is not a valid file name in",
    "Lower scale",
    "Lower attention_guidance",
    "the gradients of latents of",
    "the loss of",
    "the gradient of each image",
    "were learned with another text encoder",
)
"""Sentences that help pages quote and other tests provoke."""
