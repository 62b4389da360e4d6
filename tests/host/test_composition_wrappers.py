"""Patches inside attention and functions around the model, beside ours or refused in a sentence.

The oracle where the branches do not depend on each other: two stock one-branch runs.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from torch import Tensor

from ale_edit.editors.ale import background_weights
from ale_edit.host.attention.rgb_cam import apply_rgb_cam
from ale_edit.host.attention.self_injection import apply_self_injection
from ale_edit.host.sampling import branch_guider
from ale_edit.tests.host.other_nodes import (
    EASY_CACHE,
    LAZY_CACHE,
    WRAPPERS,
    conds_of,
    in_tiles,
    row_by_row,
)
from ale_edit.tests.host.runs import edit, generate, guide, patched, relative_error, with_option
from ale_edit.tests.host.stock_runs import core_node, edit_by_two_runs
from ale_edit.tests.tiny import randn, source_latent, two_regions

# -- patches of the text inside cross-attention ----------------------------------------------------


def attention_couple(model: Any) -> Any:
    """Like attention couple: the conditional rows once for each of two texts, averaged after."""
    clone = model.clone()
    other = randn(1, 77, 32, seed=30)

    def couple(n: Tensor, context: Tensor, value: Tensor, options: dict[str, Any]) -> Any:
        chunks = options["cond_or_uncond"]
        rows = n.shape[0] // len(chunks)
        queries, texts = [], []
        for chunk, q, text in zip(chunks, n.split(rows), context.split(rows), strict=True):
            queries += [q] if chunk else [q, q]
            texts += [text] if chunk else [text, other.expand(rows, -1, -1)]
        text = torch.cat(texts)
        return torch.cat(queries), text, text

    def average(n: Tensor, options: dict[str, Any]) -> Tensor:
        chunks = options["cond_or_uncond"]
        rows = n.shape[0] // (len(chunks) + chunks.count(0))
        parts, out = list(n.split(rows)), []
        for chunk in chunks:
            out.append(parts.pop(0) if chunk else (parts.pop(0) + parts.pop(0)) / 2)
        return torch.cat(out)

    clone.set_model_attn2_patch(couple)
    clone.set_model_attn2_output_patch(average)
    return clone


def hypernetwork(model: Any) -> Any:
    """Like Hypernetwork Loader: keys and values of both kinds of attention through a layer."""
    weights = {width: randn(width, width, seed=width) for width in (32, 64)}

    def patch(n: Tensor, context: Tensor, value: Tensor, options: dict[str, Any]) -> Any:
        weight = 0.05 * weights[context.shape[-1]]
        return n, context + context @ weight, value + value @ weight

    clone = model.clone()
    clone.set_model_attn1_patch(patch)
    clone.set_model_attn2_patch(patch)
    return clone


def louder_queries(model: Any) -> Any:
    """An attn2_patch that leaves the text alone, but hands on a copy of it."""

    def patch(n: Tensor, context: Tensor, value: Tensor, options: dict[str, Any]) -> Any:
        return 1.3 * n, context.clone(), value

    return with_option(model, lambda m: m.set_model_attn2_patch(patch))


@pytest.mark.parametrize("change", [attention_couple, hypernetwork])
@pytest.mark.parametrize("is_late", [True, False])
def test_what_changes_the_text_inside_cross_attention_is_refused_by_rgb_cam(
    model, clip, change, is_late
):
    rgb_cam = change(apply_rgb_cam(model, two_regions()))
    if not is_late:
        rgb_cam = apply_rgb_cam(change(model), two_regions())
    source, target, negative = conds_of(clip)
    words = r"Region Cross-Attention: another node on the model changes the text.*Remove.*bypass"
    with pytest.raises(ValueError, match=words):
        generate(rgb_cam, target, negative)
    with pytest.raises(ValueError, match=words):
        edit(guide(rgb_cam, clip))


@pytest.mark.parametrize("change", [attention_couple, hypernetwork, louder_queries])
def test_without_rgb_cam_such_patches_act_on_each_branch_as_on_a_stock_run(model, clip, change):
    made = edit(guide(change(model), clip))
    assert relative_error(made, edit_by_two_runs(change(model), clip, (1.0, 2.0))) < 1e-3
    assert relative_error(made, edit(guide(model, clip))) > 0.01
    blended = edit(guide(apply_self_injection(change(model), 0.5), clip))
    assert torch.isfinite(blended).all()


def test_a_patch_of_the_queries_acts_beside_all_of_ours_in_either_order(model, clip):
    first = edit(guide(patched(louder_queries(model)), clip))
    assert relative_error(edit(guide(louder_queries(patched(model)), clip)), first) < 1e-5
    assert relative_error(first, edit(guide(patched(model), clip))) > 0.01


def test_token_merging_of_the_queries_of_cross_attention_is_refused(model, clip):
    def half(n: Tensor, context: Tensor, value: Tensor, options: dict[str, Any]) -> Any:
        return n[:, ::2], context, value

    def twice(n: Tensor, options: dict[str, Any]) -> Tensor:
        return n.repeat_interleave(2, dim=1)

    def merge(m: Any) -> None:
        m.set_model_attn2_patch(half)
        m.set_model_attn2_output_patch(twice)

    changed = with_option(patched(model), merge)
    with pytest.raises(ValueError, match="Region Cross-Attention: .*rows or positions"):
        edit(guide(changed, clip))


# -- functions around the model --------------------------------------------------------------------


def test_an_attention_that_the_user_selected_is_used_and_changes_nothing_else(model, clip):
    calls: list[int] = []

    def override(function: Any, *args: Any, **kwargs: Any) -> Tensor:
        calls.append(1)
        return function(*args, **kwargs)

    def select(m: Any) -> None:
        m.model_options["transformer_options"]["optimized_attention_override"] = override

    expected = edit(guide(patched(model), clip))
    for changed in (with_option(patched(model), select), patched(with_option(model, select))):
        calls.clear()
        assert torch.equal(edit(guide(changed, clip)), expected)
        assert len(calls) > 4 * 20


@pytest.mark.ci
@pytest.mark.slow
def test_a_compiled_model_gives_the_same_edit_in_either_order(model, clip):
    """TorchCompileModel's own function; the eager backend traces all of our patches."""
    torch._dynamo.reset()
    expected = edit(guide(patched(model), clip))
    late = patched(model)
    set_torch_compile_wrapper(model=late, backend="eager")
    early = model.clone()
    set_torch_compile_wrapper(model=early, backend="eager")
    for changed in (late, patched(early)):
        assert relative_error(edit(guide(changed, clip)), expected) < 1e-4
    torch._dynamo.reset()


