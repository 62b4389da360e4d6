"""Virtual inversion and Background Blending in a two-branch run: what the edit must keep."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.editors.ale import background_weights
from ale_edit.host.attention.rgb_cam import apply_rgb_cam
from ale_edit.host.attention.self_injection import apply_self_injection
from ale_edit.host.sampling.blending import apply_background_blending
from ale_edit.prompts.edits import Variant
from ale_edit.regions.regions import ImageRegions, make_regions
from ale_edit.tests.host.runs import edit, guide, patched, relative_error, with_option
from ale_edit.tests.tiny import PAIRS, edits_of, source_latent, two_boxes, two_regions

SAME = [(source, source) for source, _ in PAIRS]
OFF: dict[str, Any] = {"ore": False, "rgb_cam": False, "blending": False}
SCALED = {"rtol": 3e-7, "atol": 0}  # ComfyUI scales latents by 0.18215 on the way in and back


@pytest.mark.parametrize("guidance", [(1.0, 1.0), (2.0, 2.0)])
@pytest.mark.parametrize("eta", [1.0, 0.4])
def test_equal_prompts_and_guidance_return_the_source_latent(model, clip, guidance, eta):
    """ORE, RGB-CAM and blending off, the nodes still there; 15 steps; 1e-4 of the latent's std."""
    latent = source_latent(2)
    guider = guide(patched(model), clip, edits_of(SAME, **OFF), guidance)
    made = edit(guider, latent, steps=15, eta=eta)
    print(f"source returned at guidance {guidance}, eta {eta}: {relative_error(made, latent):.1e}")
    assert relative_error(made, latent) < 1e-4


def test_equal_prompts_under_the_papers_guidance_do_not_return_the_source(model, clip):
    latent = source_latent()
    made = edit(guide(patched(model), clip, edits_of(SAME, **OFF)), latent, steps=15)
    print(f"distance at guidance 1 and 2: {relative_error(made, latent):.2f} of the source's std")
    assert relative_error(made, latent) > 0.05


def background(regions: ImageRegions, variant: Variant = "paper") -> Tensor:
    return background_weights(regions, 8, 8, variant, is_soft=False, cell=8)


@pytest.mark.parametrize("guidance", [(1.0, 2.0), (1.5, 3.0)])
def test_the_papers_blending_keeps_the_background_exactly(model, clip, guidance):
    latent, regions = source_latent(2), two_regions()
    made = edit(guide(patched(model, regions), clip, guidance=guidance), latent)
    keeps = background(regions)
    assert keeps.any() and not keeps.all()
    torch.testing.assert_close(made[..., keeps], latent[..., keeps], **SCALED)
    assert ((made - latent)[..., ~keeps].abs().amax(dim=1) > 1e-3).all()


def test_without_blending_the_background_changes(model, clip):
    latent, regions = source_latent(), two_regions()
    made = edit(guide(patched(model, regions), clip, edits_of(blending=False)), latent)
    changed = (made - latent)[..., background(regions)].abs()
    assert changed.max() > 0.05 * latent.std()
    without = edit(guide(apply_self_injection(apply_rgb_cam(model, regions), 0.5), clip), latent)
    assert torch.equal(made, without)


def test_published_blending_is_hard_in_the_noisy_latents_and_absent_from_the_result(model, clip):
    """methods.md A.6: x_target = x_source on the background after every step but the first."""
    latent, regions = source_latent(), two_regions()
    edits = edits_of(variant="published code")
    keeps, differences = background(regions, "published code"), []

    def look(executor: Any, x: Tensor, *args: Any) -> Tensor:
        source, target = x.chunk(2)
        differences.append((source - target)[..., keeps].abs().max())
        return executor(x, *args)

    def add(m: Any) -> None:
        m.add_wrapper_with_key("predict_noise", "look", look)

    made = edit(guide(with_option(patched(model, regions), add), clip, edits), latent, steps=5)
    assert keeps.any()
    assert differences[0] == 0 and differences[1] > 0.01  # not blended after the first step
    assert all(difference < 1e-5 for difference in differences[2:])
    assert (made - latent)[..., keeps].abs().max() > 0.01 * latent.std()


def test_the_variants_and_the_soft_edge_give_different_edits(model, clip):
    latent = source_latent()
    regions = make_regions(two_boxes(), ["wolf", "moon"], 0.02, 0.15)
    rgb_cam = apply_rgb_cam(model, regions)
    hard = edit(guide(apply_background_blending(rgb_cam, regions), clip), latent)
    soft = edit(guide(apply_background_blending(rgb_cam, regions, is_soft=True), clip), latent)
    weights = background_weights(regions, 8, 8, "paper", is_soft=True, cell=8)
    torch.testing.assert_close(soft[..., weights == 1], latent[..., weights == 1], **SCALED)
    between = (weights > 0) & (weights < 1)
    assert between.any()
    assert ((soft - latent)[..., between].abs().amax(dim=1) > 1e-4).all()
    assert relative_error(soft, hard) > 0.01


