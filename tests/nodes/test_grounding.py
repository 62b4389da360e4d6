"""Grounded-SAM Masks as a node: what becomes of objects that are found, and of others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import folder_paths
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ale_edit.host.model_files import DETECTOR, NOTHING, SEGMENTER
from ale_edit.host.segmenting import grounding
from ale_edit.regions import sam
from ale_edit.tests.nodes.graph import edit_by_single_nodes, one, picture, run, schema
from ale_edit.tests.nodes.test_help_pages import page
from ale_edit.tests.nodes.test_schemas import NODE_IDS
from ale_edit.tests.regions.test_objects import KnownDetector
from ale_edit.tests.tiny import box_mask

NODE = "ALEGroundedSAMMasks"
WOLF, MOON = (8.0, 8.0, 24.0, 40.0), (36.0, 20.0, 60.0, 56.0)
TABLE = {"wolf": {WOLF: 0.9}, "yellow moon": {MOON: 0.8}}
TEXT = "wolf -> goat\nYellow Moon. -> soccer ball"
Cause: TypeAlias = Callable[[Path], Any]


class Boxes:
    """A segmenter whose masks are the boxes, shrunk by a pixel, with a speck."""

    def segment(self, image: Tensor, boxes: Tensor) -> Tensor:
        masks = torch.zeros(len(boxes), *image.shape[:2], dtype=torch.bool)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top + 1 : bottom - 1, left + 1 : right - 1] = True
            mask[0, 0] = True
        return masks


def find(table: Mapping[str, Any] = TABLE, text: str = TEXT, **inputs: Any) -> tuple[Any, ...]:
    given = {"image": picture(), "segmenter": Boxes(), "dilation": 0.0, **inputs}
    edits = given.pop("edits", None) or one("ALEEditList", text=text)
    return run(NODE, edits=edits, detector=KnownDetector(table), **given)


def box(area: tuple[float, ...], shrunk: int = 0) -> Tensor:
    left, top, right, bottom = (int(v) for v in area)
    return box_mask(
        64,
        64,
        top=top + shrunk,
        left=left + shrunk,
        bottom=bottom - shrunk,
        right=right - shrunk,
    )


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


@pytest.mark.parametrize("dilation", [0.0, 0.05])
def test_a_missing_object_can_get_the_whole_image_but_the_others_places(
    dilation: float, caplog: pytest.LogCaptureFixture
) -> None:
    found = {"wolf": TABLE["wolf"]}
    regions, edits, masks, *_ = find(found, missing="whole image", dilation=dilation)
    assert torch.equal(masks[1], 1 - regions.dilated[0]) and len(edits.items) == 2
    assert regions.names == ("wolf", "Yellow Moon.")
    assert "gets the image outside the other objects" in caplog.text


def test_a_missing_object_beside_one_that_is_everywhere_is_refused() -> None:
    everywhere = {"wolf": {(0.0, 0.0, 64.0, 64.0): 0.9}}
    with pytest.raises(ValueError, match='^Grounded-SAM Masks: "wolf" has no place of its own'):
        find(everywhere, missing="whole image", segmenter=None)


def test_two_phrases_for_one_mask_are_refused_with_both_names() -> None:
    """Boxes of their own, in which the segmenter sees the same."""

    class Same(Boxes):
        def segment(self, image: Tensor, boxes: Tensor) -> Tensor:
            return super().segment(image, boxes[:1]).expand(len(boxes), -1, -1)

    words = '^Grounded-SAM Masks: "wolf" has no place .* within that of "Yellow Moon."'
    with pytest.raises(ValueError, match=words):
        find(segmenter=Same())


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
    with pytest.raises(ValueError, match='"wolf" stands in several edits, and another of them has'):
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


class Watching(KnownDetector):
    """Keeps the images that it was given."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        super().__init__(table)
        self.seen: list[Tensor] = []

    def detect(self, image: Tensor, phrases: tuple[str, ...]) -> Any:
        self.seen.append(image)
        return super().detect(image, phrases)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_of_grey_pictures_and_alpha_channels_the_colours_are_looked_at(channels: int) -> None:
    image = torch.rand(2, 64, 64, channels)
    detector = Watching(TABLE)
    edits = one("ALEEditList", text=TEXT)
    *_, preview = run(NODE, image=image, edits=edits, detector=detector, segmenter=None)
    expected = image[..., :3] if channels > 1 else image.expand(-1, -1, -1, 3)
    assert torch.equal(torch.stack(detector.seen), expected)
    assert preview.shape == (2, 64, 64, 3)


