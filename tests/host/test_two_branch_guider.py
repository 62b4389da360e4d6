"""The two-branch guider against stock one-branch runs, its rows, and other packs' patches."""

from __future__ import annotations

import importlib
import math
from typing import Any

import comfy.patcher_extension
import comfy.samplers
import pytest
import torch
from torch import Tensor

from ale_edit.host import two_branch_guider
from ale_edit.host.blending import apply_background_blending
from ale_edit.host.rgb_cam import apply_rgb_cam
from ale_edit.host.schedule import lcm_sigmas
from ale_edit.host.self_injection import apply_self_injection
from ale_edit.host.two_branch_guider import TwoBranchGuider
from ale_edit.inversion.ddcm import ItemNoise
from ale_edit.tests.host.runs import (
    STEPS,
    edit,
    guide,
    patched,
    plain,
    relative_error,
    side,
    with_option,
)
from ale_edit.tests.tiny import edits_of, generator, source_latent, tiny_controlnet, two_regions

WRAPPERS = comfy.patcher_extension.WrappersMP


# -- a two-branch run is two one-branch runs -------------------------------------------------------


def one_branch(model: Any, positive: Any, negative: Any, cfg: float, function: Any) -> Tensor:
    """A stock CFGGuider whose sampler is `function(denoise, x0, sigmas)`."""

    def sampler(denoiser: Any, x: Tensor, sigmas: Tensor, extra_args: Any, **_: Any) -> Tensor:
        def denoise(x: Tensor, sigma: float) -> Tensor:
            args = {**extra_args, "denoise_mask": None}
            return denoiser(x, x.new_full((x.shape[0],), float(sigma)), **args)

        return function(denoise, denoiser.latent_image, sigmas)

    latent = source_latent()
    return comfy.samplers.sample(
        model,
        torch.zeros_like(latent),
        positive,
        negative,
        cfg,
        model.load_device,
        comfy.samplers.KSAMPLER(sampler),
        lcm_sigmas(model, STEPS, 1.0),
        model.model_options,
        latent_image=latent,
        disable_pbar=True,
        seed=5,
    )


def edit_by_two_runs(
    model: Any,
    clip: Any,
    guidance: tuple[float, float],
    negative: str = "",
    conds: Any = None,
    target_model: Any = None,
) -> Tensor:
    """DDCM with eta 1 as two separate stock runs; correct while nothing couples the branches.

    conds: source, target and negative conditioning, when not those of the usual edits.
    target_model: the target run's model, when it is another than the source run's.
    """
    edits, source_denoised = edits_of(), []
    source, target, text = conds or (
        side(clip, edits, "source"),
        side(clip, edits, "target"),
        plain(clip, negative),
    )

    def noises(x0: Tensor, sigmas: Tensor) -> list[Tensor]:
        noise = ItemNoise(5, x0.shape)
        return [noise.draw(x0) for _ in sigmas[:-1]]

    def run_source(denoise: Any, x0: Tensor, sigmas: Tensor) -> Tensor:
        for i, n in enumerate(noises(x0, sigmas)):
            x = n * (1 + sigmas[0] ** 2).sqrt() if i == 0 else x0 + sigmas[i] * n
            source_denoised.append(denoise(x, sigmas[i]))
        return x0

    def run_target(denoise: Any, x0: Tensor, sigmas: Tensor) -> Tensor:
        p = x0
        for i, n in enumerate(noises(x0, sigmas)):
            x = n * (1 + sigmas[0] ** 2).sqrt() if i == 0 else p + sigmas[i] * n
            p = x0 + denoise(x, sigmas[i]) - source_denoised[i]
        return p

    one_branch(model, source, text, guidance[0], run_source)
    return one_branch(target_model or model, target, text, guidance[1], run_target)


@pytest.mark.parametrize("guidance", [(1.0, 2.0), (1.0, 1.0), (2.0, 1.0), (1.5, 3.0)])
def test_an_edit_without_patches_is_two_stock_runs(model, clip, guidance):
    made = edit(guide(model, clip, guidance=guidance, negative="blurry"))
    expected = edit_by_two_runs(model, clip, guidance, "blurry")
    print(f"two stock runs, guidance {guidance}: {relative_error(made, expected):.1e} of the std")
    assert relative_error(made, expected) < 1e-4


