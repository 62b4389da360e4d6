"""Latents, masks, batches and conditionings of every shape in a two-branch run: what stock
one-branch runs of the same inputs give, or a sentence. docs/composition.md is the table."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.editors import ale
from ale_edit.editors.ale import background_weights
from ale_edit.host.attention.rgb_cam import apply_rgb_cam
from ale_edit.host.editing import edit_image
from ale_edit.host.text.conditioning import ORE_KEY
from ale_edit.inversion.lcm_schedule import lcm_timesteps
from ale_edit.regions.regions import make_regions
from ale_edit.tests.host.other_nodes import Conds, conds_of, controlled, edit_with, hint
from ale_edit.tests.host.published_form import published_form
from ale_edit.tests.host.runs import (
    STEPS,
    edit,
    generate,
    guide,
    patched,
    plain,
    relative_error,
    side,
    two_branch_guider,
    with_option,
)
from ale_edit.tests.host.stock_runs import core_node, edit_by_two_runs
from ale_edit.tests.tiny import (
    PAIRS,
    edits_of,
    generator,
    source_latent,
    tiny_controlnet,
    tiny_vae,
    two_boxes,
    two_regions,
)

GUIDANCE = (1.5, 2.0)
DIFFERENTIAL = core_node("nodes_differential_diffusion", "DifferentialDiffusion")
SHAPES = [(8, 9), (1, 5), (13, 8), (5, 1), (7, 11), (1, 1), (3, 3)]  # latents, in cells of 8 pixels


# -- latents of any shape --------------------------------------------------------------------------


def some_regions(height: int, width: int) -> Any:
    """Two objects, of the upper left and the lower right pixels of an image of height x width, each
    with cells of its own; the border runs through cells."""
    upper = torch.zeros(height, width)
    upper[: 8 * math.ceil(height / 16) + 1, : 8 * math.ceil(width / 16) + 1] = 1
    return make_regions([upper, 1 - upper], [source for source, _ in PAIRS], 0.0)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_latent_of_any_shape_is_edited_as_by_stock_runs(model, clip, shape):
    latent = source_latent(2, *shape)
    made = edit(guide(model, clip, guidance=GUIDANCE), latent)
    expected = edit_by_two_runs(model, clip, GUIDANCE, latent=latent)
    assert relative_error(made, expected) < 1e-3


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != (1, 1)])
def test_rgb_cam_on_a_latent_of_any_shape_is_the_published_form(model, clip, shape):
    regions = some_regions(8 * shape[0], 8 * shape[1])
    positive, negative = side(clip, edits_of(), "target"), plain(clip, "")
    made = generate(apply_rgb_cam(model, regions), positive, negative, shape=(2, 4, *shape))
    oracle = published_form(model, positive[0][1][ORE_KEY], regions)
    expected = generate(oracle, positive, negative, shape=(2, 4, *shape))
    assert relative_error(made, expected) < 1e-3


@pytest.mark.parametrize("shape", SHAPES)
def test_all_of_ours_on_a_latent_of_any_shape_keeps_the_background(model, clip, shape):
    height, width = (8 * n for n in shape)
    object_mask = torch.zeros(height, width)
    object_mask[: height // 2, : width // 2 + 1] = 1
    regions = make_regions([object_mask], [PAIRS[0][0]], 0.0)
    latent = source_latent(2, *shape)
    guider = guide(patched(model, regions, schedule=1.0), clip, edits_of(PAIRS[:1]))
    made = edit(guider, latent)
    keeps = background_weights(regions, shape[0], shape[1], "paper", is_soft=False, cell=8)
    assert made.shape == latent.shape and torch.isfinite(made).all()
    torch.testing.assert_close(made[..., keeps], latent[..., keeps], rtol=3e-7, atol=0)
    if not keeps.all():
        assert ((made - latent)[..., ~keeps].abs() > 1e-5).any()


# -- images whose size is no multiple of 8 ---------------------------------------------------------


@pytest.fixture(scope="module")
def vae() -> Any:
    return tiny_vae()


@pytest.mark.parametrize("size", [(71, 66), (64, 79), (65, 64), (8, 23)])
def test_an_image_of_any_size_is_the_edit_of_what_the_vae_keeps_at_its_exact_size(
    model, clip, vae, size
):
    """The VAE crops an image around its centre; masks must be cropped alike."""
    height, width = size
    inner = [8 * (n // 8) for n in size]
    top, left = ((n - m) // 2 for n, m in zip(size, inner, strict=True))
    rows, columns = slice(top, top + inner[0]), slice(left, left + inner[1])
    image = torch.rand(1, height, width, 3, generator=generator(3))
    masks = [torch.zeros(size) for _ in range(2)]
    masks[0][top : top + inner[0] // 2, left : left + 8] = 1
    masks[1][top + inner[0] // 2 :, left + 8 :] = 1
    settings = ale.ALESettings(steps=2)

    def run(image: Tensor, masks: list[Tensor]) -> Tensor:
        edits = edits_of(masks=masks)
        regions = make_regions(masks, edits.sources, 0.0)
        inputs = (ale.EDITOR, settings, model, clip, vae, image, edits)
        # each computes its own source branch: a kept one rounds otherwise
        return edit_image(*inputs, 0, regions=regions, reuses_source=False)

    made = run(image, masks)
    cropped = run(image[:, rows, columns], [mask[rows, columns] for mask in masks])
    assert made.shape == image.shape
    torch.testing.assert_close(made[:, rows, columns], cropped)
    strip = torch.ones(size, dtype=torch.bool)
    strip[rows, columns] = False
    assert torch.equal(made[:, strip], image[:, strip])


# -- noise masks -----------------------------------------------------------------------------------


def soft_mask(count: int = 1) -> Tensor:
    """(count, 1, 64, 64) in [0, 1], another one for each image."""
    ramp = torch.linspace(0, 1, 64).expand(64, 64)
    return torch.stack([ramp.rot90(j)[None] for j in range(count)])


def masked_edit(
    model: Any, clip: Any, latent: Tensor, masks: list[Tensor], guidance: tuple[float, float]
) -> Tensor:
    """DDCM by stock runs that puts the source back outside a mask (h, w) of each step."""
    steps = iter(masks)
    return edit_by_two_runs(
        model, clip, guidance, latent=latent, keep=lambda x0, p: torch.lerp(x0, p, next(steps))
    )


def test_a_soft_noise_mask_mixes_source_and_edit_at_every_step(model, clip):
    latent, mask = source_latent(), soft_mask()
    small = torch.nn.functional.interpolate(mask, (8, 8), mode="bilinear")
    made = edit(guide(model, clip, guidance=GUIDANCE), latent, noise_mask=mask)
    expected = masked_edit(model, clip, latent, [small] * STEPS, GUIDANCE)
    assert relative_error(made, expected) < 1e-4


@pytest.mark.parametrize("is_late", [True, False])
def test_differential_diffusion_opens_the_mask_step_by_step(model, clip, is_late):
    """Its threshold falls from 1 to the last step's share of the time steps, by its paper."""
    latent, mask = source_latent(), soft_mask()
    small = torch.nn.functional.interpolate(mask, (8, 8), mode="bilinear")
    times = lcm_timesteps(STEPS)
    open_at = [(small >= t / times[0]).float() for t in times]
    shares = [float(m.mean()) for m in open_at]
    assert shares == sorted(shares) and len(set(shares)) == STEPS
    expected = masked_edit(model, clip, latent, open_at, GUIDANCE)
    changed = DIFFERENTIAL(model)
    made = edit(guide(changed, clip, guidance=GUIDANCE), latent, noise_mask=mask)
    assert relative_error(made, expected) < 1e-4
    ours = patched(changed)
    if is_late:
        ours = DIFFERENTIAL(patched(model))
    both = edit(guide(ours, clip), latent, noise_mask=mask)
    keeps = background_weights(two_regions(), 8, 8, "paper", is_soft=False, cell=8) | (
        open_at[-1][0, 0] == 0
    )
    torch.testing.assert_close(both[..., keeps], latent[..., keeps], rtol=3e-7, atol=0)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_noise_masks_of_any_number_go_to_the_images_in_turn(model, clip, count):
    """As ComfyUI deals them out: too few start again, too many are left out."""
    latent, masks = source_latent(3), soft_mask(count)
    made = edit(guide(patched(model), clip), latent, noise_mask=masks)
    for j in range(3):
        mask = masks[j % count : j % count + 1]
        alone = edit(guide(patched(model), clip), latent[j : j + 1], seed=5 + j, noise_mask=mask)
        assert relative_error(made[j : j + 1], alone) < 1e-4


