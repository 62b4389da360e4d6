"""Every wrong wiring or value that a run can meet: node, values and cure in one short message.

Bad edits are in tests/prompts, bad text in test_text.py, bad masks in test_regions.py.
"""

from __future__ import annotations

from typing import Any

import comfy.controlnet
import comfy.hooks
import comfy.samplers
import pytest
import torch

from ale_edit.host.attention.rgb_cam import apply_rgb_cam
from ale_edit.host.attention.self_injection import apply_self_injection
from ale_edit.host.sampling.blending import apply_background_blending
from ale_edit.host.sampling.schedule import lcm_sigmas
from ale_edit.regions.regions import make_regions
from ale_edit.tests.host.flow_models import tiny_aura_flow
from ale_edit.tests.host.refusals import refuses, sample
from ale_edit.tests.host.runs import edit, generate, guide, patched, plain, side, two_branch_guider
from ale_edit.tests.tiny import (
    edits_of,
    source_latent,
    tiny_clip,
    tiny_model,
    two_regions,
)

# -- wiring ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["euler", "lcm", "dpmpp_2m", "uni_pc", "ddim"])
def test_two_branch_guider_with_a_stock_sampler(calls, clip, name):
    words = ["Two-Branch Guider", "Virtual Inversion"]
    sampler = comfy.samplers.sampler_object(name)
    refuses(words, lambda: sample(guide(calls, clip), sampler=sampler), calls)


def test_the_refused_stock_sampler_is_named(calls, clip):
    sampler = comfy.samplers.sampler_object("euler")
    refuses(["sample_euler"], lambda: sample(guide(calls, clip), sampler=sampler), calls)


def stock_guider(model: Any, clip: Any) -> Any:
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(side(clip, edits_of(), "target"), plain(clip, ""))
    return guider


def test_virtual_inversion_with_a_stock_guider(calls, clip):
    words = ["Virtual Inversion", "CFGGuider", "Connect Two-Branch Guider"]
    refuses(words, lambda: sample(stock_guider(calls, clip)), calls)


@pytest.mark.parametrize(
    ("apply", "node"),
    [
        (lambda m: apply_self_injection(m, 0.5), "Self-Attention Injection"),
        (lambda m: apply_background_blending(m, two_regions()), "Background Blending"),
    ],
)
def test_injection_and_blending_with_a_stock_guider(calls, clip, apply, node):
    target, negative = side(clip, edits_of(), "target"), plain(clip, "")
    words = [node, "CFGGuider", "Use Two-Branch Guider", f"bypass {node}"]
    refuses(words, lambda: generate(apply(calls), target, negative), calls)


@pytest.mark.parametrize(
    ("apply", "node"),
    [
        (lambda m: apply_rgb_cam(m, two_regions()), "Region Cross-Attention"),
        (lambda m: apply_self_injection(m, 0.5), "Self-Attention Injection"),
        (lambda m: apply_background_blending(m, two_regions()), "Background Blending"),
    ],
)
def test_the_same_node_twice(model, apply, node):
    refuses([node, "already", "Remove one"], lambda: apply(apply(model)))


# -- latents and sigmas ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("latent", "words"),
    [
        (torch.zeros(1, 4, 8, 8), ["empty", "VAE Encode"]),
        (torch.full((1, 4, 8, 8), float("nan")), ["NaN", "Encode"]),
        (torch.full((1, 4, 8, 8), float("inf")), ["infinite", "Encode"]),
        (torch.ones(1, 16, 8, 8), ["(1, 16, 8, 8)", "(batch, 4, height, width)", "VAE"]),
        (torch.ones(1, 4, 3, 8, 8), ["(1, 4, 3, 8, 8)", "(batch, 4, height, width)"]),
        (torch.ones(0, 4, 8, 8), ["empty"]),
    ],
)
def test_a_latent_that_holds_no_image_of_this_model(calls, clip, latent, words):
    words = ["Two-Branch Guider", "latent", *words]
    refuses(words, lambda: sample(guide(patched(calls), clip), latent), calls)


@pytest.mark.parametrize("latent", [source_latent(2)])
def test_one_bad_image_of_a_batch_is_enough(calls, clip, latent):
    latent = latent.clone()
    latent[1, 2, 3, 4] = float("nan")
    words = ["Two-Branch Guider", "latent", "NaN"]
    refuses(words, lambda: sample(guide(calls, clip), latent), calls)


