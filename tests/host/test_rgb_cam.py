"""RGB-CAM through ComfyUI's real CFGGuider, against the published form wired by hand."""

from __future__ import annotations

from typing import Any

import comfy.hooks
import comfy.model_base
import comfy.model_management
import comfy.patcher_extension
import comfy.samplers
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from torch import Tensor

from ale_edit.host.attention.rgb_cam import apply_rgb_cam
from ale_edit.host.attention.unet import cross_attention_layers
from ale_edit.host.text.conditioning import ORE_KEY
from ale_edit.prompts.ore import ObjectRestrictedEmbeddings
from ale_edit.regions.grid import coverage
from ale_edit.regions.regions import Regions, make_regions
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

WRAPPERS = comfy.patcher_extension.WrappersMP
LONG = "a very detailed photograph of " + ", ".join(f"thing number {n}" for n in range(22))


def published_form(
    model: Any,
    ore: ObjectRestrictedEmbeddings,
    regions: Regions,
    positive: int = 0,
    background: Tensor | None = None,
) -> Any:
    """Algorithm 2 with ComfyUI's own attn2 replacement: one masked map, all values everywhere.

    Acts on the chunks of conds[positive]; the image is 8 times the latent. With a background text
    (1, N, D), the cells of no region have plain attention to it instead.
    """

    def make(module: Any) -> Any:
        def attn2(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
            out = optimized_attention(q, k, v, options["n_heads"])
            chunks = options["cond_or_uncond"]
            rows = q.shape[0] // len(chunks)
            height, width = options["activations_shape"][-2:]
            covered = coverage(regions.dilated, height, width, "paper").flatten(1)
            mask = torch.zeros(height * width, len(ore.owner))
            for token, owner in enumerate(ore.owner.tolist()):
                if owner >= 0:
                    mask[~covered[owner], token] = -100
            keys, values = module.to_k(ore.keys[None]), module.to_v(ore.values)
            for c, chunk in enumerate(chunks):
                if chunk != positive:
                    continue
                mine = q[c * rows : (c + 1) * rows]
                repeated = keys.expand(rows, -1, -1)

                def attend(value: Tensor, q: Tensor = mine, k: Tensor = repeated) -> Tensor:
                    v = value[None].expand(rows, -1, -1)
                    return optimized_attention(q, k, v, options["n_heads"], mask=mask)

                result = attend(values[-1])
                for i in range(len(covered)):
                    inside = covered[i] & (covered.sum(dim=0) == 1)
                    result = torch.where(inside[:, None], attend(values[i]), result)
                if background is not None:
                    text = background.expand(rows, -1, -1)
                    outside = optimized_attention(
                        mine, module.to_k(text), module.to_v(text), options["n_heads"]
                    )
                    result = torch.where(covered.any(dim=0)[:, None], result, outside)
                out[c * rows : (c + 1) * rows] = result
            return out

        return attn2

    clone = model.clone()
    for key, module in cross_attention_layers(model.model.diffusion_model).items():
        clone.set_model_attn2_replace(make(module), *key)
    return clone


def target(clip: Any, **settings: Any) -> Any:
    return side(clip, edits_of(**settings), "target")


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
    masks = [
        box_mask(64, 64, top=4 * i, left=2 * i, bottom=4 * i + 4, right=2 * i + 30)
        for i in range(count)
    ]
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
    regions = make_regions([torch.ones(64, 64)] * 2, ["wolf", "moon"], 0.0)
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


# -- batching by ComfyUI ---------------------------------------------------------------------------


def separately(model: Any) -> Any:
    """A clone whose UNet calls hold one conditioning each, as when memory is short."""

    def one_by_one(executor: Any, base: Any, conds: list[Any], *args: Any) -> list[Tensor]:
        out = []
        for i in range(len(conds)):
            alone = [cond if j == i else None for j, cond in enumerate(conds)]
            out.append(executor(base, alone, *args)[i])
        return out

    return with_option(
        model, lambda m: m.add_wrapper_with_key(WRAPPERS.CALC_COND_BATCH, "test", one_by_one)
    )


def reversed_order(model: Any) -> Any:
    """A clone whose UNet calls hold the conditionings in the opposite order."""

    def backwards(executor: Any, base: Any, conds: list[Any], *args: Any) -> list[Tensor]:
        return executor(base, conds[::-1], *args)[::-1]

    return with_option(
        model, lambda m: m.add_wrapper_with_key(WRAPPERS.CALC_COND_BATCH, "test", backwards)
    )


def calls_of(model: Any, run: Any) -> list[list[int]]:
    """Runs `run(model)` and returns cond_or_uncond of every UNet call."""
    calls: list[list[int]] = []

    def count(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        calls.append(list(args[5]["cond_or_uncond"]))
        return executor(*args, **kwargs)

    run(with_option(model, lambda m: m.add_wrapper_with_key(WRAPPERS.APPLY_MODEL, "count", count)))
    return calls


def no_free_memory(device: Any = None, torch_free_too: bool = False) -> Any:
    """In place of ComfyUI's: nothing is free for a batch; attention's own question gets 1 GB."""
    return (2**30, 2**30) if torch_free_too else 0


def test_short_of_memory_gives_the_same_image(model, clip, monkeypatch):
    args = (target(clip), plain(clip, "blurry"))
    rgb_cam = apply_rgb_cam(model, two_regions())
    expected = generate(rgb_cam, *args)
    monkeypatch.setattr(comfy.model_management, "get_free_memory", no_free_memory)
    made = []
    calls = calls_of(rgb_cam, lambda m: made.append(generate(m, *args)))
    assert [len(call) for call in calls] == [1] * len(calls) and len(calls) == 4
    assert relative_error(made[0], expected) < 1e-4


@pytest.mark.parametrize("variant", ["paper", "published code"])
def test_short_of_memory_gives_the_same_edit(model, clip, monkeypatch, variant):
    edits = edits_of(variant=variant)
    expected = edit(guide(patched(model), clip, edits, (1.5, 2.0)))
    monkeypatch.setattr(comfy.model_management, "get_free_memory", no_free_memory)
    made = []
    calls = calls_of(patched(model), lambda m: made.append(edit(guide(m, clip, edits, (1.5, 2.0)))))
    assert [len(call) for call in calls] == [1] * 8
    print(f"separate passes: {relative_error(made[0], expected):.1e} of the std")
    assert relative_error(made[0], expected) < 1e-4


@pytest.mark.parametrize("arrange", [separately, reversed_order])
def test_chunks_in_any_order_or_call_give_the_same_image(model, clip, arrange):
    positive, negative = target(clip) + plain(clip, "an old barn"), plain(clip, "blurry")
    rgb_cam = apply_rgb_cam(model, two_regions())
    expected = generate(rgb_cam, positive, negative)
    assert relative_error(generate(arrange(rgb_cam), positive, negative), expected) < 1e-4


@pytest.mark.parametrize("arrange", [separately, reversed_order])
def test_chunks_in_any_order_or_call_give_the_same_edit(model, clip, arrange):
    expected = edit(guide(patched(model), clip, guidance=(1.5, 2.0)))
    made = edit(guide(arrange(patched(model)), clip, guidance=(1.5, 2.0)))
    assert relative_error(made, expected) < 1e-4


def test_a_longer_negative_tiles_our_text_and_changes_nothing(model, clip):
    positive, negative = target(clip), plain(clip, LONG)
    assert (positive[0][0].shape[1], negative[0][0].shape[1]) == (77, 154)
    rgb_cam = apply_rgb_cam(model, two_regions())
    seen = calls_of(rgb_cam, lambda m: generate(m, positive, negative, steps=1))
    assert [sorted(call) for call in seen] == [[0, 1]]  # one call, so both are 154 long
    expected = generate(separately(rgb_cam), positive, negative)
    assert relative_error(generate(rgb_cam, positive, negative), expected) < 1e-4


def test_a_longer_negative_or_source_changes_no_edit(model, clip):
    edits = edits_of(source_prompt=LONG + ", a wolf and a yellow moon")
    guider = guide(patched(model), clip, edits, (1.5, 2.0), negative=LONG)
    alone = guide(separately(patched(model)), clip, edits, (1.5, 2.0), negative=LONG)
    assert relative_error(edit(guider), edit(alone)) < 1e-4


# -- other patches on the same model ---------------------------------------------------------------


def add_image_prompt(model: Any, index: bool = True) -> None:
    """Like an IP-Adapter: plain attention plus attention to an image's tokens, in every layer."""
    for key, module in cross_attention_layers(model.model.diffusion_model).items():
        image = randn(1, 4, module.to_k.in_features, seed=len(str(key)))

        def attn2(
            q: Tensor,
            k: Tensor,
            v: Tensor,
            options: Any,
            module: Any = module,
            image: Tensor = image,
        ) -> Tensor:
            tokens = image.expand(q.shape[0], -1, -1)
            heads = options["n_heads"]
            added = optimized_attention(q, module.to_k(tokens), module.to_v(tokens), heads)
            return optimized_attention(q, k, v, heads) + 0.7 * added

        model.set_model_attn2_replace(attn2, *(key if index else key[:2]))


def published_form_with_image_prompt(model: Any, ore: Any, regions: Regions) -> Any:
    """What must come out of both together: the published form plus the image's attention."""
    form = published_form(model, ore, regions)
    image = with_option(model, add_image_prompt)
    forms = form.model_options["transformer_options"]["patches_replace"]["attn2"]
    images = image.model_options["transformer_options"]["patches_replace"]["attn2"]
    both = model.clone()
    for key in cross_attention_layers(model.model.diffusion_model):

        def attn2(q: Tensor, k: Tensor, v: Tensor, options: Any, key: Any = key) -> Tensor:
            plain_attention = optimized_attention(q, k, v, options["n_heads"])
            return forms[key](q, k, v, options) + images[key](q, k, v, options) - plain_attention

        both.set_model_attn2_replace(attn2, *key)
    return both


@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("is_before", [True, False])
def test_what_another_replacement_adds_is_kept_in_either_node_order(model, clip, is_before, index):
    positive, negative, regions = target(clip), plain(clip, ""), two_regions()

    def adapter(m: Any) -> None:
        add_image_prompt(m, index)

    if is_before:
        both = apply_rgb_cam(with_option(model, adapter), regions)
    else:
        both = with_option(apply_rgb_cam(model, regions), adapter)
    oracle = published_form_with_image_prompt(model, positive[0][1][ORE_KEY], regions)
    expected = generate(oracle, positive, negative)
    made = generate(both, positive, negative)
    assert relative_error(made, expected) < 1e-4
    assert relative_error(made, generate(apply_rgb_cam(model, regions), positive, negative)) > 0.05


def weight_changes(model: Any, seed: int = 9) -> dict[str, Tensor]:
    """A LoRA-like change of every cross-attention projection."""
    state = model.model.diffusion_model.state_dict()
    names = [n for n in state if "attn2.to_" in n and n.endswith("weight")]
    return {
        f"diffusion_model.{name}": 0.2 * randn(*state[name].shape, seed=seed + i)
        for i, name in enumerate(names)
    }


def merged(changes: dict[str, Tensor]) -> Any:
    """The tiny model with the changes written into its weights."""
    model = tiny_model()
    state = model.model.state_dict()
    model.model.load_state_dict({**state, **{n: state[n] + d for n, d in changes.items()}})
    return model


@pytest.mark.parametrize("is_before", [True, False])
def test_weight_patches_reach_the_projected_text(model, clip, is_before):
    changes = weight_changes(model)

    def lora(m: Any) -> None:
        assert len(m.add_patches({name: (diff,) for name, diff in changes.items()})) == len(changes)

    regions, args = two_regions(), (target(clip), plain(clip, ""))
    if is_before:
        changed = apply_rgb_cam(with_option(model, lora), regions)
    else:
        changed = with_option(apply_rgb_cam(model, regions), lora)
    expected = generate(apply_rgb_cam(merged(changes), regions), *args)
    unchanged = generate(apply_rgb_cam(model, regions), *args)
    assert relative_error(generate(changed, *args), expected) < 1e-4
    assert relative_error(expected, unchanged) > 0.05
    assert torch.equal(generate(apply_rgb_cam(model, regions), *args), unchanged)


def hooked(cond: Any, changes: dict[str, Tensor], strengths: dict[float, float]) -> Any:
    """A conditioning with a LoRA hook of {start percent: strength}, as ComfyUI makes it."""
    hook = comfy.hooks.WeightHook(strength_model=1.0, strength_clip=1.0)
    hook.weights = {name: (diff,) for name, diff in changes.items()}
    hook.need_weight_init = False
    group = comfy.hooks.HookGroup()
    group.add(hook)
    keyframes = comfy.hooks.HookKeyframeGroup()
    for start, strength in strengths.items():
        keyframes.add(comfy.hooks.HookKeyframe(strength, start))
    group.set_keyframes_on_hooks(keyframes)
    return [[text, {**options, "hooks": group}] for text, options in cond]


def test_weight_hooks_on_the_conditioning_reach_the_projected_text(model, clip):
    changes, regions = weight_changes(model), two_regions()
    positive, negative = target(clip), plain(clip, "")
    conds = [hooked(cond, changes, {0.0: 1.0}) for cond in (positive, negative)]
    made = generate(apply_rgb_cam(model, regions), *conds)
    expected = generate(apply_rgb_cam(merged(changes), regions), positive, negative)
    unchanged = generate(apply_rgb_cam(model, regions), positive, negative)
    assert relative_error(made, expected) < 1e-4
    assert relative_error(made, unchanged) > 0.05


@pytest.mark.parametrize("strengths", [{0.0: 1.0, 0.4: 0.0}, {0.0: 0.0, 0.4: 1.0}])
def test_weight_hooks_that_change_during_the_run_reach_the_projected_text(model, clip, strengths):
    changes, regions, negative = weight_changes(model), two_regions(), plain(clip, "")
    positive = hooked(target(clip), changes, strengths)
    made = generate(apply_rgb_cam(model, regions), positive, negative, steps=4)
    oracle = published_form(model, positive[0][1][ORE_KEY], regions)
    expected = generate(oracle, positive, negative, steps=4)
    assert relative_error(made, expected) < 1e-4
    for strength in (0.0, 1.0):
        constant = hooked(target(clip), changes, {0.0: strength})
        always = generate(apply_rgb_cam(model, regions), constant, negative, steps=4)
        assert relative_error(made, always) > 0.01


def test_an_attention_that_the_user_selected_is_used_for_our_rows_too(model, clip):
    calls: list[int] = []

    def override(function: Any, *args: Any, **kwargs: Any) -> Tensor:
        calls.append(args[1].shape[1])
        return function(*args, **kwargs)

    def select(m: Any) -> None:
        m.model_options["transformer_options"]["optimized_attention_override"] = override

    positive, negative = target(clip), plain(clip, "")
    patched, shape = apply_rgb_cam(model, two_regions(128, 128, 0.03)), (1, 4, 16, 16)
    expected = generate(patched, positive, negative, shape=shape)
    made = generate(with_option(patched, select), positive, negative, shape=shape)
    assert torch.equal(made, expected)
    ore = positive[0][1][ORE_KEY]
    unowned = int((ore.owner < 0).sum())
    joined = 3 * unowned + int((ore.owner >= 0).sum())  # both regions and the background in one
    assert unowned in calls and 77 in calls  # the background's words, the negative's
    assert joined in calls


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