@pytest.mark.parametrize("shape", [(64, 64, 3), (1, 64, 64, 2), (0, 64, 64, 3), (1, 3, 64, 64)])
def test_something_that_is_no_picture_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"has the shape .*, not \(images, height, width, chan"):
        find(image=torch.zeros(shape))


def test_a_picture_with_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="holds numbers that are not finite"):
        find(image=picture() * float("nan"))


class Moving(KnownDetector):
    """Knows another table for each image, by its first pixel's number."""

    def __init__(self, *tables: Mapping[str, Any]) -> None:
        super().__init__({})
        self._tables = tables

    def detect(self, image: Tensor, phrases: tuple[str, ...]) -> Any:
        self.table = self._tables[round(10 * float(image[0, 0, 0]))]
        return super().detect(image, phrases)


def numbered(count: int) -> Tensor:
    """Pictures whose first pixel says which image of the batch they are."""
    images = picture(count)
    images[:, 0, 0, 0] = torch.arange(count) / 10
    return images


def find_in(*tables: Mapping[str, Any], **inputs: Any) -> tuple[Any, ...]:
    usual = {"segmenter": Boxes(), "dilation": 0.05, "edits": one("ALEEditList", text=TEXT)}
    return run(
        NODE, **{**usual, "image": numbered(len(tables)), "detector": Moving(*tables), **inputs}
    )


ASIDE = {"wolf": {(4.0, 30.0, 20.0, 60.0): 0.7}, "yellow moon": {MOON: 0.6}}


def test_every_image_of_a_batch_is_looked_at_and_has_its_own_regions() -> None:
    regions, edits, masks, background, text, preview = find_in(TABLE, ASIDE)
    singles = [find_in(TABLE, ASIDE, image=numbered(2)[j : j + 1]) for j in range(2)]
    assert len(regions.images) == 2
    for j, (alone, *_) in enumerate(singles):
        assert torch.equal(regions.images[j].raw, alone.raw)
        assert torch.equal(regions.images[j].dilated, alone.dilated)
    for made, position in ((masks, 2), (background, 3), (preview, 5)):
        assert torch.equal(made, torch.cat([single[position] for single in singles]))
    assert [edit.mask.shape for edit in edits.items] == [(2, 64, 64)] * 2
    again = one("ALERegions", edits=edits, image=numbered(2), dilation=0.05)
    assert torch.equal(again.images[1].dilated, regions.images[1].dilated)
    lines = [single[4] for single in singles]
    assert text == f"image 1:\n{lines[0]}\nimage 2:\n{lines[1]}"


def test_an_edit_with_one_mask_or_one_for_each_image_keeps_them_in_a_batch() -> None:
    for own in (box((0, 0, 5, 5)), torch.stack([box((0, 0, 5, 5)), box((0, 0, 9, 5))])):
        edits = one("ALEEditObject", source="tree", target="palm", mask=own)
        edits = one("ALEEditObject", source="wolf", target="goat", previous=edits)
        regions, kept, *_ = find_in(TABLE, ASIDE, edits=edits)
        assert torch.equal(kept.items[0].mask, own)
        for j, one_image in enumerate(regions.images):
            assert torch.equal(one_image.raw[0], own if own.ndim == 2 else own[j])


WITHOUT_MOON = {"wolf": TABLE["wolf"]}


