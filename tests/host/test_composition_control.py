"""ControlNet, T2I-Adapter, GLIGEN and image prompts beside our patches, or refused in a sentence.

The oracle where the branches do not depend on each other: two stock one-branch runs.
"""

from __future__ import annotations

import importlib
from typing import Any

import comfy.controlnet
import comfy.gligen
import comfy.hooks
import comfy.model_patcher
import comfy.patcher_extension
import comfy.samplers
import comfy.sd
import comfy.utils
import pytest
import torch
from torch import Tensor, nn

from ale_edit.host.attention.rgb_cam import apply_rgb_cam
from ale_edit.host.attention.self_injection import apply_self_injection
from ale_edit.host.attention.unet import cross_attention_layers
from ale_edit.host.sampling.blending import apply_background_blending
from ale_edit.tests.host.other_nodes import conds_of, controlled, edit_with, hint, image_prompt
from ale_edit.tests.host.runs import (
    edit,
    generate,
    guide,
    patched,
    relative_error,
    two_branch_guider,
)
from ale_edit.tests.host.stock_runs import edit_by_two_runs
from ale_edit.tests.tiny import fill, source_latent, tiny_controlnet, two_regions


class SmallAdapter(nn.Module):
    """A T2I-Adapter's net for tiny_model: features for the first block of its UNet."""

    unshuffle_amount = 8
    xl = False

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3 * 64, 32, 1)
        fill(self, 8, 0.3)

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        return {"input": [self.convolution(torch.pixel_unshuffle(x, 8))]}


def tiny_adapter() -> Any:
    return comfy.controlnet.T2IAdapter(SmallAdapter(), 3, 8, "nearest-exact")


@pytest.mark.parametrize("kind", ["ControlNet", "T2I-Adapter", "both", "first half"])
def test_controls_act_on_each_branch_as_on_a_stock_run(model, clip, kind):
    net, adapter, plainly = tiny_controlnet(), tiny_adapter(), conds_of(clip)
    if kind == "both":
        previous = controlled(adapter, plainly, hint(seed=7))[0][0][1]["control"]
        conds = controlled(net, plainly, previous=previous, strength=0.7)
    elif kind == "first half":
        conds = controlled(net, plainly, start=0.0, end=0.4)
        assert (
            relative_error(edit_with(model, conds), edit_with(model, controlled(net, plainly)))
            > 0.01
        )
    else:
        conds = controlled(net if kind == "ControlNet" else adapter, plainly)
    made = edit_with(model, conds)
    expected = edit_by_two_runs(model, clip, (1.0, 2.0), conds=conds)
    print(f"{kind}: {relative_error(made, expected):.1e} of the std")
    assert relative_error(made, expected) < 1e-4
    assert relative_error(made, edit_with(model, plainly)) > 0.01
    assert torch.isfinite(edit_with(patched(model), conds)).all()


@pytest.mark.usefixtures("split_always")
@pytest.mark.parametrize("make", [tiny_controlnet, tiny_adapter])
def test_a_control_image_for_each_image_stays_with_both_of_its_branches(model, clip, make):
    """Also where other runs of this size call the model with fewer rows: a T2I-Adapter keeps its
    features from the first call on."""
    net, images, latent = make(), hint(2), source_latent(2)
    made = edit_with(patched(model), controlled(net, conds_of(clip), images), latent=latent)
    for j in range(2):
        guider = two_branch_guider(
            patched(model), *controlled(net, conds_of(clip), images[j : j + 1])
        )
        alone = edit(guider, latent[j : j + 1], seed=5 + j)
        assert relative_error(made[j : j + 1], alone) < 1e-4
    other = edit_with(
        patched(model), controlled(net, conds_of(clip), images.flip(0)), latent=latent
    )
    assert relative_error(other, made) > 0.01


# -- GLIGEN ----------------------------------------------------------------------------------------