class DeepCache:
    """Like DeepCache and TeaCache: every second call of the same chunks repeats the last output."""

    def __init__(self) -> None:
        self.calls: dict[tuple[int, ...], list[Tensor]] = {}

    def __call__(self, apply_model: Any, args: dict[str, Any]) -> Tensor:
        kept = self.calls.setdefault(tuple(args["cond_or_uncond"]), [])
        if len(kept) % 2:
            kept.append(kept[-1] + 0 * args["input"])
        else:
            kept.append(apply_model(args["input"], args["timestep"], **args["c"]))
        return kept[-1]


def cached(model: Any) -> Any:
    return with_option(model, lambda m: m.set_model_unet_function_wrapper(DeepCache()))


def test_a_wrapper_that_keeps_outputs_acts_on_each_branch_as_on_a_stock_run(model, clip):
    made = edit(guide(cached(model), clip, guidance=(1.5, 2.0)))
    expected = edit_by_two_runs(cached(model), clip, (1.5, 2.0), target_model=cached(model))
    assert relative_error(made, expected) < 1e-4
    assert relative_error(made, edit(guide(model, clip, guidance=(1.5, 2.0)))) > 0.01


@pytest.mark.usefixtures("split_always")
@pytest.mark.parametrize("change", [cached, EASY_CACHE], ids=["DeepCache-like", "EasyCache"])
def test_what_keeps_rows_from_call_to_call_gets_as_many_in_each(model, clip, change, monkeypatch):
    made = edit(guide(patched(change(model)), clip))
    monkeypatch.setattr(branch_guider, "LEAST_SPLIT_POSITIONS", 10**9)
    assert relative_error(edit(guide(change(patched(model)), clip)), made) < 1e-5
    assert relative_error(edit(guide(patched(model), clip)), made) > 0.01


