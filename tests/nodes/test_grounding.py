"""Grounded-SAM Masks as a node: what becomes of objects that are found, and of others."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.host.attention.rgb_cam import apply_rgb_cam
from ale_edit.tests.host.runs import edit, guide
from ale_edit.tests.nodes.graph import edit_by_single_nodes, one, picture, run, schema
from ale_edit.tests.nodes.grounding import MOON, NODE, TABLE, TEXT, WOLF, Boxes, box, find
from ale_edit.tests.regions.test_objects import KnownDetector
from ale_edit.tests.tiny import tiny_clip, tiny_model


def test_words_become_regions_in_the_order_of_the_edits() -> None:
    regions, edits, masks, background, text, preview = find()
    assert regions.names == ("wolf", "Yellow Moon.")
    assert torch.equal(masks, torch.stack([box(WOLF, 1), box(MOON, 1)]))  # the specks have gone
    assert torch.equal(torch.stack([e.mask for e in edits.items]), masks)
    assert torch.equal(background[0], 1 - masks.amax(dim=0))
    assert preview.shape == (1, 64, 64, 3)
    assert text.splitlines() == [
        "wolf: 1 of 1: score 0.90 box 8 8 24 40",
        'Yellow Moon. (as "yellow moon"): 1 of 1: score 0.80 box 36 20 60 56',
    ]


def test_without_a_segmenter_the_boxes_are_the_masks() -> None:
    masks = find(segmenter=None)[2]
    assert torch.equal(masks, torch.stack([box(WOLF), box(MOON)]))


def test_clean_up_at_zero_leaves_the_specks() -> None:
    masks = find(clean_up=0.0)[2]
    assert bool((masks[:, 0, 0] == 1).all())


def test_dilation_grows_the_regions_as_in_regions() -> None:
    regions, edits, *_ = find(dilation=0.1)
    other = one("ALERegions", edits=edits, dilation=0.1, image=picture())
    assert torch.equal(regions.dilated, other.dilated) and torch.equal(regions.raw, other.raw)


def test_several_boxes_of_one_object_are_one_mask() -> None:
    masks = find({"wolf": {WOLF: 0.9, MOON: 0.5}}, "wolf -> goat")[2]
    assert torch.equal(masks[0], torch.maximum(box(WOLF, 1), box(MOON, 1)))
    masks = find({"wolf": {WOLF: 0.9, MOON: 0.5}}, "wolf -> goat", instances="2")[2]
    assert torch.equal(masks[0], box(MOON, 1))


def test_an_edit_with_a_mask_keeps_it_and_is_not_looked_for() -> None:
    drawn = box((0, 0, 5, 5))
    edits = one("ALEEditObject", source="tree", target="palm", mask=drawn)
    edits = one("ALEEditObject", source="wolf", target="goat", previous=edits)
    regions, kept, masks, _, text, _ = find(edits=edits)
    assert torch.equal(masks, torch.stack([drawn, box(WOLF, 1)]))
    assert text.startswith("wolf") and "tree" not in text
    assert regions.names == ("tree", "wolf") and len(kept.items) == 2


def test_with_masks_for_all_nothing_is_looked_for() -> None:
    edits = one("ALEEditObject", source="tree", target="palm", mask=box(WOLF))
    assert torch.equal(find({}, edits=edits)[2][0], box(WOLF))


def test_a_missing_object_stops_with_its_name_score_and_threshold() -> None:
    table = {**TABLE, "yellow moon": {MOON: 0.21}}
    with pytest.raises(ValueError) as error:
        find(table)
    assert str(error.value).startswith(
        'Grounded-SAM Masks: "Yellow Moon." was not found: its best score is 0.21 '
        "(box_threshold 0.35). Lower box_threshold, "
    )


def test_an_object_that_only_an_adjective_fits_says_the_noun_threshold() -> None:
    class Adjective(KnownDetector):
        def detect(self, image: Tensor, phrases: tuple[str, ...]) -> Any:
            found = super().detect(image, phrases)
            return replace(found, heads=found.heads * 0.1)

    edits = one("ALEEditList", text="yellow moon -> ball")
    with pytest.raises(ValueError, match="0.80 .box_threshold 0.35, text_threshold 0.25 for its n"):
        run(NODE, image=picture(), edits=edits, detector=Adjective(TABLE), segmenter=None)

    with pytest.raises(ValueError, match="Lower text_threshold, name the object in other"):
        run(NODE, image=picture(), edits=edits, detector=Adjective(TABLE), segmenter=None)


def test_a_missing_objects_edit_can_be_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        regions, edits, masks, *_ = find({"wolf": TABLE["wolf"]}, missing="leave out")
    assert regions.names == ("wolf",) and edits.sources == ("wolf",) and len(masks) == 1
    assert '"Yellow Moon." was not found' in caplog.text and "left out" in caplog.text
    assert edits.settings.rgb_cam and edits.settings.blending


def check_places(regions: Any, edits: Any) -> None:
    """A run with these regions, up to its first step."""
    model, clip = tiny_model(), tiny_clip()
    edit(guide(apply_rgb_cam(model, regions), clip, edits))


@pytest.mark.parametrize("dilation", [0.0, 0.05])
def test_a_missing_object_can_get_the_whole_image_but_the_others_places(
    dilation: float, caplog: pytest.LogCaptureFixture
) -> None:
    found = {"wolf": TABLE["wolf"]}
    regions, edits, masks, *_ = find(found, missing="whole image", dilation=dilation)
    assert torch.equal(masks[1], 1 - regions.dilated[0]) and len(edits.items) == 2
    assert regions.names == ("wolf", "Yellow Moon.")
    assert "gets the image outside the other objects" in caplog.text


def test_a_missing_object_beside_one_that_is_everywhere_is_said_and_refused_by_the_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    everywhere = {"wolf": {(0.0, 0.0, 64.0, 64.0): 0.9}}
    regions, edits, *_ = find(everywhere, missing="whole image", segmenter=None)
    assert '(100 % of "wolf", 100 % of "Yellow Moon.")' in caplog.text
    with pytest.raises(ValueError, match='"wolf" has no place of its own'):
        check_places(regions, edits)


def test_two_phrases_for_one_mask_are_said_and_refused_by_the_run_with_both_names(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Boxes of their own, in which the segmenter sees the same."""

    class Same(Boxes):
        def segment(self, image: Tensor, boxes: Tensor) -> Tensor:
            return super().segment(image, boxes[:1]).expand(len(boxes), -1, -1)

    regions, edits, *_ = find(segmenter=Same())
    words = 'Grounded-SAM Masks: some grown masks overlap: those of "wolf" and "Yellow Moon."'
    assert words in caplog.text
    with pytest.raises(ValueError, match='"wolf" has no place .* within that of "Yellow Moon."'):
        check_places(regions, edits)


