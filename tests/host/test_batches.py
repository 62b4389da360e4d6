"""Batches of which each image has its own regions, in RGB-CAM and Background Blending."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ale_edit.editors.ale import background_weights
from ale_edit.host.attention.rgb_cam import apply_rgb_cam
from ale_edit.host.sampling.blending import apply_background_blending
from ale_edit.regions.regions import ImageRegions, RegionsBatch, make_regions
from ale_edit.tests.host.runs import (
    edit,
    generate,
    guide,
    patched,
    plain,
    relative_error,
    side,
    with_option,
)
from ale_edit.tests.tiny import edits_of, randn, source_latent, two_boxes


def moved(cells: int) -> ImageRegions:
    """The two boxes, so many latent cells further right."""
    masks = [mask.roll(8 * cells, dims=1) for mask in two_boxes()]
    return make_regions(masks, ["wolf", "yellow moon"], 0.0)


def replace_middle(model: Any) -> None:
    """Another pack's attn2_replace of one layer."""

    def attention(q: Any, k: Any, v: Any, options: Any) -> Any:
        from comfy.ldm.modules.attention import attention_pytorch

        return 0.5 * attention_pytorch(q, k, v, options["n_heads"])

    model.set_model_attn2_replace(attention, "middle", 0, 0)


@pytest.mark.parametrize("strength", [1.0, 0.4])
@pytest.mark.parametrize("beside", ["nothing", "a background text", "another node"])
def test_each_image_of_a_batch_has_its_own_regions(model, clip, strength, beside):
    """As regional generation with a KSampler."""
    background = plain(clip, "fog") if beside == "a background text" else None
    if beside == "another node":
        model = with_option(model, replace_middle)
    each = tuple(moved(j) for j in range(3))
    args, noise = (side(clip, edits_of(), "target"), plain(clip, "")), randn(3, 4, 8, 8)

    def run(regions: Any, noise: Any) -> Any:
        return generate(apply_rgb_cam(model, regions, strength, background), *args, noise=noise)

    batch = run(RegionsBatch(each), noise)
    for j in range(3):
        assert relative_error(batch[j : j + 1], run(each[j], noise[j : j + 1])) < 1e-4
    assert relative_error(batch[2:], run(each[0], noise)[2:]) > 1e-3


def test_a_batch_of_equal_regions_is_one_set_of_regions(model, clip):
    latent, regions = source_latent(2), moved(0)
    made, expected = (
        edit(guide(patched(model, given), clip), latent)
        for given in (RegionsBatch((regions, regions)), regions)
    )
    assert relative_error(made, expected) < 1e-4


@pytest.mark.parametrize("is_soft", [False, True])
def test_background_blending_keeps_each_images_own_background(model, clip, is_soft):
    each = (moved(0), moved(1))
    latent = source_latent(2)
    chain = apply_background_blending(model, RegionsBatch(each), is_soft)
    made = edit(guide(chain, clip), latent)
    for j, own in enumerate(each):
        single = edit(
            guide(apply_background_blending(model, own, is_soft), clip),
            latent[j : j + 1],
            seed=5 + j,
        )
        assert relative_error(made[j : j + 1], single) < 1e-4
        kept = background_weights(own, 8, 8, "paper", is_soft, cell=8) == 1
        torch.testing.assert_close(made[j][:, kept], latent[j][:, kept], rtol=1e-6, atol=1e-5)
        assert relative_error(made[j][:, ~kept], latent[j][:, ~kept]) > 1e-3
