"""Editing the same image again: the kept source branch gives the same edit with the target's rows
alone, and is used only where that is exact."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import comfy.patcher_extension
import pytest
import torch
from torch import Tensor

from ale_edit.host.sampling import source_branch
from ale_edit.host.sampling.branch_guider import BranchGuider
from ale_edit.prompts.edits import Edits
from ale_edit.tests.host import runs
from ale_edit.tests.host.runs import (
    edit,
    patched,
    plain,
    relative_error,
    side,
    two_branch_guider,
    with_option,
)
from ale_edit.tests.host.stock_runs import core_node
from ale_edit.tests.tiny import edits_of, source_latent, tiny_model, two_regions

WRAPPERS = comfy.patcher_extension.WrappersMP
TARGETS = (("wolf", "red fox"), ("yellow moon", "blue balloon"))


guide = partial(runs.guide, reuses_source=True)


def kept_branch(model: Any) -> source_branch.SourceBranch | None:
    return getattr(model.model, source_branch.KEPT, None)


class Counted:
    """A MODEL whose UNet rows are counted in `rows`, without being a patch of the patcher."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, model: Any) -> None:
        self.rows: list[int] = []
        apply_model = model.model.apply_model

        def count(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            self.rows.append(x.shape[0])
            return apply_model(x, *args, **kwargs)

        monkeypatch.setattr(model.model, "apply_model", count)

    def of(self, run: Callable[[], Tensor]) -> tuple[Tensor, int]:
        self.rows.clear()
        return run(), sum(self.rows)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, model: Any) -> Counted:
    return Counted(monkeypatch, model)


def alone(guider: BranchGuider, *args: Any, **kwargs: Any) -> Tensor:
    """The edit as it is when nothing was kept, and nothing is kept after it."""
    guider.reuses_source = False
    return edit(guider, *args, **kwargs)


# -- the same edit ---------------------------------------------------------------------------------


