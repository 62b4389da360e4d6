"""The two-branch guider against stock one-branch runs, its rows, and guidance functions.

Other nodes' patches are in test_composition.py and its neighbours.
"""

from __future__ import annotations

import asyncio
import importlib
import math
from pathlib import Path
from typing import Any

import comfy.patcher_extension
import comfy.samplers
import pytest
import torch
from torch import Tensor

from ale_edit.host.attention.rgb_cam import apply_rgb_cam
from ale_edit.host.attention.self_injection import apply_self_injection
from ale_edit.host.sampling.blending import apply_background_blending
from ale_edit.host.sampling.branch_guider import BranchGuider
from ale_edit.host.sampling.schedule import lcm_sigmas
from ale_edit.tests.host.runs import STEPS, edit, guide, patched, relative_error, with_option
from ale_edit.tests.host.stock_runs import core_node, edit_by_two_runs
from ale_edit.tests.tiny import edits_of, generator, source_latent, two_regions

WRAPPERS = comfy.patcher_extension.WrappersMP


# -- a two-branch run is two one-branch runs -------------------------------------------------------


@pytest.mark.parametrize("guidance", [(1.0, 2.0), (1.0, 1.0), (2.0, 1.0), (1.5, 3.0)])
def test_an_edit_without_patches_is_two_stock_runs(model, clip, guidance):
    made = edit(guide(model, clip, guidance=guidance, negative="blurry"))
    expected = edit_by_two_runs(model, clip, guidance, "blurry")
    print(f"two stock runs, guidance {guidance}: {relative_error(made, expected):.1e} of the std")
    assert relative_error(made, expected) < 1e-4


# -- rows ------------------------------------------------------------------------------------------


