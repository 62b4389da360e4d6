"""RGB-CAM gives the same image however ComfyUI batches its conditionings."""

from __future__ import annotations

import comfy.hooks
import comfy.model_base
import comfy.model_management
import comfy.patcher_extension
import comfy.samplers
import pytest

from ale_edit.host.attention.rgb_cam import apply_rgb_cam
from ale_edit.tests.host.published_form import (
    LONG,
    calls_of,
    no_free_memory,
    reversed_order,
    separately,
    target,
)
from ale_edit.tests.host.runs import edit, generate, guide, patched, plain, relative_error
from ale_edit.tests.tiny import edits_of, two_regions


def test_short_of_memory_gives_the_same_image(model, clip, monkeypatch):
    args = (target(clip), plain(clip, "blurry"))
    rgb_cam = apply_rgb_cam(model, two_regions())
    expected = generate(rgb_cam, *args)
    monkeypatch.setattr(comfy.model_management, "get_free_memory", no_free_memory)
    made = []
    calls = calls_of(rgb_cam, lambda m: made.append(generate(m, *args)))
    assert [len(call) for call in calls] == [1] * len(calls) and len(calls) == 4
    assert relative_error(made[0], expected) < 1e-4


@pytest.mark.parametrize("variant", ["paper", "published code"])
def test_short_of_memory_gives_the_same_edit(model, clip, monkeypatch, variant):
    edits = edits_of(variant=variant)
    expected = edit(guide(patched(model), clip, edits, (1.5, 2.0)))
    monkeypatch.setattr(comfy.model_management, "get_free_memory", no_free_memory)
    made = []
    calls = calls_of(patched(model), lambda m: made.append(edit(guide(m, clip, edits, (1.5, 2.0)))))
    assert [len(call) for call in calls] == [1] * 8
    print(f"separate passes: {relative_error(made[0], expected):.1e} of the std")
    assert relative_error(made[0], expected) < 1e-4


@pytest.mark.parametrize("arrange", [separately, reversed_order])
def test_chunks_in_any_order_or_call_give_the_same_image(model, clip, arrange):
    positive, negative = target(clip) + plain(clip, "an old barn"), plain(clip, "blurry")
    rgb_cam = apply_rgb_cam(model, two_regions())
    expected = generate(rgb_cam, positive, negative)
    assert relative_error(generate(arrange(rgb_cam), positive, negative), expected) < 1e-4


@pytest.mark.parametrize("arrange", [separately, reversed_order])
def test_chunks_in_any_order_or_call_give_the_same_edit(model, clip, arrange):
    expected = edit(guide(patched(model), clip, guidance=(1.5, 2.0)))
    made = edit(guide(arrange(patched(model)), clip, guidance=(1.5, 2.0)))
    assert relative_error(made, expected) < 1e-4


def test_a_longer_negative_tiles_our_text_and_changes_nothing(model, clip):
    positive, negative = target(clip), plain(clip, LONG)
    assert (positive[0][0].shape[1], negative[0][0].shape[1]) == (77, 154)
    rgb_cam = apply_rgb_cam(model, two_regions())
    seen = calls_of(rgb_cam, lambda m: generate(m, positive, negative, steps=1))
    assert [sorted(call) for call in seen] == [[0, 1]]  # one call, so both are 154 long
    expected = generate(separately(rgb_cam), positive, negative)
    assert relative_error(generate(rgb_cam, positive, negative), expected) < 1e-4


def test_a_longer_negative_or_source_changes_no_edit(model, clip):
    edits = edits_of(source_prompt=LONG + ", a wolf and a yellow moon")
    guider = guide(patched(model), clip, edits, (1.5, 2.0), negative=LONG)
    alone = guide(separately(patched(model)), clip, edits, (1.5, 2.0), negative=LONG)
    assert relative_error(edit(guider), edit(alone)) < 1e-4