@pytest.mark.parametrize(
    ("sigmas", "words"),
    [
        ([], ["no step", "LCM Schedule"]),
        ([14.6], ["no step", "LCM Schedule"]),
        ([1.0, 2.0, 0.0], ["1, 2, 0", "fall", "LCM Schedule"]),
        ([2.0, 2.0, 0.0], ["2, 2, 0", "fall"]),
        ([2.0, 1.0], ["2, 1", "end at 0"]),
        ([1.0, 0.0, -1.0], ["1, 0, -1", "end at 0"]),
        ([float("nan"), 1.0, 0.0], ["nan, 1, 0"]),
        ([float("inf"), 1.0, 0.0], ["inf, 1, 0"]),
    ],
)
def test_sigmas_without_steps_or_out_of_order(calls, clip, sigmas, words):
    words = ["Two-Branch Guider", "sigmas", *words]
    schedule = torch.tensor(sigmas)
    refuses(words, lambda: sample(guide(patched(calls), clip), sigmas=schedule), calls)


@pytest.mark.parametrize("steps", [0, -3, 51])
def test_a_schedule_without_steps(model, steps):
    refuses(["LCM Schedule", f"steps is {steps}", "1 to 50"], lambda: lcm_sigmas(model, steps, 1.0))


def test_a_strength_that_leaves_no_step(model):
    refuses(["LCM Schedule", "4 steps", "0.1", "Raise"], lambda: lcm_sigmas(model, 4, 0.1))


# -- models ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("apply", "node"),
    [
        (lambda m: apply_rgb_cam(m, two_regions()), "Region Cross-Attention"),
        (lambda m: apply_self_injection(m, 0.5), "Self-Attention Injection"),
        (lambda m: apply_background_blending(m, two_regions()), "Background Blending"),
        (lambda m: two_branch_guider(m, [], [], []), "Two-Branch Guider"),
        (lambda m: lcm_sigmas(m, 4, 1.0), "LCM Schedule"),
    ],
)
def test_a_model_without_unet_cross_attention(apply, node):
    words = [node, "model input", "AuraFlow", "no UNet cross-attention", "SD 1.5"]
    refuses(words, lambda: apply(tiny_aura_flow()))


# -- regions against the latent --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("apply", "node"),
    [
        (apply_rgb_cam, "Region Cross-Attention: "),
        (apply_background_blending, "Background Blending: "),
    ],
)
def test_regions_of_another_shape_than_the_latent(calls, clip, apply, node):
    chain = apply(calls, two_regions(64, 128))
    words = [node, "64x128", "64x64", "Make the masks"]
    refuses(words, lambda: sample(guide(chain, clip)), calls)


def test_every_refusal_leaves_the_guider_and_the_model_well(model, clip):
    guider = guide(patched(model), clip)
    expected = edit(guider)
    for bad in (torch.zeros(1, 4, 8, 8), torch.full((1, 4, 8, 8), float("nan"))):
        with pytest.raises(ValueError):
            sample(guider, bad)
    with pytest.raises(ValueError):
        sample(guider, sampler=comfy.samplers.sampler_object("euler"))
    assert torch.equal(edit(guider), expected)


def test_another_width_is_no_obstacle_when_the_model_has_it():
    clip, model = tiny_clip(width=64), tiny_model(width=64)
    assert torch.isfinite(edit(guide(patched(model), clip))).all()


# -- many objects ----------------------------------------------------------------------------------


def test_thirty_objects_are_edited(model, clip):
    """Their base prompt has several chunks; the masks overlap and some vanish on coarse grids."""
    pairs = [(f"cat {i}", f"red dog number {i}") for i in range(30)]
    masks = [torch.zeros(64, 64) for _ in pairs]
    for i, mask in enumerate(masks):
        top, left = 8 * (i // 4), 16 * (i % 4)
        mask[top : top + 8, left : left + 20] = 1
    edits = edits_of(pairs, masks)
    regions = make_regions(masks, edits.sources, 0.02)
    assert side(clip, edits, "target")[0][0].shape[1] > 77
    latent = source_latent()
    made = edit(guide(patched(model, regions), clip, edits), latent)
    assert torch.isfinite(made).all()
    fewer = make_regions(masks[:2], edits.sources[:2], 0.02)
    words = ["Region Cross-Attention", "30 objects", "has 2 (cat 0, cat 1)"]
    refuses(words, lambda: edit(guide(patched(model, fewer), clip, edits), latent))