def rows_of(model: Any, run: Any) -> list[int]:
    """UNet rows of every call while run(model) samples."""
    rows: list[int] = []

    def count(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        rows.append(x.shape[0])
        return executor(x, *args, **kwargs)

    run(with_option(model, lambda m: m.add_wrapper_with_key(WRAPPERS.APPLY_MODEL, "count", count)))
    return rows


def rows_of_edit(
    model: Any, clip: Any, guidance: tuple[float, float], **settings: Any
) -> list[int]:
    """Rows of the 15 steps of the paper."""
    edits, latent = edits_of(**settings), source_latent()
    return rows_of(model, lambda m: edit(guide(m, clip, edits, guidance), latent, steps=15))


def couple(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row policy of a GPU: every row of a step in one call."""
    monkeypatch.setattr(BranchGuider, "_is_one_call", lambda *args: True)


def test_one_call_a_step_spends_the_published_60_rows(model, clip, monkeypatch):
    couple(monkeypatch)
    assert rows_of_edit(patched(model), clip, (1.0, 2.0)) == [4] * 15


@pytest.mark.parametrize(
    ("shape", "batch", "calls"),
    [((32, 32), 1, [2, 1]), ((16, 32), 1, [4]), ((16, 32), 2, [4, 2]), ((8, 8), 2, [8])],
)
def test_small_latents_keep_one_call_a_step(model, clip, shape, batch, calls):
    latent = torch.randn(batch, 4, *shape, generator=generator(3))
    rows = rows_of(model, lambda m: edit(guide(m, clip), latent, steps=1))
    assert rows == calls


@pytest.mark.usefixtures("split_always")
@pytest.mark.parametrize(
    ("schedule", "settings", "total"),
    [
        (0.5, {}, 8 * 4 + 7 * 3),
        (0.5, {"variant": "published code"}, 7 * 4 + 8 * 3),
        (0.6, {}, 9 * 4 + 6 * 3),
        (1.0, {}, 60),
        (0.0, {}, 45),
    ],
)
def test_without_injection_the_sources_unconditional_row_is_left_out(
    model, clip, schedule, settings, total
):
    rows = rows_of_edit(patched(model, schedule=schedule), clip, (1.0, 2.0), **settings)
    print(f"rows of 15 steps, schedule {schedule} {settings}: {sum(rows)} in {len(rows)} calls")
    assert sum(rows) == total


@pytest.mark.parametrize(
    ("guidance", "rows"), [((1.0, 1.0), 2), ((2.0, 2.0), 4), ((2.0, 1.0), 4), ((1.5, 2.0), 4)]
)
def test_at_guidance_1_and_1_there_are_no_unconditional_rows(model, clip, guidance, rows):
    assert rows_of_edit(patched(model), clip, guidance) == [rows] * 15


def test_patches_that_need_the_unconditional_rows_get_them(model, clip):
    changed = with_option(model, lambda m: m.set_model_sampler_cfg_function(plain_cfg, True))
    assert rows_of_edit(changed, clip, (1.0, 1.0)) == [4] * 15


def plain_cfg(args: dict[str, Any]) -> Tensor:
    return args["uncond"] + (args["cond"] - args["uncond"]) * args["cond_scale"]


@pytest.mark.usefixtures("split_always")
@pytest.mark.parametrize(
    "node",
    [
        None,
        core_node("nodes_apg", "APG", 1.5, 5.0, 0.0),
        core_node("nodes_model_advanced", "RescaleCFG", 0.7),
    ],
    ids=["plain", "APG", "RescaleCFG"],
)
@pytest.mark.parametrize("variant", ["paper", "published code"])
def test_both_row_policies_give_the_same_edit(model, clip, monkeypatch, variant, node):
    edits = edits_of(variant=variant)
    changed = patched(node(model) if node else model)
    made = edit(guide(changed, clip, edits))
    couple(monkeypatch)
    expected = edit(guide(changed, clip, edits))
    print(f"row policies: {relative_error(made, expected):.1e} of the std")
    assert relative_error(made, expected) < 1e-4


@pytest.mark.usefixtures("split_always")
def test_every_call_says_truly_which_conditionings_it_holds(model, clip):
    """At guidance 1 and 2 without injection: both branches conditional, target unconditional."""
    calls: list[tuple[list[int], int]] = []

    def look(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        chunks = args[4]["cond_or_uncond"]
        assert len(args[4]["uuids"]) == len(chunks)
        calls.append((chunks, x.shape[0]))
        return executor(x, *args, **kwargs)

    seen = with_option(model, lambda m: m.add_wrapper_with_key(WRAPPERS.APPLY_MODEL, "look", look))
    edit(guide(seen, clip), steps=1)
    assert calls == [([0], 2), ([1], 1)]


# -- guidance functions ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("guidance", "scales"),
    [
        ((1.5, 2.0), [1.5, 2.0]),
        ((1.0, 2.0), [2.0]),
        ((2.0, 1.0), [2.0]),
        ((2.0, 2.0), [2.0]),
        ((1.0, 1.0), [1.0]),
    ],
)
def test_guidance_patches_see_each_branch_with_its_own_scale(model, clip, guidance, scales):
    """A branch without guidance goes along with the other one."""
    seen: list[tuple[str, float]] = []

    def cfg(args: dict[str, Any]) -> Tensor:
        seen.append(("cfg", args["cond_scale"]))
        return plain_cfg(args)

    def pre(args: dict[str, Any]) -> Any:
        seen.append(("pre", args["cond_scale"]))
        return args["conds_out"]

    def post(args: dict[str, Any]) -> Tensor:
        seen.append(("post", args["cond_scale"]))
        return args["denoised"]

    def add(m: Any) -> None:
        m.set_model_sampler_cfg_function(cfg)
        m.set_model_sampler_pre_cfg_function(pre)
        m.set_model_sampler_post_cfg_function(post)

    latent = source_latent(3)
    made = edit(guide(with_option(model, add), clip, guidance=guidance), latent, steps=1)
    assert sorted(seen) == sorted(
        (kind, scale) for scale in scales for kind in ("pre", "cfg", "post")
    )
    expected = edit(guide(model, clip, guidance=guidance), latent, steps=1)
    assert relative_error(made, expected) < 1e-4


def test_a_post_cfg_patch_changes_the_edit(model, clip):
    def half(m: Any) -> None:
        m.set_model_sampler_post_cfg_function(
            lambda args: args["denoised"] * (0.5 if math.isclose(args["cond_scale"], 2.0) else 1)
        )

    made = edit(guide(with_option(model, half), clip))
    assert relative_error(made, edit(guide(model, clip))) > 0.05


# -- self-attention injection ----------------------------------------------------------------------


def injected_by_hand(model: Any, steps: set[int], sigmas: Tensor) -> Any:
    """Target rows take the source rows' q and k after projection, by stock attn1 replacements.

    Every chunk of a call is [source, target]; methods.md A.5.
    """
    from comfy.ldm.modules.attention import optimized_attention

    def attn1(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
        step = int((sigmas - options["sigmas"][0]).abs().argmin())
        if step in steps:
            q, k = q.clone(), k.clone()
            rows = q.shape[0] // len(options["cond_or_uncond"])
            for start in range(0, q.shape[0], rows):
                half = rows // 2
                q[start + half : start + rows] = q[start : start + half]
                k[start + half : start + rows] = k[start : start + half]
        return optimized_attention(q, k, v, options["n_heads"])

    clone = model.clone()
    for name, numbers in (("input", range(9)), ("middle", [0]), ("output", range(12))):
        for number in numbers:
            clone.set_model_attn1_replace(attn1, name, number)
    return clone


@pytest.mark.parametrize(
    ("schedule", "variant", "steps"),
    [
        (1.0, "paper", {0, 1, 2, 3}),
        (0.5, "paper", {0, 1}),
        (0.0, "paper", set()),
        (1.0, "published code", {0, 1, 2}),
        (0.5, "published code", {0}),
    ],
)
@pytest.mark.parametrize("guidance", [(1.5, 2.0), (1.0, 2.0)])
def test_injection_copies_the_sources_queries_and_keys_in_its_steps(
    model, clip, schedule, variant, steps, guidance
):
    edits, latent = edits_of(variant=variant), source_latent(2)
    made = edit(guide(apply_self_injection(model, schedule), clip, edits, guidance), latent)
    sigmas = lcm_sigmas(model, STEPS, 1.0)
    oracle = injected_by_hand(model, steps, sigmas)
    # the hand-made patch knows no calls of target rows alone
    coupled = with_option(oracle, lambda m: m.model_options.update(disable_cfg1_optimization=True))
    expected = edit(guide(coupled, clip, edits, guidance), latent)
    assert relative_error(made, expected) < 1e-4
    plain_edit = edit(guide(model, clip, edits, guidance), latent)
    change = relative_error(made, plain_edit)
    assert change > 0.02 if steps else change == 0


@pytest.mark.parametrize(
    "apply",
    [
        lambda m: apply_rgb_cam(m, two_regions()),
        lambda m: apply_self_injection(m, 1.0),
        lambda m: apply_background_blending(m, two_regions()),
    ],
    ids=["RGB-CAM", "injection", "blending"],
)
def test_no_node_of_ours_changes_the_source_branch(model, clip, apply):
    branches: list[list[tuple[Tensor, ...]]] = []
    for m in (model, apply(model)):
        seen: list[tuple[Tensor, ...]] = []

        def keep(executor: Any, *args: Any, seen: list[tuple[Tensor, ...]] = seen) -> Tensor:
            out = executor(*args)
            seen.append(out.clone().chunk(2))
            return out

        def add(clone: Any, keep: Any = keep) -> None:
            # added to the model's own wrappers last, so innermost: before blending
            clone.add_wrapper_with_key(WRAPPERS.PREDICT_NOISE, "keep", keep)

        edit(guide(with_option(m, add), clip, guidance=(1.5, 2.0)))
        branches.append(seen)
    for before, after in zip(*branches, strict=True):
        assert relative_error(after[0], before[0]) < 1e-5
    assert relative_error(branches[1][-1][1], branches[0][-1][1]) > 0.01


@pytest.mark.parametrize("guidance", [(1.0, 2.0), (1.5, 2.0)])
def test_rgb_cam_in_a_two_branch_run_is_rgb_cam_in_a_stock_run_of_the_target(model, clip, guidance):
    rgb_cam = apply_rgb_cam(model, two_regions())
    made = edit(guide(rgb_cam, clip, guidance=guidance))
    expected = edit_by_two_runs(model, clip, guidance, target_model=rgb_cam)
    print(f"RGB-CAM, two stock runs: {relative_error(made, expected):.1e} of the std")
    assert relative_error(made, expected) < 1e-4


def test_mahiro_is_refused_when_loaded_as_comfyui_loads_it(model, clip):
    """By its path, which is then the module's name."""
    nodes = importlib.import_module("nodes")
    extras = Path(importlib.import_module("comfy_extras.nodes_mahiro").__file__ or "")
    assert asyncio.run(nodes.load_custom_node(str(extras), module_parent="comfy_extras"))
    node = nodes.NODE_CLASS_MAPPINGS["Mahiro"]
    mahiro = node.execute(model).result[0]
    with pytest.raises(ValueError, match=r"Remove Mahiro\."):
        edit(guide(mahiro, clip))
