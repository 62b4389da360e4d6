"""Other nodes' patches beside ours: each gives what its own promises, in either node order, or is
refused in a sentence. docs/composition.md is the table of these tests.

The oracle where the branches do not depend on each other: two stock one-branch runs.
"""

from __future__ import annotations

from collections.abc import Callable
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
from comfy_extras.nodes_hooks import PairConditioningSetProperties
from torch import Tensor

from ale_edit.host.attention.rgb_cam import apply_rgb_cam
from ale_edit.tests.host.other_nodes import (
    CORE,
    TOME,
    WRAPPERS,
    Conds,
    conds_of,
    controlled,
    edit_with,
    image_prompt,
    lora_of,
)
from ale_edit.tests.host.runs import edit, guide, patched, relative_error, with_option
from ale_edit.tests.host.stock_runs import core_node, edit_by_two_runs
from ale_edit.tests.tiny import randn, source_latent, tiny_controlnet, two_regions
from ale_edit.tests.versions import HAS_CFG_OVERRIDE

every_core_node = pytest.mark.parametrize("name", CORE)


# -- ComfyUI's own model nodes ---------------------------------------------------------------------


def latent_for(name: str) -> Tensor:
    """Deep Shrink's smallest grid of an 8x8 latent is one cell, whose group norm magnifies rounding
    errors ten thousand times."""
    size = 16 if name == "Deep Shrink" else 8
    return source_latent(1, size, size)


@every_core_node
def test_core_nodes_act_on_each_branch_as_on_a_stock_run(model, clip, name):
    guidance, node, latent = (1.5, 2.0), CORE[name], latent_for(name)
    made = edit(guide(node(model), clip, guidance=guidance), latent)
    expected = edit_by_two_runs(node(model), clip, guidance, latent=latent)
    print(f"{name}, two stock runs: {relative_error(made, expected):.1e} of the std")
    assert relative_error(made, expected) < 2e-4
    assert relative_error(made, edit(guide(model, clip, guidance=guidance), latent)) > 1e-2


@pytest.mark.ci
@pytest.mark.parametrize("name", sorted(CORE.keys() - {"APG"}))
def test_core_nodes_leave_a_branch_at_guidance_1_as_a_stock_run_does(model, clip, name):
    """A stock run at guidance 1 gives guidance patches zeros for the unconditional prediction,
    which APG takes for one; ours leaves that branch alone."""
    node, guidance, latent = CORE[name], (1.0, 2.0), latent_for(name)
    made = edit(guide(node(model), clip, guidance=guidance), latent)
    expected = edit_by_two_runs(node(model), clip, guidance, latent=latent)
    assert relative_error(made, expected) < 2e-4


@pytest.mark.ci
@every_core_node
def test_core_nodes_run_beside_all_of_ours_in_either_order(model, clip, name):
    node, latent = CORE[name], source_latent(2)
    first = edit(guide(patched(node(model)), clip), latent)
    assert relative_error(edit(guide(node(patched(model)), clip), latent), first) < 1e-5
    assert relative_error(first, edit(guide(patched(model), clip), latent)) > 1e-3


def sources_of(model: Any, clip: Any) -> list[Tensor]:
    """The source branch's denoised prediction at every step of an edit."""
    seen: list[Tensor] = []

    def keep(executor: Any, *args: Any) -> Tensor:
        out = executor(*args)
        seen.append(out.chunk(2)[0].clone())
        return out

    def add(m: Any) -> None:
        m.add_wrapper_with_key(WRAPPERS.PREDICT_NOISE, "keep", keep)

    edit(guide(with_option(model, add), clip))
    return seen


@pytest.mark.parametrize("name", ["PAG", "SAG", "FreeU_V2", "Deep Shrink", "HyperTile"])
def test_beside_core_nodes_ours_leave_the_source_branch_alone(model, clip, name):
    before, after = (
        sources_of(CORE[name](model), clip),
        sources_of(patched(CORE[name](model)), clip),
    )
    for first, second in zip(before, after, strict=True):
        assert relative_error(second, first) < 1e-4