@pytest.mark.ci
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("variant", ["paper", "published code"])
@pytest.mark.parametrize("schedule", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("guidance", [(1.0, 2.0), (1.5, 3.0), (1.0, 1.0), (2.0, 1.0)])
def test_a_second_edit_is_the_edit_alone_with_the_targets_rows(
    model, clip, counted, guidance, schedule, variant, batch
):
    latent, changed = source_latent(batch), patched(model, schedule=schedule)
    first = edits_of(variant=variant)
    second = edits_of(TARGETS, variant=variant)

    def run(edits: Edits) -> Tensor:
        return edit(guide(changed, clip, edits, guidance, negative="blurry"), latent)

    counted.of(lambda: run(first))
    made, rows = counted.of(lambda: run(second))
    expected = alone(guide(changed, clip, second, guidance, negative="blurry"), latent)
    print(f"re-edit, {guidance} {schedule} {variant}: {relative_error(made, expected):.1e}")
    assert relative_error(made, expected) < 1e-4
    assert rows == batch * 4 * (1 if guidance[1] == 1 else 2)
    assert relative_error(made, run(first)) > 0.01


def test_regions_strength_and_target_guidance_may_change_between_edits(model, clip, counted):
    counted.of(lambda: edit(guide(patched(model), clip)))
    changed = patched(model, two_regions(dilation=0.1))

    def guider() -> BranchGuider:
        return guide(changed, clip, edits_of(TARGETS), guidance=(1.0, 4.0))

    made, rows = counted.of(lambda: edit(guider()))
    assert rows == 2 * 4
    assert relative_error(made, alone(guider())) < 1e-4


def test_steps_that_were_not_injected_before_run_whole_and_are_kept_too(model, clip, counted):
    counted.of(lambda: edit(guide(patched(model, schedule=0.5), clip)))  # steps 0 and 1 of 4
    longer = patched(model, schedule=1.0)
    made, rows = counted.of(lambda: edit(guide(longer, clip)))
    assert rows == 2 * 2 + 2 * 4
    again, rows = counted.of(lambda: edit(guide(longer, clip)))
    assert rows == 4 * 2
    assert relative_error(again, made) < 1e-4
    assert relative_error(made, alone(guide(longer, clip))) < 1e-4


def test_unconditional_rows_that_were_not_kept_are_computed(model, clip, counted):
    changed = patched(model, schedule=1.0)
    counted.of(lambda: edit(guide(changed, clip, guidance=(1.0, 1.0))))
    made, rows = counted.of(lambda: edit(guide(changed, clip, guidance=(1.0, 2.0))))
    assert rows == 4 * 4
    assert relative_error(made, alone(guide(changed, clip, guidance=(1.0, 2.0)))) < 1e-4


def test_a_kept_step_serves_calls_that_are_split(model, clip, monkeypatch):
    """With little memory ComfyUI runs conditional and unconditional rows one after the other."""
    changed, second = patched(model, schedule=1.0), edits_of(TARGETS)
    edit(guide(changed, clip))
    monkeypatch.setattr(type(model.model), "memory_required", lambda *_, **__: 1e30)
    made = edit(guide(changed, clip, second))
    monkeypatch.undo()
    assert relative_error(made, alone(guide(changed, clip, second))) < 1e-4


def test_the_first_edit_is_the_same_bit_for_bit_with_and_without_keeping(model, clip):
    changed = patched(model)
    assert torch.equal(edit(guide(changed, clip)), alone(guide(changed, clip)))


# -- only where it is exact ------------------------------------------------------------------------


def fallen_back(counted: Counted, run: Callable[[], Tensor]) -> bool:
    """Whether a run computed its source branch: both branches of every step."""
    return counted.of(run)[1] > 2 * 4


def changed_latent() -> Tensor:
    latent = source_latent()
    latent[0, 0, 0, 0] += 1e-3
    return latent


@pytest.mark.parametrize(
    "again",
    [
        {"seed": 6},
        {"strength": 0.75},
        {"latent": changed_latent()},
        {"eta": 0.5},
        {"noise_mask": torch.ones(1, 1, 8, 8)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_run_computes_its_own_source(model, clip, counted, again):
    changed, options = patched(model), dict(again)
    edit(guide(changed, clip))
    latent = options.pop("latent", None)
    made, rows = counted.of(lambda: edit(guide(changed, clip), latent, **options))
    assert rows > 2 * 4 * options.get("strength", 1.0)
    assert torch.equal(made, alone(guide(changed, clip), latent, **options))


@pytest.mark.parametrize(
    "change",
    [
        {"edits": edits_of((("dog", "red fox"), ("yellow moon", "soccer ball")))},
        {"guidance": (1.5, 2.0)},
        {"negative": "blurry"},
    ],
    ids=["source prompt", "source guidance", "negative"],
)
def test_another_source_prompt_guidance_or_negative_computes_its_own_source(
    model, clip, counted, change
):
    changed = patched(model)
    edit(guide(changed, clip))
    made, rows = counted.of(lambda: edit(guide(changed, clip, **change)))
    assert rows > 2 * 4
    assert torch.equal(made, alone(guide(changed, clip, **change)))


def test_another_model_or_other_weights_compute_their_own_source(model, clip, counted):
    edit(guide(patched(model), clip))
    name = "diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    weight = model.model.state_dict()[name]
    lora = with_option(model, lambda m: m.add_patches({name: ("diff", (torch.ones_like(weight),))}))
    assert fallen_back(counted, lambda: edit(guide(patched(lora), clip)))
    edit(guide(patched(model), clip))
    other = tiny_model(seed=1)
    made = edit(guide(patched(other), clip))
    assert torch.equal(made, alone(guide(patched(other), clip)))


def share_attention(model: Any) -> Any:
    """As StyleAligned: every row attends to the rows of the whole batch."""

    def attn1(n: Tensor, context: Tensor, value: Tensor, options: dict[str, Any]) -> Any:
        shared = context.flatten(0, 1).expand(n.shape[0], -1, -1)
        return n, shared, shared

    return with_option(model, lambda m: m.set_model_attn1_patch(attn1))


def with_unet_wrapper(model: Any) -> Any:
    def wrapper(apply_model: Any, given: dict[str, Any]) -> Tensor:
        return apply_model(given["input"], given["timestep"], **given["c"])

    return with_option(model, lambda m: m.set_model_unet_function_wrapper(wrapper))


def with_other_wrapper(model: Any) -> Any:
    def wrapper(executor: Any, *args: Any, **kwargs: Any) -> Tensor:
        return executor(*args, **kwargs)

    return with_option(
        model, lambda m: m.add_wrapper_with_key(WRAPPERS.APPLY_MODEL, "other", wrapper)
    )


@pytest.mark.parametrize(
    "patch",
    [
        share_attention,
        core_node("nodes_pag", "PerturbedAttentionGuidance", 2.0),
        core_node("nodes_apg", "APG", 1.5, 5.0, -0.5),
        core_node("nodes_freelunch", "FreeU_V2", 1.3, 1.4, 0.9, 0.2),
        with_unet_wrapper,
        with_other_wrapper,
    ],
    ids=["shared attention", "PAG", "APG", "FreeU_V2", "unet wrapper", "wrapper"],
)
def test_beside_another_packs_patch_nothing_is_reused(model, clip, counted, patch):
    changed = patched(patch(model))
    assert fallen_back(counted, lambda: edit(guide(changed, clip)))
    assert fallen_back(counted, lambda: edit(guide(changed, clip, edits_of(TARGETS))))


def test_a_model_sampling_node_is_part_of_the_inputs(model, clip, counted):
    lcm = core_node("nodes_model_advanced", "ModelSamplingDiscrete", "lcm", False)(model)
    edit(guide(patched(model), clip))
    assert fallen_back(counted, lambda: edit(guide(patched(lcm), clip)))
    second, rows = counted.of(lambda: edit(guide(patched(lcm), clip, edits_of(TARGETS))))
    assert rows == 2 * 4
    assert relative_error(second, alone(guide(patched(lcm), clip, edits_of(TARGETS)))) < 1e-4


@pytest.mark.parametrize("key", ["mask", "start_percent"])
def test_a_conditioning_that_is_limited_is_computed_whole(model, clip, counted, key):
    value = torch.ones(1, 8, 8) if key == "mask" else 0.0

    def run() -> Tensor:
        edits = edits_of()
        conds = (side(clip, edits, "source"), side(clip, edits, "target"), plain(clip, ""))
        for cond in conds[:2]:
            cond[0][1][key] = value
        guider = two_branch_guider(patched(model), *conds)
        return edit(guider)

    run()
    assert fallen_back(counted, run)


def test_combined_negatives_are_computed_whole(model, clip, counted):
    def run(is_reusing: bool) -> Tensor:
        edits, negative = edits_of(), [*plain(clip, "blurry"), *plain(clip, "dark")]
        guider = two_branch_guider(
            patched(model, schedule=1.0),
            side(clip, edits, "source"),
            side(clip, edits, "target"),
            negative,
            guidance=(1.0, 3.0),
            reuses_source=is_reusing,
        )
        return edit(guider)

    run(True)
    assert torch.equal(run(True), run(False))


def test_ores_source_as_the_negative_is_the_same_with_and_without_reuse(model, clip, counted):
    def run(is_reusing: bool) -> Tensor:
        edits = edits_of()
        source, target = side(clip, edits, "source"), side(clip, edits, "target")
        guider = two_branch_guider(
            patched(model), source, target, source, guidance=(1.0, 3.0), reuses_source=is_reusing
        )
        return edit(guider)

    expected = run(False)
    run(True)
    made, rows = counted.of(lambda: run(True))
    assert rows == 2 * 4
    assert relative_error(made, expected) < 1e-4


def test_a_latent_that_was_changed_in_place_is_another_one(model, clip, counted):
    latent, changed = source_latent(), patched(model)
    edit(guide(changed, clip), latent)
    latent.mul_(-1)
    made = edit(guide(changed, clip), latent)
    assert torch.equal(made, alone(guide(changed, clip), latent))


def test_what_is_kept_is_freed_by_an_edit_without_reuse(model, clip):
    edit(guide(patched(model), clip))
    assert kept_branch(model)
    alone(guide(patched(model), clip))
    assert not kept_branch(model)


def test_reuse_can_be_switched_off(model, clip, counted):
    edit(guide(patched(model), clip))

    def run() -> Tensor:
        return alone(guide(patched(model), clip, edits_of(TARGETS)))

    assert fallen_back(counted, run)


# -- memory ----------------------------------------------------------------------------------------


def kept_bytes(model: Any) -> int:
    branch = kept_branch(model)
    assert branch is not None
    return sum(step.count_bytes() for step in branch.steps.values())


def test_one_source_branch_is_kept_and_freed_with_its_model(clip):
    model = tiny_model(seed=9)
    edit(guide(patched(model), clip))
    branch = weakref.ref(kept_branch(model))
    edit(guide(patched(model), clip), seed=6)
    gc.collect()
    assert branch() is None
    branch = weakref.ref(kept_branch(model))
    del model
    gc.collect()
    assert branch() is None


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_memory_stays_within_the_limit_and_the_edit_stays_right(
    model, clip, counted, monkeypatch, share
):
    changed = patched(model, schedule=1.0)
    edit(guide(changed, clip))
    limit = int(share * kept_bytes(model))
    source_branch.forget(model.model)
    monkeypatch.setattr(source_branch, "LIMIT_BYTES", limit)
    edit(guide(changed, clip))
    denoised = 4 * source_latent().nbytes
    print(f"limit {limit}: {kept_bytes(model)} bytes kept")
    assert kept_bytes(model) <= limit + denoised
    made, rows = counted.of(lambda: edit(guide(changed, clip, edits_of(TARGETS))))
    assert kept_bytes(model) <= limit + denoised
    whole_steps = {0.0: 4, 0.3: 3, 0.7: 2}[share]
    assert rows == whole_steps * 4 + (4 - whole_steps) * 2
    assert relative_error(made, alone(guide(changed, clip, edits_of(TARGETS)))) < 1e-4


def test_a_run_that_fails_keeps_nothing(model, clip):
    def fail(step: int, *_: Any) -> None:
        if step == 2:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        edit(guide(patched(model), clip), callback=fail)
    gc.collect()
    assert not kept_branch(model)
    edit(guide(patched(model), clip))
    with pytest.raises(RuntimeError, match="stop"):
        edit(guide(patched(model), clip, edits_of(TARGETS)), callback=fail)
    made = edit(guide(patched(model), clip, edits_of(TARGETS)))
    assert relative_error(made, alone(guide(patched(model), clip, edits_of(TARGETS)))) < 1e-4
