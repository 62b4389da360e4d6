"""MasaCtrl in ComfyUI where it does nothing: the plain edit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.attention.control import Control
from ale_edit.editors import masactrl
from ale_edit.host.editing import open_edit
from ale_edit.tests.tiny import edits_of, source_latent

pytestmark = pytest.mark.comfy

PLAIN = masactrl.MasaCtrlSettings(steps=4, start_step_share=0.25, start_layer_share=0.0)


def edit(model: Any, clip: Any, settings: Any, editor: Any = masactrl.EDITOR) -> Tensor:
    edits = edits_of(source_prompt="wolf and moon", target_prompt="goat and moon")
    opened = open_edit(editor, settings, model, clip, edits, reuses_source=False)
    return opened.sample(source_latent(2), 5, lambda *_: None)


@pytest.mark.parametrize("method", ["virtual", "DDIM", "direct", "edit-friendly"])
@pytest.mark.parametrize("off", ["start_step_share", "start_layer_share"])
def test_shares_of_1_are_the_plain_edit_bit_for_bit(model, clip, method, off):
    """No step, or no layer, is left to act in."""
    settings = replace(PLAIN, inversion_method=method)
    bare = replace(masactrl.EDITOR, make_control=lambda *_: Control())
    made = edit(model, clip, replace(settings, **{off: 1.0}))
    assert torch.equal(made, edit(model, clip, settings, bare))
    assert not torch.equal(made, edit(model, clip, settings))


def test_shares_of_1_are_the_plain_edit_with_the_union_of_keys_too(model, clip):
    bare = replace(masactrl.EDITOR, make_control=lambda *_: Control())
    made = edit(model, clip, replace(PLAIN, keys="union", start_step_share=1.0))
    assert torch.equal(made, edit(model, clip, PLAIN, bare))
