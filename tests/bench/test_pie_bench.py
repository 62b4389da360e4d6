"""PIE-Bench's mapping as a data set: masks, border rule, phrases, types, and bad mappings."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ale_edit.bench.dataset import FILE, Dataset, read_dataset
from ale_edit.bench.json_files import JsonObject
from ale_edit.bench.make_dataset import main
from ale_edit.bench.options import dataset_arguments
from ale_edit.bench.pie_bench import decode_mask, in_turn, phrase, pie_bench
from ale_edit.tests.bench.samples import pie_sample, runs_of


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    return pie_sample(tmp_path / "pie", ("1", "4", "6", "7", "9"))


def made(mapping: Path, **options: Any):
    folder = mapping.parent.parent / "dataset"
    images = mapping.parent / "annotation_images"
    return pie_bench(mapping, images, folder, "pie", tell=pytest.fail, **options)


def changed(mapping: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    content = json.loads(mapping.read_text())
    change(content["000000000000"])
    mapping.write_text(json.dumps(content))
    return mapping


def test_the_papers_types_become_edits_of_one_object_with_sentences(mapping):
    dataset = made(mapping)
    kinds = {e.category: e.edit_type for e in dataset.edits}
    assert kinds == {
        "1 change object": "object",
        "4 change content": "object",
        "6 change color": "color",
        "7 change material": "material",
    }
    content = json.loads(mapping.read_text())
    for edit in dataset.edits:
        (o,) = edit.objects
        entry = content[edit.image]
        assert edit.source_prompt == entry["original_prompt"] and o.source in edit.source_prompt
        assert o.target in edit.target_prompt and "[" not in edit.target_prompt
        shape = entry["blended_word"].split()[0]
        expected = {"6": f"green {shape}", "7": f"chrome {shape}"}
        assert (o.source, o.target) == (shape, expected.get(entry["editing_type_id"], "moon"))
    assert read_dataset(dataset.folder) == dataset


def test_other_types_are_taken_where_they_are_asked_for(mapping):
    dataset = made(mapping, types=("9",))
    assert [e.category for e in dataset.edits] == ["9 change style"]
    with pytest.raises(ValueError, match="has no edit of type 2. Give other --types"):
        made(mapping, types=("2",))


def test_images_are_pie_benchs_own_files_and_masks_are_decoded(mapping):
    dataset = made(mapping)
    content = json.loads(mapping.read_text())
    for name, image in dataset.images.items():
        original = mapping.parent / "annotation_images" / content[name]["image_path"]
        assert (dataset.folder / image.file).read_bytes() == original.read_bytes()
        (mask,) = dataset.masks(name)
        assert runs_of(np.asarray(mask) > 127) == content[name]["mask"]


def test_scores_count_the_border_as_edited_and_edits_do_not(mapping):
    """PIE-Bench's rule: the outermost rows and columns belong to the mask."""
    dataset = made(mapping)
    for name in dataset.images:
        (mask,), (scored,) = dataset.masks(name), dataset.frame_masks(name)
        own, with_border = np.asarray(mask) > 127, np.asarray(scored) > 127
        expected = own.copy()
        expected[[0, -1], :] = expected[:, [0, -1]] = True
        assert (with_border == expected).all() and not own[0].all()


def test_a_run_beyond_the_last_pixel_ends_there_as_in_pie_benchs_code_and_is_told():
    told: list[str] = []
    entry = JsonObject(Path("m"), "'0001'", {})
    mask = np.asarray(decode_mask([5, 2, 512 * 512 - 3, 100], entry, told.append)).ravel()
    assert np.flatnonzero(mask).tolist() == [5, 6, 512 * 512 - 3, 512 * 512 - 2, 512 * 512 - 1]
    assert len(told) == 1 and told[0].startswith("'0001': the run [262141, 100] of its 'mask' goes")
    mask = np.asarray(decode_mask([512 * 512 - 3, 3], entry, pytest.fail)).ravel()
    assert mask[-4:].tolist() == [0, 255, 255, 255]


def told_of(mapping: Path, **changes: Any) -> tuple[Dataset, str]:
    changed(mapping, lambda e: e.update(changes))
    told: list[str] = []
    images = mapping.parent / "annotation_images"
    dataset = pie_bench(mapping, images, mapping.parent / "out", "pie", tell=told.append)
    (sentence,) = told
    return dataset, sentence


def test_an_edit_outside_of_its_phrase_is_told(mapping):
    shape = json.loads(mapping.read_text())["000000000000"]["blended_word"].split()[0]
    dataset, told = told_of(
        mapping, editing_prompt=f"a {shape} on the moon", blended_word=f"{shape} {shape}"
    )
    assert len(dataset.edits) == 4
    assert told.startswith(f"000000000000: source and target phrase are both '{shape}'; what its")