# -- conditionings with more than text -------------------------------------------------------------


def with_options(conds: Conds, **options: Any) -> Conds:
    """As a node that sets something on source and target, the negative as it is."""
    source, target = ([[text, {**others, **options}] for text, others in c] for c in conds[:2])
    return source, target, conds[2]


@pytest.mark.parametrize(
    "options",
    [
        {"mask": soft_mask()[0] > 0.6, "mask_strength": 0.8},
        {"mask": soft_mask()[0] > 0.5, "set_area_to_bounds": True},
        {"area": (8, 4, 0, 4), "strength": 1.0},
        {"area": ("percentage", 0.5, 1.0, 0.25, 0.0), "strength": 0.5},
    ],
    ids=["mask", "mask bounds", "area", "area in percent"],
)
def test_masks_and_areas_of_the_conditionings_act_as_in_stock_runs(model, clip, options):
    if options.get("mask") is not None:
        options = {**options, "mask": options["mask"].float()}
    conds = with_options(conds_of(clip), **options)
    made = edit_with(model, conds, GUIDANCE)
    expected = edit_by_two_runs(model, clip, GUIDANCE, conds=conds)
    assert relative_error(made, expected) < 1e-3
    assert relative_error(made, edit_with(model, conds_of(clip), GUIDANCE)) > 1e-3