def test_a_missing_object_in_an_image_of_a_batch(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match='Masks: image 2: "Yellow Moon." was not found'):
        find_in(TABLE, WITHOUT_MOON)
    with pytest.raises(ValueError, match='image 2: "Yellow Moon." .* found in another image, and'):
        find_in(TABLE, WITHOUT_MOON, missing="leave out")
    regions, edits, *_ = find_in(WITHOUT_MOON, WITHOUT_MOON, missing="leave out")
    assert edits.sources == ("wolf",) and len(regions.images) == 2
    regions, *_ = find_in(TABLE, WITHOUT_MOON, missing="whole image")
    assert torch.equal(regions.images[1].raw[1], 1 - regions.images[1].dilated[0])
    assert torch.equal(regions.images[0].raw[1], box(MOON, 1))


def test_nothing_found_in_images_of_a_batch() -> None:
    with pytest.raises(ValueError, match="Masks: image 2: nothing was found."):
        find_in(TABLE, {})
    with pytest.raises(ValueError, match="image 2: nothing was found. .* in another image, and"):
        find_in(TABLE, {}, nothing_found="without regions")
    regions, edits, *_ = find_in({}, {}, nothing_found="without regions")
    assert not edits.settings.rgb_cam and bool(regions.raw.all())


@pytest.mark.parametrize("missing", ["stop", "leave out"])
def test_a_batch_of_one_is_a_single_image(missing: str) -> None:
    regions, edits, *_ = find_in(TABLE, missing=missing)
    assert regions.images == (regions,) and edits.items[0].mask.shape == (64, 64)


def test_a_picture_of_one_pixel_has_regions() -> None:
    table = {"wolf": {(0.0, 0.0, 1.0, 1.0): 0.9}}
    masks = find(table, "wolf -> goat", image=picture(height=1, width=1), segmenter=None)[2]
    assert torch.equal(masks, torch.ones(1, 1, 1))


def test_a_picture_of_eight_thousand_pixels_has_regions() -> None:
    table = {"wolf": {(100.0, 200.0, 7000.0, 4000.0): 0.9}}
    image = torch.full((1, 4320, 7680, 3), 0.5)
    masks = find(table, "wolf -> goat", image=image, segmenter=None)[2]
    assert masks.shape == (1, 4320, 7680) and int(masks.sum()) == 6900 * 3800


def test_boxes_that_reach_outside_the_picture_are_cut_off() -> None:
    masks = find({"wolf": {(-9.0, -9.0, 99.0, 20.0): 0.9}}, "wolf -> goat", segmenter=None)[2]
    assert torch.equal(masks[0], box((0, 0, 64, 20)))


def test_a_segmenter_gets_boxes_inside_the_picture() -> None:
    class Asked(Boxes):
        def segment(self, image: Tensor, boxes: Tensor) -> Tensor:
            self.boxes = boxes
            return super().segment(image, boxes)

    segmenter = Asked()
    find({"wolf": {(-9.0, -9.0, 99.0, 20.0): 0.9}}, "wolf -> goat", segmenter=segmenter)
    assert segmenter.boxes.tolist() == [[0, 0, 64, 20]]