def test_an_edit_whose_mask_marks_nothing_is_left_out_and_told(mapping):
    dataset, told = told_of(mapping, mask=[])
    assert len(dataset.edits) == 3 and "000000000000" not in dataset.images
    assert told == "000000000000: its mask marks nothing; the edit is left out."


@pytest.mark.parametrize(
    ("prompt", "blended", "expected"),
    [
        ("a slanted [rusty] mountain bicycle on the road", ["bicycle"], "rusty mountain bicycle"),
        ("a cat sitting on a [wooden] chair", ["cat"], "cat sitting on a wooden"),
        ("a [Dog], sitting on a chair", ["dog"], "Dog"),
        ("a cat on a chair", ["cat"], "cat"),
        ("a cat. The cat is [red]", ["cat"], "cat is red"),
        ("two [ice cream] cones", ["ice", "cream"], "ice cream"),
        ("a dog", ["cat"], ""),
    ],
)
def test_a_phrase_is_the_blended_word_with_the_brackets_next_to_it(prompt, blended, expected):
    assert phrase(prompt, blended) == expected


def test_where_the_blended_word_is_not_in_the_prompt_the_prompts_are_taken_and_that_is_told(
    mapping,
):
    changed(mapping, lambda e: e.update(blended_word="cat dog"))
    told: list[str] = []
    images = mapping.parent / "annotation_images"
    dataset = pie_bench(mapping, images, mapping.parent / "out", "pie", tell=told.append)
    (edit,) = [e for e in dataset.edits if e.image == "000000000000"]
    assert (edit.objects[0].source, edit.objects[0].target) == (
        edit.source_prompt,
        edit.target_prompt,
    )
    assert len(told) == 1 and told[0].startswith("000000000000: its blended words do not stand")


def test_every_beginning_is_spread_over_the_types(mapping):
    dataset = made(mapping)
    edits = [e for e in dataset.edits if e.edit_type == "object"] * 4 + [dataset.edits[-1]] * 2
    kinds = [e.kind for e in in_turn(edits)]
    assert set(kinds[:5]) == set(kinds) and sorted(kinds) == sorted(e.kind for e in edits)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda e: e.pop("mask"), "'000000000000' has no key 'mask'"),
        (lambda e: e.pop("original_prompt"), "has no key 'original_prompt'"),
        (lambda e: e.update(mask=[1, 2, 3]), "'mask' that is not a list of starts and lengths"),
        (lambda e: e.update(mask=[-1, 2]), "'mask' that is not a list of starts and lengths"),
        (lambda e: e.update(mask=[512 * 512, 2]), "a start 262144, outside 512x512 pixels"),
        (lambda e: e.update(editing_type_id="12"), "'editing_type_id' '12'. There are 0, 1"),
        (lambda e: e.update(editing_type_id=1), "'editing_type_id' is a whole number, not text"),
        (lambda e: e.update(image_path="none.jpg"), "an image that is not there: .*none.jpg"),
    ],
)
def test_what_is_wrong_in_the_mapping_is_named(mapping, change, expected):
    with pytest.raises(ValueError, match=expected) as caught:
        made(changed(mapping, change))
    assert "mapping_file.json: '000000000000' " in str(caught.value)


def test_an_image_of_another_size_is_named(mapping):
    entry = json.loads(mapping.read_text())["000000000000"]
    Image.new("RGB", (256, 256)).save(mapping.parent / "annotation_images" / entry["image_path"])
    with pytest.raises(ValueError, match="of 256x256 pixels, and its mask has 512x512"):
        made(mapping)


def test_a_folder_in_the_place_of_the_mapping_is_named(mapping):
    with pytest.raises(ValueError, match="pie is a folder. Give its mapping_file.json."):
        dataset_arguments(["pie", str(mapping.parent), "--out", "new"])


def test_the_command_makes_it_and_says_what_it_holds(mapping, tmp_path, capsys):
    out = tmp_path / "new"
    assert main(["pie", str(mapping), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert f"{out / FILE}: 4 edits of 4 images" in shown and "4 change content 1" in shown
    assert read_dataset(out).name == "new"


def test_json_that_is_broken_is_named_with_its_line(mapping, tmp_path, capsys):
    mapping.write_text('{\n "a": {,\n}')
    assert main(["pie", str(mapping), "--out", str(tmp_path / "new")]) == 1
    shown = capsys.readouterr().err
    assert "mapping_file.json is not JSON" in shown and "line 2 column" in shown
    assert not (tmp_path / "new").exists()