@pytest.mark.parametrize("where", ["positive", "negative"])
@pytest.mark.parametrize(("images", "count"), [(2, 2), (2, 4), (3, 2), (2, 3)])
def test_a_mask_for_each_image_is_the_same_for_both_branches(model, clip, where, images, count):
    """A batch of masks on the conditionings, of another length than the images too. A single masked
    conditioning counts where its mask is not 0; two are mixed by their masks."""
    latent, masks = source_latent(images), soft_mask(4)[:count, 0] * 0.9 + 0.1
    if where == "positive":
        masks = (masks > 0.5).float()

    def run(latent: Tensor, masks: Tensor, seed: int) -> Tensor:
        source, target, negative = conds_of(clip)
        if where == "positive":
            source, target, _ = with_options((source, target, negative), mask=masks)
        else:
            second = plain(clip, "blurry")
            negative = [*with_options((negative, negative, []), mask=masks)[0], *second]
        guider = two_branch_guider(patched(model), source, target, negative)
        return edit(guider, latent, seed=seed)

    made = run(latent, masks, 5)
    for j in range(images):
        alone = run(latent[j : j + 1], masks[j % count : j % count + 1], 5 + j)
        assert relative_error(made[j : j + 1], alone) < 1e-3


def timed(cond: Any, start: float, end: float) -> Any:
    """As Conditioning Set Timestep Range."""
    return [
        [text, {**options, "start_percent": start, "end_percent": end}] for text, options in cond
    ]


def test_a_branch_that_is_not_active_at_every_step_is_refused(model, clip):
    source, target, negative = conds_of(clip)
    late = (timed(source, 0.3, 1.0), timed(target, 0.3, 1.0), negative)
    early = (timed(source, 0.0, 0.5), timed(target, 0.0, 0.5), negative)
    words = (
        r"Two-Branch Guider: the source input is not active at step {} of 4.*Remove.*Timestep Range"
    )
    with pytest.raises(ValueError, match=words.format(1)):
        edit_with(model, late)
    with pytest.raises(ValueError, match=words.format(3)):
        edit_with(model, early)
    whole = (timed(source, 0.0, 1.0), timed(target, 0.0, 1.0), negative)
    assert relative_error(edit_with(model, whole), edit_with(model, conds_of(clip))) < 1e-5


def test_a_negative_that_leaves_steps_open_is_refused_where_it_is_needed(model, clip):
    source, target, _ = conds_of(clip)
    open_end = timed(plain(clip, "blurry"), 0.0, 0.5)
    with pytest.raises(ValueError, match="the negative input is not active at step 3 of 4"):
        edit_with(model, (source, target, open_end))
    unused = edit_with(model, (source, target, open_end), guidance=(1.0, 1.0))
    assert torch.equal(unused, edit_with(model, conds_of(clip), guidance=(1.0, 1.0)))