def test_a_box_in_which_the_segmenter_sees_nothing_is_its_own_mask(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Blind:
        def segment(self, image: Tensor, boxes: Tensor) -> Tensor:
            return torch.zeros(len(boxes), *image.shape[:2], dtype=torch.bool)

    masks = find(segmenter=Blind())[2]
    assert torch.equal(masks, torch.stack([box(WOLF), box(MOON)]))
    assert "sees nothing in a box" in caplog.text


def test_a_hundred_edits_have_a_hundred_regions() -> None:
    phrases = [f"thing number {chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(100)]
    table = {
        p: {(i % 10 * 6.0, i // 10 * 6.0, i % 10 * 6 + 5.0, i // 10 * 6 + 5.0): 0.9}
        for i, p in enumerate(phrases)
    }
    text = "\n".join(f"{phrase} -> cat" for phrase in phrases)
    masks = find(table, text, segmenter=None)[2]
    assert masks.shape[0] == 100 and bool((masks.flatten(1).sum(dim=1) == 25).all())


def test_the_tooltips_name_the_papers_dilation_and_that_of_the_published_code() -> None:
    (dilation,) = (entry for entry in schema(NODE).inputs if entry.id == "dilation")
    assert dilation.default == 0.01 and "0.04" in dilation.tooltip


def _read(name: str, write: Callable[[Path], Any], load: Callable[[str], Any]) -> Cause:
    def cause(folder: Path) -> None:
        write(folder / name)
        load(name)

    return cause


def _segmenter(name: str) -> Any:
    return grounding.load_segmenter(name, "auto")


def _too_old(folder: Path) -> None:
    def load_folder(*_: Any) -> Any:
        raise ImportError("cannot import name 'Sam2Config' from 'transformers'")

    (folder / "config.json").write_text('{"model_type": "sam2"}')
    save_file({"a": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sam, "load_folder", load_folder)
        _segmenter(f"{folder.name}/")


def _no_memory(folder: Path) -> None:
    def loaded(*_: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grounding, "loaded", loaded)
        grounding.with_room(lambda model: model, cast(Any, None), 0, "GroundingDINO")


PART = {"transformer.level_embed": torch.zeros(4, 8), "feat_map.weight": torch.zeros(8, 8)}
SAID: dict[str, Cause] = {
    "was not found: its best score is": lambda _: find({"wolf": TABLE["wolf"]}),
    "nothing was found.": lambda _: find({}),
    "has no region of its own": lambda _: find(
        {"wolf": {WOLF: 0.5}, "dog": {WOLF: 0.9}}, "wolf -> goat\ndog -> cat"
    ),
    "stands in several edits": lambda _: find(TABLE, "wolf -> goat\nwolf -> cat"),
    "is none of all, best, or a number": lambda _: find(instances="some"),
    "asks for number 3": lambda _: find(instances="3, 1"),
    "holds no word to look for": lambda _: find(text="?! -> goat"),
    "It must be from 0 to 1": lambda _: find(box_threshold=2.0),
    "cannot be left out": lambda _: find(
        {"wolf": TABLE["wolf"]},
        edits=one(
            "ALEFullPrompts",
            edits=one("ALEEditList", text="wolf -> goat\nmoon -> ball"),
            source_prompt="a wolf under a moon",
        ),
        missing="leave out",
    ),
    "not (images, height, width, channels)": lambda _: find(image=torch.zeros(64, 64, 3)),
    "out of memory": _no_memory,
    "no file was found in": lambda _: _segmenter(NOTHING),
    "cannot be read as a file of tensors": _read(
        "cut.pth", lambda file: file.write_bytes(b"<html>"), _segmenter
    ),
    "does not hold the tensors of its model": _read(
        "part.pth", lambda file: torch.save({"model": PART}, file), grounding.load_detector
    ),
    "not a model for this loader": _read(
        "a.safetensors", lambda file: save_file({"lora_a": torch.zeros(1)}, file), _segmenter
    ),
    "the installed transformers cannot load this model": _too_old,
}
"""What is said, as the help pages quote it, and what makes it be said."""


@pytest.mark.parametrize("quote", SAID)
def test_what_the_help_pages_quote_is_said_in_a_sentence_of_one_line(
    quote: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "a-model"
    home.mkdir()
    for name in (*DETECTOR.folders, *SEGMENTER.folders):
        places = ([str(home), str(tmp_path)], set())
        monkeypatch.setitem(folder_paths.folder_names_and_paths, name, places)
    with pytest.raises(ValueError) as error:
        SAID[quote](home)
    sentence = str(error.value)
    assert quote in sentence and sentence.endswith(".") and "\n" not in sentence
    assert sentence.startswith(("Grounded-SAM Masks: ", "SAM Loader: ", "GroundingDINO Loader: "))
    assert any(f"`{quote}" in page(node_id) for node_id in NODE_IDS) or quote in UNQUOTED


UNQUOTED = ("It must be from 0 to 1", "not (images, height, width, channels)")
"""Said only when no widget or Load Image is behind the input."""