def core_node(module: str, name: str, *values: Any) -> Any:
    """A function MODEL -> MODEL of one of ComfyUI's own nodes, of either schema."""

    def apply(model: Any) -> Any:
        node = getattr(importlib.import_module(f"comfy_extras.{module}"), name)
        if hasattr(node, "execute"):
            return node.execute(model, *values).result[0]
        return node().patch(model, *values)[0]

    return apply


FREE_U = core_node("nodes_freelunch", "FreeU_V2", 1.3, 1.4, 0.9, 0.2)
TOME = core_node("nodes_tomesd", "TomePatchModel", 0.3)
PAG = core_node("nodes_pag", "PerturbedAttentionGuidance", 2.0)
SAG = core_node("nodes_sag", "SelfAttentionGuidance", 0.5, 2.0)
RESCALE_CFG = core_node("nodes_model_advanced", "RescaleCFG", 0.7)
APG = core_node("nodes_apg", "APG", 1.5, 5.0, 0.0)
NAMES = ["FreeU_V2", "PAG", "SAG", "RescaleCFG", "APG"]


@pytest.mark.parametrize("node", [FREE_U, PAG, SAG, RESCALE_CFG, APG], ids=NAMES)
def test_core_nodes_act_on_each_branch_as_on_a_stock_run(model, clip, node):
    guidance = (1.5, 2.0)
    made = edit(guide(node(model), clip, guidance=guidance))
    expected = edit_by_two_runs(node(model), clip, guidance)
    print(f"beside a core node: {relative_error(made, expected):.1e} of the std")
    assert relative_error(made, expected) < 1e-3
    assert relative_error(made, edit(guide(model, clip, guidance=guidance))) > 1e-2


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("node", [FREE_U, PAG, SAG, RESCALE_CFG, APG, TOME], ids=[*NAMES, "ToMe"])
def test_core_nodes_run_beside_all_of_ours_in_either_order(model, clip, node, batch):
    results = []
    for changed in (patched(node(model)), node(patched(model))):
        with torch.random.fork_rng():
            torch.manual_seed(0)  # ToMe draws from the global generator
            results.append(edit(guide(changed, clip), source_latent(batch)))
    assert torch.isfinite(results[0]).all()
    assert relative_error(results[1], results[0]) < 1e-3


def controlled(controlnet: Any, *conds: Any) -> list[Any]:
    """As ControlNetApplyAdvanced on several conditionings: one control for all of them."""
    hint = torch.rand(1, 3, 64, 64, generator=generator(6))
    control = controlnet.copy().set_cond_hint(hint, 1.0, (0.0, 1.0))
    extra = {"control": control, "control_apply_to_uncond": False}
    return [[[text, {**options, **extra}] for text, options in cond] for cond in conds]


def test_a_controlnet_acts_on_each_branch_as_on_a_stock_run(model, clip):
    edits, net = edits_of(), tiny_controlnet()
    conds = (side(clip, edits, "source"), side(clip, edits, "target"), plain(clip, ""))
    conds = controlled(net, *conds)

    def run(m: Any) -> Tensor:
        guider = TwoBranchGuider(m)
        guider.set_branches(*conds)
        guider.set_guidance(1.0, 2.0)
        return edit(guider)

    made = run(model)
    expected = edit_by_two_runs(model, clip, (1.0, 2.0), conds=conds)
    print(f"ControlNet: {relative_error(made, expected):.1e} of the std")
    assert relative_error(made, expected) < 1e-4
    assert relative_error(made, edit(guide(model, clip))) > 0.01
    assert torch.isfinite(run(patched(model))).all()


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
    monkeypatch.setattr(TwoBranchGuider, "_is_one_call", lambda *args: True)


@pytest.fixture
def split_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row policy of large latents on the CPU, on the tests' tiny ones."""
    monkeypatch.setattr(two_branch_guider, "LEAST_SPLIT_POSITIONS", 0)


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
@pytest.mark.parametrize("node", [None, APG, RESCALE_CFG], ids=["plain", "APG", "RescaleCFG"])
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
    assert relative_error(made, edit(guide(APG(model), clip, guidance=guidance))) > 1e-3


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
