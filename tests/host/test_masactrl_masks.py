"""MasaCtrl with masks in runs: branches in turn, a source branch that is kept, batches, rows."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.editors import masactrl
from ale_edit.host.sampling import branch_guider
from ale_edit.host.sampling.branch_guider import BranchGuider
from ale_edit.host.sampling.source_branch import KEPT
from ale_edit.regions.regions import ImageRegions, Regions, RegionsBatch
from ale_edit.tests.host.runs import STEPS, edit, relative_error
from ale_edit.tests.host.test_every_editor import guide_by, rows_of
from ale_edit.tests.tiny import source_latent, two_boxes

pytestmark = pytest.mark.comfy

PLAIN = masactrl.MasaCtrlSettings(steps=STEPS, start_step_share=0.25, source_prompt="edits")
WORDS = replace(PLAIN, source_words="wolf", target_words="fox", mask_threshold=0.3)


def regions(seed: int = 0) -> ImageRegions:
    first, second = two_boxes()
    masks = torch.stack([first.roll(seed * 8, 1), second.roll(seed * 16, 0)])
    return ImageRegions(masks, masks, masactrl.MASKS)


VARIANTS: dict[str, tuple[Any, Regions | None]] = {
    "drawn": (PLAIN, regions()),
    "words": (WORDS, None),
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def guide(model: Any, clip: Any, variant: str, **options: Any) -> BranchGuider:
    settings, masks = VARIANTS[variant]
    options = {"reuses_source": False, **options}
    return guide_by(masactrl.EDITOR, model, clip, settings, regions=masks, **options)


@every_variant
@pytest.mark.parametrize("guidance", [(1.0, 2.0), (1.0, 1.0), (1.5, 3.0)])
def test_branches_that_run_in_turn_give_the_edit_of_those_that_run_together(
    model, clip, variant, guidance
):
    together, in_turn = (
        edit(guide(model, clip, variant, guidance=guidance, evaluation=e), source_latent(2))
        for e in ("together", "in turn")
    )
    assert relative_error(in_turn, together) < 1e-4
    bare = guide_by(masactrl.EDITOR, model, clip, PLAIN, guidance=guidance, reuses_source=False)
    assert relative_error(edit(bare, source_latent(2)), together) > 0.01


@every_variant
def test_the_source_branch_of_a_plain_edit_gives_the_same_edit(model, clip, variant):
    expected = edit(guide(model, clip, variant))
    edit(guide_by(masactrl.EDITOR, model, clip, PLAIN))
    assert hasattr(model.model, KEPT)
    assert relative_error(edit(guide(model, clip, variant, reuses_source=True)), expected) < 1e-4


@every_variant
def test_a_second_edit_takes_the_source_branch_of_the_first(
    model, clip, variant, monkeypatch: pytest.MonkeyPatch
):
    first = edit(guide(model, clip, variant, reuses_source=True))
    rows = rows_of(monkeypatch, model)
    second = edit(guide(model, clip, variant, reuses_source=True))
    assert relative_error(second, first) < 1e-4
    assert sum(rows) < 4 * STEPS


@every_variant
def test_item_j_of_a_batch_is_the_single_edit_at_seed_plus_j(model, clip, variant):
    latent = source_latent(2)
    made = edit(guide(model, clip, variant), latent, seed=5)
    alone = edit(guide(model, clip, variant), latent[1:], seed=6)
    assert relative_error(made[1:], alone) < 1e-4


def test_each_image_of_a_batch_may_have_masks_of_its_own(model, clip):
    def run(masks: Regions, latent: Tensor, seed: int) -> Tensor:
        guider = guide_by(masactrl.EDITOR, model, clip, PLAIN, regions=masks, reuses_source=False)
        return edit(guider, latent, seed=seed)

    latent, own = source_latent(2), (regions(), regions(1))
    made = run(RegionsBatch(own), latent, 5)
    for j in range(2):
        assert relative_error(made[j], run(own[j], latent[j : j + 1], 5 + j)[0]) < 1e-4
    assert relative_error(run(own[0], latent, 5)[1], made[1]) > 0.01


@every_variant
def test_rows_are_those_of_the_editor_without_masks(model, clip, monkeypatch, variant):
    """methods.md F: 60 in 15 steps of two guided branches."""
    monkeypatch.setattr(branch_guider, "LEAST_SPLIT_POSITIONS", math.inf)
    rows = rows_of(monkeypatch, model)
    edit(guide(model, clip, variant), steps=15)
    print(f"{variant}: {sum(rows)} rows in 15 steps")
    assert sum(rows) == 60


def test_maps_of_the_conditional_half_are_there_before_the_other_half_runs(
    model, clip, monkeypatch
):
    halves: list[list[int]] = []
    apply_model = model.model.apply_model

    def note(x: Tensor, t: Tensor, *args: Any, transformer_options: Any, **others: Any) -> Tensor:
        halves.append(list(transformer_options["cond_or_uncond"]))
        return apply_model(x, t, *args, transformer_options=transformer_options, **others)

    monkeypatch.setattr(model.model, "apply_model", note)
    edit(guide(model, clip, "words", guidance=(1.5, 3.0)))
    assert halves == STEPS * [[0], [1]]