def reseeded(model: Any) -> Any:
    """A clone that seeds the global generator before each UNet call: ToMe draws from it."""

    def seed(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        torch.manual_seed(7)
        return executor(*args, **kwargs)

    return with_option(model, lambda m: m.add_wrapper_with_key(WRAPPERS.APPLY_MODEL, "seed", seed))


def test_tome_merges_each_branch_as_a_stock_run_and_in_either_order(model, clip):
    guidance = (1.5, 2.0)
    with torch.random.fork_rng():
        made = edit(guide(reseeded(TOME(model)), clip, guidance=guidance))
        expected = edit_by_two_runs(reseeded(TOME(model)), clip, guidance)
        orders = [
            edit(guide(reseeded(changed), clip), source_latent(2))
            for changed in (patched(TOME(model)), TOME(patched(model)))
        ]
    assert relative_error(made, expected) < 1e-3
    assert relative_error(made, edit(guide(model, clip, guidance=guidance))) > 0.01
    assert relative_error(orders[1], orders[0]) < 1e-5


def test_the_sampling_of_an_lcm_is_that_of_the_model_itself(model, clip):
    """ModelSamplingDiscrete's lcm: its skip connection is below 1e-5 at these steps."""
    lcm = core_node("nodes_model_advanced", "ModelSamplingDiscrete", "lcm", False)
    expected = edit(guide(patched(model), clip))
    for changed in (patched(lcm(model)), lcm(patched(model))):
        assert relative_error(edit(guide(changed, clip)), expected) < 1e-4


@pytest.mark.parametrize("guidance", [(1.0, 2.0), (2.0, 2.0)])
def test_guidance_with_a_memory_acts_on_each_branch_as_on_a_stock_run(model, clip, guidance):
    """APG's momentum: called twice a step, its running average would advance twice. A stock run at
    guidance 1 gives APG zeros for the unconditional prediction; ours leaves that branch alone."""

    def with_momentum() -> Any:
        return core_node("nodes_apg", "APG", 1.5, 5.0, -0.5)(model)

    made = edit(guide(with_momentum(), clip, guidance=guidance))
    source_model = model if guidance[0] == 1 else with_momentum()
    expected = edit_by_two_runs(source_model, clip, guidance, target_model=with_momentum())
    print(f"APG with momentum: {relative_error(made, expected):.1e} of the std")
    assert relative_error(made, expected) < 1e-3
    without = edit(guide(CORE["APG"](model), clip, guidance=guidance))
    assert relative_error(made, without) > 1e-3


def test_guidance_that_averages_over_the_batch_is_refused(model, clip):
    mahiro = core_node("nodes_mahiro", "Mahiro")(model)
    with pytest.raises(ValueError, match=r"Two-Branch Guider: .*Mahiro.*Remove Mahiro\."):
        edit(guide(mahiro, clip))


@pytest.mark.skipif(not HAS_CFG_OVERRIDE, reason="this ComfyUI has no CFG Override")
def test_cfg_override_is_refused(model, clip):
    """It would set a guidance that no branch reads, and so do nothing."""
    override = core_node("nodes_custom_sampler", "CFGOverride", 4.0)(model)
    with pytest.raises(ValueError, match=r"Two-Branch Guider: .*CFG Override.*target_guidance\."):
        edit(guide(override, clip))


# -- LoRA and weight hooks -------------------------------------------------------------------------


def merged(patcher: Any, changes: dict[str, Tensor]) -> None:
    """Write a change of weights into a model itself."""
    state = patcher.model.state_dict()
    for name, change in changes.items():
        if name in state:
            state[name] += change


def test_a_lora_of_model_and_clip_is_the_merged_checkpoint(model, clip):
    from ale_edit.tests.tiny import tiny_clip, tiny_model

    lora, changes = lora_of(model, clip)
    own_model, own_clip = tiny_model(), tiny_clip()
    merged(own_model, changes)
    merged(own_clip.patcher, changes)
    expected = edit(guide(patched(own_model), own_clip))
    for late in (False, True):
        base = patched(model) if late else model
        changed, changed_clip = comfy.sd.load_lora_for_models(base, clip, lora, 1.0, 1.0)
        changed = changed if late else patched(changed)
        assert relative_error(edit(guide(changed, changed_clip)), expected) < 1e-4
    assert relative_error(edit(guide(patched(model), clip)), expected) > 0.05


def hooked(conds: Conds, lora: dict[str, Tensor], strengths: dict[float, float]) -> Conds:
    """As Create Hook LoRA and Create Hook Keyframe into Cond Pair Set Props: source and target
    through one node, the negative through another."""
    keyframes = comfy.hooks.HookKeyframeGroup()
    for start, strength in strengths.items():
        keyframes.add(comfy.hooks.HookKeyframe(strength, start))
    hooks = comfy.hooks.create_hook_lora(lora, 1.0, 0.0)
    hooks.set_keyframes_on_hooks(keyframes)
    node = PairConditioningSetProperties()
    source, target = node.set_properties(conds[0], conds[1], 1.0, "default", hooks=hooks)
    negative, _ = node.set_properties(conds[2], conds[2], 1.0, "default", hooks=hooks)
    return source, target, negative


def test_a_weight_hook_on_all_conditionings_is_the_lora_on_the_model(model, clip):
    lora, _ = lora_of(model, clip)
    conds = conds_of(clip)
    changed, _ = comfy.sd.load_lora_for_models(model, clip, lora, 1.0, 0.0)
    made = edit_with(patched(model), hooked(conds, lora, {0.0: 1.0}))
    assert relative_error(made, edit_with(patched(changed), conds)) < 1e-4
    assert relative_error(made, edit_with(patched(model), conds)) > 0.05


@pytest.mark.parametrize("is_negative_hooked", [True, False])
def test_scheduled_weight_hooks_act_on_each_branch_as_on_a_stock_run(
    model, clip, is_negative_hooked
):
    """Without hooks on the negative, ComfyUI calls the model for it apart."""
    lora, _ = lora_of(model, clip)
    conds = conds_of(clip)
    changed = hooked(conds, lora, {0.0: 1.0, 0.3: 0.0})
    changed = changed if is_negative_hooked else (*changed[:2], conds[2])
    rgb_cam = apply_rgb_cam(model, two_regions())
    made = edit_with(rgb_cam, changed)
    expected = edit_by_two_runs(model, clip, (1.0, 2.0), conds=changed, target_model=rgb_cam)
    assert relative_error(made, expected) < 1e-4
    assert relative_error(made, edit_with(rgb_cam, hooked(conds, lora, {0.0: 1.0}))) > 0.01
    assert relative_error(made, edit_with(rgb_cam, conds)) > 0.01


# -- control ---------------------------------------------------------------------------------------


def collect(functions: dict[str, Callable[[Any], Any]], names: list[str]) -> Callable[[Any], Any]:
    def apply(model: Any) -> Any:
        for name in names:
            model = functions[name](model)
        return model

    return apply


def test_many_nodes_at_once_in_two_orders(model, clip):
    """LoRA, ControlNet, an image prompt, FreeU, PAG and RescaleCFG around ours."""
    lora, _ = lora_of(model, clip)
    conds = controlled(tiny_controlnet(), conds_of(clip))
    nodes: dict[str, Callable[[Any], Any]] = {
        "ours": patched,
        "lora": lambda m: comfy.sd.load_lora_for_models(m, clip, lora, 0.5, 0.0)[0],
        "image": image_prompt(),
        **{name: CORE[name] for name in ("FreeU_V2", "PAG", "RescaleCFG")},
    }
    results = [
        edit_with(collect(nodes, order)(model), conds) for order in (list(nodes), list(nodes)[::-1])
    ]
    assert torch.isfinite(results[0]).all()
    assert relative_error(results[1], results[0]) < 1e-4


def test_a_sampler_that_calls_the_model_past_its_guider_gets_rgb_cam_too(model, clip):
    """As some packs' samplers do: ComfyUI's sampling_function with the run's own options."""
    target, negative = conds_of(clip)[1:]
    latent, seen = randn(1, 4, 8, 8), []

    def sampler(denoiser: Any, x: Tensor, sigmas: Tensor, extra_args: Any, **_: Any) -> Tensor:
        guider, sigma = denoiser.inner_model, sigmas[:1]
        options = extra_args["model_options"]
        conds = guider.conds
        seen.append(guider(x, sigma, options, 0))
        seen.append(
            comfy.samplers.sampling_function(
                *(guider.inner_model, x, sigma, conds["negative"], conds["positive"], guider.cfg),
                model_options=options,
            )
        )
        return x

    for changed in (apply_rgb_cam(model, two_regions()), model):
        comfy.samplers.sample(
            changed, latent, target, negative, 3.0, changed.load_device,
            comfy.samplers.KSAMPLER(sampler), torch.tensor([3.0, 0.0]), changed.model_options,
            latent_image=torch.zeros_like(latent), disable_pbar=True, seed=0,
        )  # fmt: skip
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[2], seen[3])
    assert relative_error(seen[1], seen[3]) > 0.01
