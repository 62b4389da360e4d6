"""Prompt-to-Prompt in ComfyUI: where it does nothing, long prompts, sizes, and its parts in
memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.attention import word_maps
from ale_edit.attention.control import Control
from ale_edit.editors import p2p
from ale_edit.host.editing import open_edit
from ale_edit.host.text.end_tokens import substitute_ends
from ale_edit.prompts.edits import Edits
from ale_edit.tests.host.runs import plain, relative_error
from ale_edit.tests.tiny import edits_of, source_latent

pytestmark = pytest.mark.comfy

WORDS = ("wolf and moon", "goat and moon")
FULL = p2p.P2PSettings(
    steps=4, edit_mode="refine", reweight="goat: 2", blend_words="goat", subtract_words="moon"
)
OFF = p2p.P2PSettings(steps=4, cross_share=0.0, self_share=0.0)


def edit(
    model: Any, clip: Any, settings: p2p.P2PSettings, latent: Tensor | None = None, **given: Any
) -> Tensor:
    source, target = given.pop("prompts", WORDS)
    edits: Edits = edits_of(source_prompt=source, target_prompt=target)
    editor = given.pop("editor", p2p.EDITOR)
    opened = open_edit(editor, settings, model, clip, edits, reuses_source=False)
    return opened.sample(source_latent() if latent is None else latent, 5, lambda *_: None)


@pytest.mark.parametrize("mode", p2p.EDIT_MODES)
@pytest.mark.parametrize("method", ["DDIM", "direct", "virtual"])
def test_without_shares_and_blend_it_is_the_plain_edit_bit_for_bit(model, clip, mode, method):
    settings = replace(OFF, edit_mode=mode, inversion_method=method)
    bare = replace(p2p.EDITOR, make_control=lambda *_: Control())
    made = edit(model, clip, settings)
    assert torch.equal(made, edit(model, clip, settings, editor=bare))
    assert not torch.equal(made, edit(model, clip, replace(settings, self_share=1.0)))


def test_prompts_without_a_common_word_get_one_notice(model, clip, caplog):
    """Only the start and end tokens take the source's maps, as in the published code."""
    settings = p2p.P2PSettings(steps=4, edit_mode="refine")
    made = edit(model, clip, settings, prompts=("wolf", "moon"))
    found = [r.getMessage() for r in caplog.records if "keeps its place" in r.getMessage()]
    assert len(found) == 1 and found[0].startswith("Prompt-to-Prompt: no word of the target prompt")
    assert '("moon")' in found[0] and '("wolf")' in found[0]
    without = edit(model, clip, replace(settings, cross_share=0.0), prompts=("wolf", "moon"))
    assert bool(made.isfinite().all()) and not torch.equal(made, without)
    edit(model, clip, settings)
    assert sum("keeps its place" in r.getMessage() for r in caplog.records) == 1


def test_a_factor_of_one_and_a_blend_of_everything_change_nothing(model, clip):
    settings = p2p.P2PSettings(steps=4)
    expected = edit(model, clip, settings)
    assert torch.equal(edit(model, clip, replace(settings, reweight="goat: 1")), expected)
    everywhere = replace(settings, blend_words="goat", blend_threshold=0.0)
    assert relative_error(edit(model, clip, everywhere), expected) < 1e-5


@pytest.mark.ci
@pytest.mark.parametrize(("height", "width"), [(48, 80), (72, 72), (48, 48), (9, 14)])
def test_latents_of_any_size_are_edited(model, clip, height, width):
    """640x384, 576x576 and 384x384 pixels, and one that cannot be halved evenly."""
    made = edit(model, clip, replace(FULL, steps=2), source_latent(1, height, width))
    assert made.shape == (1, 4, height, width) and bool(made.isfinite().all())


def test_maps_in_parts_give_the_same_edit(model, clip, monkeypatch):
    whole = edit(model, clip, FULL, source_latent(2))
    monkeypatch.setattr(word_maps, "MAP_VALUES", 4000)
    assert relative_error(edit(model, clip, FULL, source_latent(2)), whole) < 1e-4


LONG = " and ".join(["a quite old grey wolf under a yellow moon"] * 9)


@pytest.mark.parametrize("mode", p2p.EDIT_MODES)
@pytest.mark.parametrize(
    "prompts",
    [(LONG, LONG.replace("wolf", "chinchilla")), (LONG.replace("wolf", "chinchilla"), LONG)],
    ids=["longer", "shorter"],
)
def test_prompts_of_several_chunks_are_aligned(model, clip, mode, prompts):
    settings = replace(FULL, edit_mode=mode, reweight="moon: 2", blend_words="wolf moon")
    settings = replace(settings, subtract_words="")
    made = edit(model, clip, settings, prompts=prompts)
    assert bool(made.isfinite().all())
    assert relative_error(made, edit(model, clip, OFF, prompts=prompts)) > 0.01


def test_a_long_and_a_short_prompt_are_aligned_too(model, clip):
    for prompts in ((LONG, "a wolf under a moon"), ("a wolf under a moon", LONG)):
        made = edit(model, clip, p2p.P2PSettings(steps=4), prompts=prompts)
        assert bool(made.isfinite().all())


# -- end-token substitution ----------------------------------------------------------------------


def test_end_tokens_of_a_conditioning_are_those_of_the_other_prompt(clip):
    own, other = plain(clip, "brown goat and yellow ball"), plain(clip, "goat and ball")
    ((made, options),) = substitute_ends(clip, "brown goat and yellow ball", "goat and ball")
    assert torch.equal(made[:, :6], own[0][0][:, :6])
    assert torch.equal(made[:, 6:], other[0][0][:, 6:])
    assert torch.equal(options["pooled_output"], own[0][1]["pooled_output"])


def test_what_stands_beside_a_text_is_kept(clip):
    given = plain(clip, "brown goat")
    given[0][1]["area"] = (8, 8, 0, 0)
    ((_, options),) = substitute_ends(clip, "brown goat", "goat", given)
    assert options["area"] == (8, 8, 0, 0)


def test_the_edit_takes_the_substituted_text(model, clip):
    settings = p2p.P2PSettings(steps=4)
    text = WORDS[1]
    assert torch.equal(
        edit(model, clip, replace(settings, ets_prompt=text)), edit(model, clip, settings)
    )
    other = edit(model, clip, replace(settings, ets_prompt="goat moon"))
    assert relative_error(other, edit(model, clip, settings)) > 1e-3
