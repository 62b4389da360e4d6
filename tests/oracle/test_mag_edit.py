"""MAG-Edit by the pack equals an independent loop on diffusers' UNet: its losses, the gradient of
every update, and every step of a whole edit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.attention import map_losses
from ale_edit.editors import mag_edit
from ale_edit.regions.regions import Regions, make_regions
from ale_edit.tests.tiny import box_mask

from . import mag_diffusers
from .editor_edit import BATCH, PAIRS, SEED, SMALL, Method, run_oracle, run_pack, worst_error
from .mag_diffusers import Settings, Update
from .planted import Mistake
from .test_p2p import LARGE
from .whole_edit import Scene, errors, twins

pytestmark = pytest.mark.comfy

BOUND = 1e-4  # of the source latent's standard deviation
FAR = 1e-2


def translate(settings: Settings) -> mag_edit.MagEditSettings:
    sampling = settings.sampling
    return mag_edit.MagEditSettings(
        steps=sampling.steps,
        strength=sampling.strength,
        source_guidance=sampling.source_guidance,
        target_guidance=sampling.target_guidance,
        inversion_method=sampling.method,  # type: ignore[arg-type]
        time_steps=sampling.spacing,  # type: ignore[arg-type]
        constraint=settings.constraint,  # type: ignore[arg-type]
        scale=settings.scale,
        iterations=settings.iterations,
        optimise_share=settings.optimised,
        early_stop=settings.stops,
        edit_words=settings.words,
        negative_words=settings.negative,
        negative_scale=settings.negative_scale,
        cross_share=settings.cross,
        self_share=settings.self_,
        blend_share=settings.blended,
    )


def regions(settings: Settings, scene: Scene) -> Regions:
    height, width = (8 * n for n in scene.size)
    masks = [
        box_mask(height, width, top=top, left=left, bottom=bottom, right=right)
        for top, left, bottom, right in settings.boxes
    ]
    return make_regions(masks, [source for source, _ in PAIRS], 0.0)


MAG = Method(
    mag_edit.EDITOR, translate, mag_diffusers.edit, adds_result=True, regions=regions
)
PLAIN = Settings(mag_diffusers.Sampling(steps=6, source_guidance=3.0, target_guidance=5.0))
SPATIAL = replace(PLAIN, constraint="spatial ratio", scale=0.5)
TALL = {"boxes": ((8, 8, 40, 40), (48, 0, 80, 48))}


@pytest.mark.parametrize(
    ("scene", "settings"),
    [(SMALL, PLAIN), (SMALL, SPATIAL), (BATCH, replace(PLAIN, **TALL))],
    ids=["token", "spatial", "batch"],
)
def test_every_step_equals_the_oracles(scene: Scene, settings: Settings):
    assert worst_error(MAG, scene, settings) <= BOUND