def test_two_negatives_that_share_the_steps_act_as_in_stock_runs(model, clip):
    source, target, _ = conds_of(clip)
    negative = timed(plain(clip, "blurry"), 0.0, 0.4) + timed(plain(clip, "a stone"), 0.4, 1.0)
    conds = (source, target, negative)
    made = edit_with(model, conds, GUIDANCE)
    assert relative_error(made, edit_by_two_runs(model, clip, GUIDANCE, conds=conds)) < 1e-4
    only = (source, target, plain(clip, "blurry"))
    assert relative_error(made, edit_with(model, only, GUIDANCE)) > 1e-3


def test_combined_negatives_act_as_in_stock_runs(model, clip):
    source, target, _ = conds_of(clip)
    conds = (source, target, [*plain(clip, "blurry"), *plain(clip, "a stone")])
    made = edit_with(model, conds, GUIDANCE)
    assert relative_error(made, edit_by_two_runs(model, clip, GUIDANCE, conds=conds)) < 1e-4


@pytest.mark.parametrize(("images", "hints", "fits"), [(2, 2, True), (4, 2, True), (2, 3, False)])
def test_control_images_that_do_not_fit_the_latents_are_refused(model, clip, images, hints, fits):
    conds, latent = (
        controlled(tiny_controlnet(), conds_of(clip), hint(hints)),
        source_latent(images),
    )
    if fits:
        assert torch.isfinite(edit_with(model, conds, latent=latent)).all()
        return
    words = (
        f"Two-Branch Guider: the control image of the source input holds {hints} images.*{images}"
    )
    with pytest.raises(ValueError, match=words):
        edit_with(model, conds, latent=latent)


def test_masks_of_two_sizes_give_the_same_edit(model, clip):
    """Masks twice as large as the image are sized down to it."""
    boxes = two_boxes()
    larger = [box.repeat_interleave(2, 0).repeat_interleave(2, 1) for box in boxes]
    edits = [
        edit(guide(patched(model, make_regions(masks, ["a", "b"], 0.0)), clip))
        for masks in (boxes, larger)
    ]
    assert torch.equal(edits[0], edits[1])


# -- a photograph of 12 megapixels -----------------------------------------------------------------


def test_twelve_megapixels_run_with_one_warning_that_says_what_to_do(
    model, clip, caplog, monkeypatch
):
    """Everything of ours but the UNet, which is left out: 3000 x 4000 pixels, two objects."""
    monkeypatch.setattr(model.model, "_apply_model", lambda x, *args, **kwargs: x * 0.5)
    regions = two_regions(3000, 4000, 0.01)
    guider = guide(patched(model, regions), clip)
    latent = source_latent(1, 375, 500)
    made = edit(guider, latent, steps=2)
    assert made.shape == latent.shape and torch.isfinite(made).all()
    warned = [r.getMessage() for r in caplog.records if "Two-Branch Guider" in r.getMessage()]
    assert len(warned) == 1
    needed = model.model.memory_required([2, 4, 375, 500]) / 1024**3
    for words in ("3000x4000", "12 megapixels", f"{needed:.0f} GB", "Scale Image to Total Pixels"):
        assert words in warned[0]


def test_the_sizes_that_people_edit_at_are_not_warned_about(model, clip, caplog):
    for shape in ((64, 64), (96, 96), (128, 128), (192, 256)):
        guider = guide(with_option(model, skip_unet), clip)
        edit(guider, source_latent(1, *shape), steps=1)
    assert not [r for r in caplog.records if "megapixels" in r.getMessage()]


def test_an_engine_that_replaces_the_unet_is_refused_where_we_act_on_its_attention(model, clip):
    guider = guide(patched(with_option(model, skip_unet)), clip)
    with pytest.raises(
        ValueError, match=r"^Region Cross-Attention: .*an engine of its own.*Remove"
    ):
        edit(guider)


def skip_unet(model: Any) -> None:
    model.set_model_unet_function_wrapper(lambda apply_model, args: args["input"] * 0.5)