def test_a_left_out_edit_may_not_stay_in_a_full_prompt() -> None:
    edits = one("ALEEditList", text="wolf -> goat\nmoon -> ball")
    edits = one("ALEFullPrompts", edits=edits, source_prompt="a wolf under a moon")
    with pytest.raises(ValueError, match='"moon -> ball" cannot be left out, because its words'):
        find({"wolf": TABLE["wolf"]}, edits=edits, missing="leave out")


@pytest.mark.parametrize("missing", ["stop", "leave out", "whole image"])
def test_with_nothing_found_it_stops_and_names_every_object(missing: str) -> None:
    with pytest.raises(ValueError, match='nothing was found. "wolf" .*"Yellow Moon." .*Lower box_'):
        find({}, missing=missing)


@pytest.mark.parametrize("text", ["wolf -> goat", TEXT])
def test_with_nothing_found_the_cure_is_the_input_that_decides(text: str) -> None:
    with pytest.raises(ValueError) as error:
        find({}, text, missing="whole image")
    assert "choose without regions in nothing_found" in str(error.value)
    assert "in missing" not in str(error.value)


def test_with_nothing_found_it_can_run_without_regions_as_in_the_paper(
    model: Any, clip: Any, vae: Any
) -> None:
    regions, edits, masks, *_ = find({}, nothing_found="without regions")
    assert torch.equal(masks, torch.ones(2, 64, 64))
    assert not edits.settings.rgb_cam and not edits.settings.blending and edits.settings.ore
    # the same as an edit with both switched off by hand, whatever the masks
    by_hand = one("ALEEditList", text=TEXT)
    by_hand = replace(
        by_hand,
        items=tuple(replace(e, mask=box(MOON)) for e in by_hand.items),
        settings=replace(by_hand.settings, rgb_cam=False, blending=False),
    )
    image = picture()
    ours, expected = (
        edit_by_single_nodes(model, clip, vae, image, given, seed=3, steps=3)
        for given in (edits, by_hand)
    )
    assert torch.equal(ours, expected)


def test_an_object_that_another_phrase_has_is_named_with_it() -> None:
    table = {"wolf": {WOLF: 0.5}, "dog": {WOLF: 0.9}}
    with pytest.raises(ValueError, match='"wolf" has no region of its own.* fits "dog" better'):
        find(table, "wolf -> goat\ndog -> cat")


def test_a_number_beyond_the_instances_is_refused_with_their_count() -> None:
    with pytest.raises(ValueError, match='asks for number 3 of "wolf", but 1 was found. Choose'):
        find({"wolf": TABLE["wolf"]}, "wolf -> goat", instances="3")
    with pytest.raises(ValueError, match='asks for number 3 of "wolf", but 1 was found. Choose'):
        find(instances="3, 1")
    with pytest.raises(ValueError) as error:
        find(instances="3, 2")
    assert 'asks for number 3 of "wolf", but 1 was found' in str(error.value)
    assert 'asks for number 2 of "Yellow Moon.", but 1 was found' in str(error.value)


def test_a_left_out_number_beyond_the_instances_is_logged_as_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        assert len(find(instances="3, 1", missing="leave out")[2]) == 1
    assert 'asks for number 3 of "wolf", but 1 was found' in caplog.text
    assert "was not found" not in caplog.text


def test_the_same_phrase_twice_with_one_instance_says_so() -> None:
    with pytest.raises(ValueError, match='"wolf" occurs in several edits, and another of them has'):
        find({"wolf": TABLE["wolf"]}, "wolf -> goat\nwolf -> cat")


@pytest.mark.parametrize("name", ["box_threshold", "text_threshold", "dilation", "clean_up"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_a_threshold_outside_its_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"the {name} input is .*It must be from 0 to 1"):
        find(TABLE, TEXT, **{name: value})


@pytest.mark.parametrize("name", ["missing", "nothing_found"])
def test_an_unknown_choice_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f'Grounded-SAM Masks: the {name} input is "guess"'):
        find(TABLE, TEXT, **{name: "guess"})


def test_edits_without_an_object_are_refused() -> None:
    from ale_edit.prompts.edits import Edits

    with pytest.raises(ValueError, match="the edits input is empty"):
        run(NODE, image=picture(), edits=Edits(()), detector=KnownDetector({}), segmenter=None)


def test_the_tooltips_name_the_papers_dilation_and_that_of_the_published_code() -> None:
    (dilation,) = (entry for entry in schema(NODE).inputs if entry.id == "dilation")
    assert dilation.default == 0.01 and "0.04" in dilation.tooltip
