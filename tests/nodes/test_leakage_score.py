"""Leakage Score: TE and TI of an edit beside those of its source."""

from __future__ import annotations

import json
import logging
from math import isnan
from types import SimpleNamespace

import pytest
import torch

from ale_edit.nodes import demo
from ale_edit.scoring.leakage import leakage
from ale_edit.scoring.similarity import Similarity
from ale_edit.tests.nodes.graph import TEXT, edits_with_masks, one, picture, run
from ale_edit.tests.nodes.scores import HALVES, keep, leak, mean_colors, regions
from ale_edit.tests.nodes.test_demo import HAS_MINI_CLIP
from ale_edit.tests.tiny import two_boxes

pytestmark = pytest.mark.usefixtures("models_dir")

TARGETS = ["brown-colored goat", "soccer ball"]


def test_te_and_ti_are_those_of_the_raw_masks() -> None:
    """Whatever the dilation is."""
    masks = torch.stack(two_boxes(64, 64))
    expected = leakage(mean_colors, picture()[0], masks, TARGETS)
    for dilation in (0.0, 0.1):
        te, ti, *_ = leak(regions=regions(dilation=dilation))
        assert (te, ti) == (expected.te, expected.ti) and te != ti


def test_the_sources_own_scores_stand_beside_those_of_the_edit() -> None:
    _, _, te, ti, text, made = leak(image=picture(seed=5), source=picture())
    alone = leak(image=picture())
    assert (te, ti) == alone[:2]
    assert "source: TE" in text and json.loads(made)["source"][0]["TE"] == te
    without = leak()
    assert isnan(without[2]) and isnan(without[3]) and json.loads(without[5])["source"] == []


def test_of_a_batch_each_picture_is_scored_and_the_mean_given_out() -> None:
    te, ti, _, _, text, made = leak(image=picture(3))
    singles = [leak(image=picture(seed=11 + j)) for j in range(3)]
    assert te == pytest.approx(sum(s[0] for s in singles) / 3)
    assert ti == pytest.approx(sum(s[1] for s in singles) / 3)
    entries = json.loads(made)["images"]
    assert [e["TE"] for e in entries] == pytest.approx([s[0] for s in singles])
    assert "edited 3: TE" in text


def test_one_object_has_te_and_no_ti() -> None:
    edits = one("ALEEditObject", source="wolf", target="goat", mask=two_boxes(64, 64)[0])
    te, ti, _, _, text, made = leak(edits=edits, regions=one("ALERegions", edits=edits))
    assert isnan(ti) and not isnan(te)
    assert "TI n/a" in text and "one object has no other" in text
    assert json.loads(made)["images"][0]["TI"] is None


def test_a_removed_object_has_no_target_and_its_place_is_background() -> None:
    wolf, moon = two_boxes(64, 64)
    edits = one("ALEEditObject", source="wolf", target="goat", mask=wolf)
    alone = leak(edits=edits, regions=one("ALERegions", edits=edits))
    edits = one("ALEEditObject", source="moon", target="", mask=moon, previous=edits)
    both = leak(edits=edits, regions=one("ALERegions", edits=edits))
    assert both[0] == alone[0] and isnan(both[1])
    assert json.loads(both[5])["objects"] == ["goat"] and json.loads(both[5])["prompt"] == "goat"
    removed = one("ALEEditObject", source="wolf", target="", mask=wolf)
    with pytest.raises(ValueError, match="removes every object, so there is no target phrase"):
        leak(edits=removed, regions=one("ALERegions", edits=removed))


def test_an_added_object_is_named_by_its_target() -> None:
    edits = one("ALEEditObject", source="", target="goat", mask=two_boxes(64, 64)[0])
    regions = one("ALERegions", edits=edits)
    assert regions.names == ("goat",)
    assert not isnan(leak(edits=edits, regions=regions)[0])


def test_masks_of_everything_leave_no_te() -> None:
    edits = one("ALEEditList", text=TEXT)
    everywhere = one("ALERegions", edits=edits, masks=HALVES)
    te, ti, _, _, text, _ = leak(edits=edits, regions=everywhere)
    assert isnan(te) and not isnan(ti) and "the masks leave no background" in text


def test_the_whole_prompt_is_the_full_prompt_where_there_is_one() -> None:
    edits = one(
        "ALEFullPrompts",
        edits=edits_with_masks(),
        source_prompt="",
        target_prompt="a brown-colored goat under a soccer ball",
    )
    prompts = [json.loads(leak(edits=e)[5])["prompt"] for e in (edits, edits_with_masks())]
    assert prompts == ["a brown-colored goat under a soccer ball", " and ".join(TARGETS)]


def test_a_doubt_of_the_model_is_in_the_report() -> None:
    doubted = Similarity("two halves", mean_colors, "They hardly belong together.")
    *_, text, made = leak(similarity=doubted)
    assert text.endswith("They hardly belong together.")
    assert json.loads(made)["notes"] == ["They hardly belong together."]


def test_an_edit_that_the_vae_cropped_is_scored_with_its_source_and_masks_cropped_alike() -> None:
    source = picture(height=67, width=69)
    edits = edits_with_masks(67, 69)
    cropped = source[:, 1:65, 2:66]
    found = leak(image=cropped, source=source, edits=edits, regions=one("ALERegions", edits=edits))
    assert found[:2] == found[2:4]
    psnr = keep(image=cropped, source=source, regions=one("ALERegions", edits=edits))[0]
    assert psnr == pytest.approx(60.17, abs=0.01)


def test_smaller_masks_are_resized_and_that_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        leak(image=picture(height=128, width=128))
    assert "Leakage Score: the masks are 64x64 and were resized to 128x128" in caplog.text


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_of_grey_pictures_and_alpha_channels_the_colours_count(channels: int) -> None:
    image = torch.rand(1, 64, 64, channels)
    colors = image[..., :3] if channels > 1 else image.expand(-1, -1, -1, 3)
    assert leak(image=image)[:2] == leak(image=colors)[:2]


@pytest.mark.skipif(not HAS_MINI_CLIP, reason="demo/weights has no clip.safetensors")
def test_a_demo_scene_is_scored_without_any_download() -> None:
    image, masks, text, _ = run("ALEDemoScene", seed=0, objects=2)
    edits = one("ALEEditList", text=text)
    made = one("ALERegions", edits=edits, masks=masks, image=image)
    te, ti, *_, report, _ = leak(image=image, regions=made, edits=edits, similarity=None)
    assert 0 <= te <= 100 and 0 <= ti <= 100 and "the demo world's mini CLIP" in report


def test_of_a_demo_scene_the_demos_model_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "mini_clip", lambda: SimpleNamespace(similarity=mean_colors))
    image, masks, text, _ = run("ALEDemoScene", seed=0, objects=2)
    edits = one("ALEEditList", text=text)
    made = one("ALERegions", edits=edits, masks=masks)
    *_, report, _ = leak(image=image, regions=made, edits=edits, similarity=None)
    assert "the demo world's mini CLIP" in report