@pytest.mark.parametrize("change", [EASY_CACHE, LAZY_CACHE], ids=["EasyCache", "LazyCache"])
@pytest.mark.parametrize("is_late", [True, False])
def test_steps_that_a_cache_leaves_out_keep_the_background_too(model, clip, change, is_late):
    changed = change(patched(model)) if is_late else patched(change(model))
    latent = source_latent(2)
    made = edit(guide(changed, clip), latent, steps=8)
    keeps = background_weights(two_regions(), 8, 8, "paper", is_soft=False, cell=8)
    torch.testing.assert_close(made[..., keeps], latent[..., keeps], rtol=3e-7, atol=0)
    assert relative_error(made, edit(guide(patched(model), clip), latent, steps=8)) > 0.01


def shaken(model: Any) -> Any:
    """Another node's wrapper that changes every prediction, other in each row."""

    def shake(executor: Any, x: Tensor, *args: Any) -> Tensor:
        return executor(x, *args) + 0.3 * randn(*x.shape, seed=50)

    return with_option(
        model, lambda m: m.add_wrapper_with_key(WRAPPERS.PREDICT_NOISE, "shake", shake)
    )


@pytest.mark.parametrize("is_late", [True, False])
def test_what_changes_predictions_cannot_change_the_background(model, clip, is_late):
    changed = shaken(patched(model)) if is_late else patched(shaken(model))
    latent = source_latent(2)
    made = edit(guide(changed, clip), latent)
    keeps = background_weights(two_regions(), 8, 8, "paper", is_soft=False, cell=8)
    torch.testing.assert_close(made[..., keeps], latent[..., keeps], rtol=3e-7, atol=0)
    assert relative_error(made, edit(guide(patched(model), clip), latent)) > 0.01


@pytest.mark.parametrize(
    ("change", "apply", "words"),
    [
        (in_tiles, lambda m: apply_rgb_cam(m, two_regions()), "Region Cross-Attention: .*8x4"),
        (row_by_row, lambda m: apply_rgb_cam(m, two_regions()), "Region Cross-Attention: .*8 rows"),
        (row_by_row, lambda m: apply_self_injection(m, 0.5), "Self-Attention Injection: .*8 rows"),
    ],
    ids=["tiles", "row by row", "row by row, injection"],
)
def test_what_cuts_latents_or_batches_is_refused_where_rows_or_regions_are_looked_up(
    model, clip, change, apply, words
):
    for changed in (change(apply(model)), apply(change(model))):
        with pytest.raises(ValueError, match=f"{words}.*Remove what.*bypass"):
            edit(guide(changed, clip), source_latent(2))


@pytest.mark.parametrize("change", [in_tiles, row_by_row])
def test_what_cuts_latents_or_batches_acts_on_each_branch_where_nothing_is_looked_up(
    model, clip, change
):
    made = edit(guide(change(model), clip))
    assert relative_error(made, edit_by_two_runs(change(model), clip, (1.0, 2.0))) < 1e-4


def test_context_windows_are_refused(model, clip):
    """ComfyUI's own node would cut the batch of source and edit into windows."""
    windows = core_node(
        "nodes_context_windows",
        *("ContextWindowsManualNode", 2, 0, "standard_static", 1, False, "flat", 0),
    )
    with pytest.raises(ValueError, match=r"Two-Branch Guider: .*Context Windows.*Remove"):
        edit(guide(windows(model), clip), source_latent(2))


def test_tiles_are_refused_in_a_stock_run_too(model, clip):
    source, target, negative = conds_of(clip)
    with pytest.raises(ValueError, match="Region Cross-Attention: .*8x8.*8x4"):
        generate(in_tiles(apply_rgb_cam(model, two_regions())), target, negative)