def tiny_gligen(model: Any, key_dim: int = 32) -> Any:
    """A GLIGEN model for tiny_model, as its loader makes it; one module for each block."""
    layers = cross_attention_layers(model.model.diffusion_model)
    order = ("input", "middle", "output")  # that of a UNet call
    keys = sorted(layers, key=lambda key: (order.index(key[0]), *key[1:]))
    widths = [layers[key].to_q.in_features for key in keys]
    modules = [comfy.gligen.GatedSelfAttentionDense(w, key_dim, 4, w // 4) for w in widths]
    net = comfy.gligen.Gligen(modules, comfy.gligen.PositionNet(key_dim, key_dim), key_dim)
    fill(net, 12, 0.1)
    for module in modules:
        module.load_state_dict({**module.state_dict(), "alpha_attn": torch.tensor(1.5)})
    return comfy.model_patcher.ModelPatcher(net, torch.device("cpu"), torch.device("cpu"))


def test_gligen_boxes_act_on_each_branch_as_on_a_stock_run(model, clip):
    node = importlib.import_module("nodes").GLIGENTextBoxApply()
    gligen, plainly = tiny_gligen(model), conds_of(clip)

    def boxed(cond: Any, text: str = "a lamp") -> Any:
        return node.append(cond, clip, gligen, text, 24, 32, 8, 16)[0]

    conds = (boxed(plainly[0]), boxed(plainly[1]), plainly[2])
    made = edit_with(model, conds)
    expected = edit_by_two_runs(model, clip, (1.0, 2.0), conds=conds)
    assert relative_error(made, expected) < 1e-4
    assert relative_error(made, edit_with(model, plainly)) > 0.01
    assert torch.isfinite(edit_with(patched(model), conds)).all()
    with pytest.raises(ValueError, match="differ in gligen. Apply the same node"):
        edit_with(model, (boxed(plainly[0]), boxed(plainly[1], "a chair"), plainly[2]))


# -- IP-Adapter-like replacements ------------------------------------------------------------------


def test_image_prompts_act_on_each_branch_as_on_a_stock_run(model, clip):
    adapter, latent = image_prompt(count=2), source_latent(2)
    made = edit(guide(adapter(model), clip), latent)
    expected = edit_by_two_runs(adapter(model), clip, (1.0, 2.0), latent=latent)
    assert relative_error(made, expected) < 1e-4
    assert relative_error(made, edit(guide(model, clip), latent)) > 0.05


def test_image_prompts_in_several_layers_run_beside_all_of_ours_in_either_order(model, clip):
    adapter = image_prompt()
    first = edit(guide(patched(adapter(model)), clip))
    assert relative_error(edit(guide(adapter(patched(model)), clip)), first) < 1e-5
    for other in (model, image_prompt(weights=(0.7,))(model), image_prompt(last=99)(model)):
        expected_change = relative_error(edit(guide(patched(other), clip)), first)
        assert expected_change > 1e-3
    without_rgb_cam = apply_background_blending(
        apply_self_injection(adapter(model), 0.5), two_regions()
    )
    assert relative_error(edit(guide(without_rgb_cam, clip)), first) > 0.01


def test_an_image_prompt_in_a_hook_of_the_conditioning_is_kept_by_rgb_cam(model, clip):
    """Hooks bring their patches at each call; RGB-CAM must not hide them."""
    image = image_prompt()(model).model_options["transformer_options"]["patches_replace"]
    source, target, negative = conds_of(clip)

    def with_hook(cond: Any, scope: Any) -> Any:
        group = comfy.hooks.HookGroup()
        group.add(comfy.hooks.TransformerOptionsHook({"patches_replace": image}, scope))
        return [[text, {**options, "hooks": group}] for text, options in cond]

    rgb_cam = apply_rgb_cam(model, two_regions())
    made = [
        generate(rgb_cam, with_hook(target, scope), negative, cfg=1.0)
        for scope in (
            comfy.hooks.EnumHookScope.HookedOnly,
            comfy.hooks.EnumHookScope.AllConditioning,
        )
    ]
    expected = generate(
        apply_rgb_cam(image_prompt()(model), two_regions()), target, negative, cfg=1.0
    )
    assert relative_error(made[0], expected) < 1e-4
    assert relative_error(made[1], expected) < 1e-4
    assert relative_error(generate(rgb_cam, target, negative, cfg=1.0), expected) > 0.01