@pytest.mark.parametrize("seed", [0, 2**63])
def test_item_j_of_a_batch_is_the_single_edit_at_seed_plus_j(model, clip, seed):
    batch = source_latent(3)
    made = edit(guide(patched(model), clip), batch, seed=seed)
    for j in range(3):
        alone = edit(guide(patched(model), clip), batch[j : j + 1], seed=seed + j)
        error = relative_error(made[j : j + 1], alone)
        print(f"item {j} of a batch: {error:.1e} of the std")
        assert error < 1e-4
    assert (
        relative_error(made[1:2], edit(guide(patched(model), clip), batch[1:2], seed=seed)) > 0.01
    )


def test_a_noise_mask_keeps_the_source_where_it_is_0(model, clip):
    latent = source_latent(2)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 24:] = 1
    made = edit(guide(patched(model), clip, edits_of(blending=False)), latent, noise_mask=mask)
    torch.testing.assert_close(made[..., :3], latent[..., :3], **SCALED)
    assert ((made - latent)[..., 3:].abs() > 1e-3).float().mean() > 0.9


def test_a_noise_mask_of_ones_changes_nothing(model, clip):
    latent = source_latent(2)
    expected = edit(guide(patched(model), clip), latent)
    made = edit(guide(patched(model), clip), latent, noise_mask=torch.ones(2, 1, 64, 64))
    assert relative_error(made, expected) < 1e-6


def test_a_denoise_mask_function_of_another_node_is_asked_at_every_step(model, clip):
    """DifferentialDiffusion and its like; comfyui_api.md section 8, item 10."""
    asked: list[float] = []

    def nothing_before_the_last_step(sigma: Tensor, mask: Tensor, extra_options: Any) -> Tensor:
        assert {"model", "sigmas"} <= extra_options.keys()
        asked.append(float(sigma.flatten()[0]))
        return torch.zeros_like(mask)

    def add(m: Any) -> None:
        m.set_model_denoise_mask_function(nothing_before_the_last_step)

    latent = source_latent()
    made = edit(
        guide(with_option(patched(model), add), clip), latent, noise_mask=torch.ones(1, 1, 64, 64)
    )
    assert len(asked) == 4 and asked == sorted(asked, reverse=True)
    torch.testing.assert_close(made, latent, **SCALED)


def test_the_callback_gets_the_edited_image_alone(model, clip):
    latent, seen = source_latent(2), []

    def callback(step: int, denoised: Tensor, x: Tensor, total: int) -> None:
        seen.append((step, total, denoised.clone(), x.shape))

    made = edit(guide(patched(model), clip), latent, callback=callback)
    assert [(step, total) for step, total, *_ in seen] == [(i, 4) for i in range(4)]
    assert all(d.shape == latent.shape == shape for _, _, d, shape in seen)
    last = seen[-1][2] / 0.18215
    torch.testing.assert_close(last, made, rtol=1e-5, atol=1e-5)


def test_strength_below_1_starts_from_the_source_and_stays_nearer(model, clip):
    latent = source_latent()
    edits = edits_of(blending=False)
    begun: list[Tensor] = []

    def look(executor: Any, x: Tensor, *args: Any) -> Tensor:
        begun.append(x)
        return executor(x, *args)

    def add(m: Any) -> None:
        m.add_wrapper_with_key("predict_noise", "look", look)

    weak = edit(guide(with_option(model, add), clip, edits), latent, steps=10, strength=0.3)
    assert len(begun) == 3
    strong = edit(guide(model, clip, edits), latent, steps=10)
    assert (weak - latent).std() < (strong - latent).std()
    source, target = begun[0].chunk(2)
    assert torch.equal(source, target)
    correlation = torch.corrcoef(torch.stack([source.flatten(), latent.flatten()]))[0, 1]
    assert correlation > 0.2


def test_eta_changes_the_edit(model, clip):
    one, less = (edit(guide(patched(model), clip), eta=eta) for eta in (1.0, 0.5))
    assert relative_error(less, one) > 0.01


def test_the_noise_input_of_the_sampler_is_not_used(model, clip):
    from ale_edit.host.sampling.schedule import lcm_sigmas
    from ale_edit.host.sampling.virtual_inversion import virtual_inversion_sampler

    latent, guider = source_latent(), guide(patched(model), clip)
    args = (latent, virtual_inversion_sampler(), lcm_sigmas(model, 4, 1.0))
    made = guider.sample(torch.full_like(latent, 9.0), *args, disable_pbar=True, seed=5)
    assert torch.equal(made, edit(guider, latent))


def test_the_global_random_state_does_not_matter_and_is_left_alone(model, clip):
    first = edit(guide(patched(model), clip))
    torch.rand(7)
    before = torch.get_rng_state()
    assert torch.equal(edit(guide(patched(model), clip)), first)
    assert torch.equal(torch.get_rng_state(), before)
