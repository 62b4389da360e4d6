"""RGB-CAM beside other patches on the same model: image prompts, LoRA, weight hooks, attention."""

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
from ale_edit.regions.regions import ImageRegions
from ale_edit.tests.host.published_form import published_form, target
from ale_edit.tests.host.runs import generate, plain, relative_error, with_option
from ale_edit.tests.tiny import randn, tiny_model, two_regions


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


def published_form_with_image_prompt(model: Any, ore: Any, regions: ImageRegions) -> Any:
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
