"""RGB-CAM through ComfyUI's real CFGGuider, against the published form wired by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.host.attention.rgb_cam import apply_rgb_cam
from ale_edit.host.text.conditioning import ORE_KEY
from ale_edit.regions.regions import make_regions
from ale_edit.tests.host.published_form import LONG, published_form, target
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
from ale_edit.tests.tiny import (
    box_mask,
    edits_of,
    randn,
    source_latent,
    tiny_model,
    two_boxes,
    two_regions,
)

# -- strength and scope ----------------------------------------------------------------------------


def test_strength_0_is_the_unpatched_model_bit_for_bit(model, clip):
    positive, negative = target(clip), plain(clip, "blurry")
    expected = generate(model, positive, negative)
    assert torch.equal(
        generate(apply_rgb_cam(model, two_regions(), 0.0), positive, negative), expected
    )


def test_strength_0_is_the_unpatched_model_bit_for_bit_under_the_two_branch_guider(model, clip):
    expected = edit(guide(model, clip))
    assert torch.equal(edit(guide(apply_rgb_cam(model, two_regions(), 0.0), clip)), expected)


def test_the_ablation_switch_is_strength_0(model, clip):
    expected = edit(guide(model, clip, edits_of(rgb_cam=False)))
    made = edit(guide(apply_rgb_cam(model, two_regions()), clip, edits_of(rgb_cam=False)))
    assert torch.equal(made, expected)
    assert relative_error(edit(guide(apply_rgb_cam(model, two_regions()), clip)), expected) > 0.05


def test_strengths_between_0_and_1_mix_the_attention_outputs(model, clip):
    """Exact in one layer; across a whole UNet the result must move from one end to the other."""
    positive, negative = target(clip), plain(clip, "")
    results = [
        generate(apply_rgb_cam(model, two_regions(), strength), positive, negative, steps=1)
        for strength in (0.0, 1e-4, 0.5, 1 - 1e-6, 1.0)
    ]
    assert relative_error(results[1], results[0]) < 1e-2
    assert relative_error(results[3], results[4]) < 1e-4
    assert relative_error(results[2], results[0]) > 0.02
    assert relative_error(results[2], results[4]) > 0.02


@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_stock_ksampler_gets_the_published_form(model, clip, size, batch):
    regions = two_regions(8 * size[0], 8 * size[1], 0.03)
    positive, negative = target(clip), plain(clip, "blurry")
    shape = (batch, 4, *size)
    made = generate(apply_rgb_cam(model, regions), positive, negative, shape=shape)
    oracle = published_form(model, positive[0][1][ORE_KEY], regions)
    expected = generate(oracle, positive, negative, shape=shape)
    print(f"published form wired by hand: {relative_error(made, expected):.1e} of its std")
    assert relative_error(made, expected) < 1e-4
    assert relative_error(made, generate(model, positive, negative, shape=shape)) > 0.05


@pytest.mark.parametrize("count", [1, 3, 16])
def test_any_number_of_objects_gets_the_published_form(model, clip, count):
    pairs = [(f"cat{'s' * (i % 2)}", f"dog {i}") for i in range(count)]
    masks = []  # each of two cells by three, of which the next one covers one as well
    for i in range(count):
        top, left = 16 * (i // 4), 16 * (i % 4)
        masks.append(box_mask(64, 64, top=top, left=left, bottom=top + 16, right=left + 20))
    regions = make_regions(masks, [source for source, _ in pairs], 0.01)
    positive = side(clip, edits_of(pairs), "target")
    made = generate(apply_rgb_cam(model, regions), positive, plain(clip, ""), steps=1)
    oracle = published_form(model, positive[0][1][ORE_KEY], regions)
    expected = generate(oracle, positive, plain(clip, ""), steps=1)
    assert relative_error(made, expected) < 1e-4


def test_overlapping_masks_get_the_published_form(model, clip):
    left = box_mask(64, 64, top=8, left=8, bottom=48, right=40)
    right = box_mask(64, 64, top=24, left=24, bottom=56, right=60)
    regions = make_regions([left, right], ["wolf", "moon"], 0.02)
    positive = target(clip)
    made = generate(apply_rgb_cam(model, regions), positive, plain(clip, ""))
    expected = generate(
        published_form(model, positive[0][1][ORE_KEY], regions), positive, plain(clip, "")
    )
    assert relative_error(made, expected) < 1e-4
    last = generate(
        apply_rgb_cam(model, regions), target(clip, overlap="last object"), plain(clip, "")
    )
    assert relative_error(last, expected) > 0.01


@pytest.mark.parametrize("text", ["a snowy street", LONG])
@pytest.mark.parametrize("is_overlapping", [False, True])
def test_a_background_text_is_what_the_cells_of_no_region_see(model, clip, text, is_overlapping):
    second = (24, 24, 56, 60) if is_overlapping else (40, 44, 56, 60)
    masks = [
        box_mask(64, 64, top=top, left=left, bottom=bottom, right=right)
        for top, left, bottom, right in ((8, 8, 36, 40), second)
    ]
    regions = make_regions(masks, ["wolf", "moon"], 0.0)
    positive, negative, background = target(clip), plain(clip, "blurry"), plain(clip, text)
    made = generate(
        apply_rgb_cam(model, regions, background=background), positive, negative, shape=(2, 4, 8, 8)
    )
    ore = positive[0][1][ORE_KEY]
    oracle = published_form(model, ore, regions, background=background[0][0])
    expected = generate(oracle, positive, negative, shape=(2, 4, 8, 8))
    assert relative_error(made, expected) < 1e-4
    without = generate(apply_rgb_cam(model, regions), positive, negative, shape=(2, 4, 8, 8))
    assert relative_error(made, without) > 0.05


def test_the_background_text_changes_nothing_where_regions_are_everything(model, clip):
    left = box_mask(64, 64, top=0, left=0, bottom=64, right=40)
    right = box_mask(64, 64, top=0, left=24, bottom=64, right=64)
    regions = make_regions([left, right], ["wolf", "moon"], 0.0)
    positive, negative = target(clip), plain(clip, "")
    made, expected = (
        generate(apply_rgb_cam(model, regions, background=text), positive, negative)
        for text in (plain(clip, "a street"), None)
    )
    assert torch.equal(made, expected)


def test_the_source_branch_does_not_see_the_background_text(model, clip):
    outs: list[Tensor] = []

    def record(apply_model: Any, args: dict[str, Any]) -> Tensor:
        outs.append(apply_model(args["input"], args["timestep"], **args["c"]).clone())
        return outs[-1]

    for text in (None, plain(clip, "a snowy street")):
        changed = apply_rgb_cam(model, two_regions(), background=text)
        recording = with_option(changed, lambda m: m.set_model_unet_function_wrapper(record))
        edit(guide(recording, clip, guidance=(1.0, 1.0)), steps=1)
    without, with_text = outs  # rows [source, target] each
    assert torch.equal(without[0], with_text[0])
    assert relative_error(with_text[1], without[1]) > 0.05


@pytest.mark.parametrize(("entries", "found"), [(0, "0 entries"), (2, "2 entries"), (1, "2 texts")])
def test_a_background_of_several_texts_is_refused(model, clip, entries, found):
    background = plain(clip, "a street") * entries
    if found == "2 texts":
        background = [[background[0][0].expand(2, -1, -1), background[0][1]]]
    with pytest.raises(ValueError, match=f"the background input has {found}; it must be one text"):
        apply_rgb_cam(model, two_regions(), background=background)


def test_a_background_of_another_text_encoder_is_refused(model, clip):
    positive, negative = target(clip), plain(clip, "")
    wide = apply_rgb_cam(model, two_regions(), background=[[torch.randn(1, 77, 2048), {}]])
    with pytest.raises(ValueError, match="the background input has 2048 .* channels"):
        generate(wide, positive, negative)


def outputs_by_cond(
    model: Any, positive: Any, negative: Any, cfg: float = 3.0
) -> dict[Any, Tensor]:
    """First UNet output of each chunk: {(index in conds, text's first number): output}."""
    found: dict[Any, Tensor] = {}

    def record(apply_model: Any, args: dict[str, Any]) -> Tensor:
        out = apply_model(args["input"], args["timestep"], **args["c"])
        chunks = args["cond_or_uncond"]
        texts = args["c"]["c_crossattn"].chunk(len(chunks))
        for chunk, text, part in zip(chunks, texts, out.chunk(len(chunks)), strict=True):
            found.setdefault((chunk, float(text[0, 5, 0])), part.clone())
        return out

    recording = with_option(model, lambda m: m.set_model_unet_function_wrapper(record))
    generate(recording, positive, negative, steps=1, cfg=cfg)
    return found


def test_only_conditionings_that_carry_our_embeddings_are_touched(model, clip):
    positive = target(clip) + plain(clip, "an old barn")  # as ConditioningCombine
    negative = plain(clip, "blurry")
    before = outputs_by_cond(model, positive, negative)
    after = outputs_by_cond(apply_rgb_cam(model, two_regions()), positive, negative)
    assert len(before) == 3 and before.keys() == after.keys()
    ours = (0, float(positive[0][0][0, 5, 0]))
    for key in before:
        change = relative_error(after[key], before[key])
        assert change > 0.05 if key == ours else change < 1e-5


def test_two_of_our_conditionings_in_one_run_each_keep_their_own_embeddings(model, clip):
    regions = two_regions()
    other = edits_of([("wolf", "red fox"), ("yellow moon", "green lamp")])
    first, second = target(clip), side(clip, other, "target")
    both = outputs_by_cond(apply_rgb_cam(model, regions), first + second, plain(clip, ""))
    for cond in (first, second):
        alone = outputs_by_cond(apply_rgb_cam(model, regions), cond, plain(clip, ""))
        key = (0, float(cond[0][0][0, 5, 0]))
        assert relative_error(both[key], alone[key]) < 1e-4


def test_the_regions_follow_the_pixels_that_the_vae_keeps(model, clip):
    masks = two_boxes()
    padded = [torch.nn.functional.pad(mask, (2, 3, 3, 4)) for mask in masks]  # 71 x 69
    positive, negative = target(clip), plain(clip, "")
    made, expected = (
        generate(
            apply_rgb_cam(model, make_regions(m, ["a", "b"], 0.0)), positive, negative, steps=1
        )
        for m in (padded, masks)
    )
    assert torch.equal(made, expected)


@pytest.mark.parametrize("area", [(4, 4, 2, 2), (8, 4, 0, 4)])
def test_a_conditioning_of_an_area_is_refused_instead_of_squeezing_the_regions_into_it(
    model, clip, area
):
    """ConditioningSetArea: the UNet sees a part of the latent, the regions are of the whole."""
    positive = target(clip)
    positive[0][1]["area"] = area
    with pytest.raises(ValueError, match="Region Cross-Attention.*area"):
        generate(apply_rgb_cam(model, two_regions()), positive, plain(clip, ""))


def test_a_masked_conditioning_keeps_its_regions(model, clip):
    """ConditioningSetMask: the UNet sees the whole latent, the mask weighs its output."""
    positive, negative = target(clip), plain(clip, "")
    positive[0][1].update(mask=torch.ones(1, 64, 64), mask_strength=1.0)
    rgb_cam = apply_rgb_cam(model, two_regions())
    expected = generate(rgb_cam, target(clip), negative)
    assert relative_error(generate(rgb_cam, positive, negative), expected) < 1e-4


# -- properties ------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["paper", "published code"])
def test_the_order_of_the_edits_changes_nothing_but_the_prompt(model, clip, variant):
    """Under a fixed full prompt, (phrase, mask) pairs in another order give the same edit."""
    pairs, masks = [("wolf", "goat"), ("moon", "soccer ball")], two_boxes()
    prompts: dict[str, Any] = {
        "source_prompt": "a wolf under a moon",
        "target_prompt": "a goat under a soccer ball",
    }

    def run(order: list[int]) -> Tensor:
        edits = edits_of([pairs[i] for i in order], **prompts, variant=variant)
        regions = make_regions([masks[i] for i in order], edits.sources, 0.01)
        return edit(guide(patched(model, regions), clip, edits))

    assert relative_error(run([1, 0]), run([0, 1])) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_runs_finite_and_near_full_precision(clip, model, dtype):
    made = edit(guide(patched(tiny_model(dtype=dtype)), clip))
    assert torch.isfinite(made).all()
    expected = edit(guide(patched(model), clip))
    print(f"{dtype}: {relative_error(made, expected):.1e} of the std of the fp32 edit")
    error = (made - expected).std() / expected.std()
    assert error < (0.03 if dtype == torch.float16 else 0.3)


def test_item_j_of_a_batch_is_the_single_image_of_its_noise(model, clip):
    args = (target(clip), plain(clip, ""))
    rgb_cam = apply_rgb_cam(model, two_regions())
    noise = randn(3, 4, 8, 8)
    batch = generate(rgb_cam, *args, noise=noise)
    for j in range(3):
        alone = generate(rgb_cam, *args, noise=noise[j : j + 1])
        assert relative_error(batch[j : j + 1], alone) < 1e-4


def test_the_edit_of_a_wide_latent_is_finite_and_of_its_shape(model, clip):
    latent = source_latent(1, 8, 24)
    made = edit(guide(patched(model, two_regions(64, 192)), clip), latent)
    assert made.shape == latent.shape and torch.isfinite(made).all()


# -- our conditioning after other nodes ------------------------------------------------------------


def test_a_zeroed_copy_of_our_conditioning_is_a_plain_negative(model, clip):
    """Conditioning Zero Out keeps the entry's dict."""
    positive, rgb_cam = target(clip), apply_rgb_cam(model, two_regions())
    zeros = torch.zeros_like(positive[0][0])
    copied = [[zeros, dict(positive[0][1])]]
    expected = generate(rgb_cam, positive, [[zeros, {}]])
    assert torch.equal(generate(rgb_cam, positive, copied), expected)


def test_text_that_another_node_mixed_in_is_refused(model, clip):
    positive, other = target(clip), plain(clip, "a stone")
    appended = torch.cat([positive[0][0], other[0][0]], dim=1)  # Conditioning Concat
    averaged = 0.7 * positive[0][0] + 0.3 * other[0][0]
    for text in (appended, averaged):
        with pytest.raises(ValueError, match="Region Cross-Attention.*another node changed"):
            generate(apply_rgb_cam(model, two_regions()), [[text, positive[0][1]]], other)


def test_the_bounds_of_a_mask_are_refused_like_an_area(model, clip):
    positive = target(clip)
    positive[0][1].update(mask=torch.ones(1, 64, 64), set_area_to_bounds=True)
    with pytest.raises(ValueError, match="Region Cross-Attention.*mask bounds"):
        generate(apply_rgb_cam(model, two_regions()), positive, plain(clip, ""))
