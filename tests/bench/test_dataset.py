"""Data sets on disk: written and read back, and every way in which one can be wrong is named."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from ale_edit.bench import judging
from ale_edit.bench.dataset import (
    ATTRIBUTES,
    FILE,
    FORMAT,
    Dataset,
    ImageEdit,
    ImageObject,
    ObjectEdit,
    SourceImage,
    read_dataset,
    write_dataset,
)
from ale_edit.bench.json_files import list_some


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    objects = (
        ImageObject("masks/wolf.png", "wolf", {"object": "wolf"}),
        ImageObject("masks/moon.png", "moon"),
    )
    edits = (
        ImageEdit("a-1", "a", "object", 7, (ObjectEdit(0, "wolf", "goat", {"object": "goat"}),)),
        ImageEdit("a-2", "a", "color", 8, (ObjectEdit(1, "moon", "red moon", {}, ("rare",)),)),
    )
    made = Dataset(
        tmp_path, "two", {"by": "test"}, {"a": SourceImage("a.png", objects, "g")}, edits
    )
    pictures = {"a.png": Image.new("RGB", (8, 6), "red")}
    pictures |= {o.mask: Image.new("L", (8, 6), 255) for o in objects}
    write_dataset(made, pictures)
    return made


def test_what_was_written_is_read_back(dataset):
    assert read_dataset(dataset.folder) == dataset
    assert dataset.picture("a").size == (8, 6)
    assert [mask.getpixel((0, 0)) for mask in dataset.masks("a")] == [255, 255]


def change(folder: Path, old: str, new: str) -> None:
    text = (folder / FILE).read_text()
    assert old in text
    (folder / FILE).write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"name": "two",', "", "dataset.json has no key 'name'. The format is in docs/bench.md."),
        ('"type": "color",', "", r"'edits'\[1\] \('a-2'\) has no key 'type'. The format"),
        ('"source": "moon",', "", r"'edits'\[1\] \('a-2'\), 'objects'\[0\] has no key 'source'"),
        ('"object": 0', '"object": 2', r"edits objects \[2\], and its image has 2.*from 0 to 1"),
        ('"image": "a"', '"image": "b"', "edit 'a-1': there is no image 'b'. .*there are a"),
        ('"type": "color"', '"type": "size"', "edit 'a-2': there is no type 'size'. Use one of"),
        ('"id": "a-2"', '"id": "a-1"', "edit 'a-1': another edit has this id"),
        ('"id": "a-2"', '"id": "../a"', "edit '../a': .* no file can have it"),
        ('"id": "a-2"', '"id": ""', "edit '': .* no file can have it"),
        ('"name": "two"', '"name": ".."', "dataset.json has a name that no file can have: '..'"),
        (
            '"source": "moon"',
            '"sauce": "moon"',
            r"'edits'\[1\] \('a-2'\), 'objects'\[0\] has a key",
        ),
        ('"frame": 0', '"frames": 0', "'images', 'a' has a key 'frames', which nothing reads"),
        ('"category": ""', '"kategory": ""', "'kategory'.*there are id, image, type, seed"),
        ('"phrase": "moon"', '"phrases": "moon"', r"'objects'\[1\] has a key 'phrases'"),
        ('"about"', '"abuot"', "dataset.json has a key 'abuot', which .*there are format, name"),
        ('{\n      "object": "goat"', '{\n      "objekt": "goat"', "there are object, color, mat"),
        (
            '{\n      "object": "wolf"',
            '{\n      "colour": "wolf"',
            "'attributes' has a key 'colour'",
        ),
        ("ale-edit dataset 1", "ale-edit dataset 9", "its format is 'ale-edit dataset 9'"),
        ('"images": {', '"images": {,', r"is not JSON \(.*line \d+ column \d+"),
        ('"a.png"', '"b.png"', "There is no file .*b.png"),
        (
            '"images": {\n  "a": {',
            '"images": {\n  "a": 5, "b": {',
            "'images' has another form: 'a' is a whole number, not an object",
        ),
        ('"about": {', '"about": 1, "images": {', "json has another form: 'about' is a whole num"),
        ('"seed": 7', '"seed": true', r"'edits'\[0\] \('a-1'\) has .*: 'seed' is True, not a who"),
        ('"seed": 7', '"seed": "7"', "another form: 'seed' is text, not a whole number"),
        ('"tags": []', '"tags": [1]', r"'objects'\[0\] has another form: 'tags'\[0\] is a whole n"),
        ('"tags": []', '"tags": {}', "'tags' is an object, not a list"),
        ('"object": "goat"', '"object": null', "'asked' has another form: 'object' is None, not t"),
        (
            '"edits": [',
            '"edits": [7, ',
            r"json has another form: 'edits'\[0\] is a whole number, n",
        ),
    ],
)
def test_what_is_wrong_is_named(dataset, old, new, expected):
    change(dataset.folder, old, new)
    with pytest.raises(ValueError, match=expected) as caught:
        read_dataset(dataset.folder)
    assert FILE in str(caught.value)


@pytest.mark.parametrize("side", ["source", "target"])
def test_an_object_may_have_one_side_alone(dataset, side):
    edit = dataset.edits[1]
    (o,) = edit.objects
    one_sided = replace(edit, objects=(replace(o, **{side: ""}),))
    write_dataset(replace(dataset, edits=(one_sided,)), {})
    assert read_dataset(dataset.folder).edits == (one_sided,)
    neither = replace(edit, objects=(replace(o, source="", target=" "),))
    write_dataset(replace(dataset, edits=(neither,)), {})
    with pytest.raises(ValueError, match="edit 'a-2': object 1 has neither source nor target. Wri"):
        read_dataset(dataset.folder)


def test_a_mask_of_another_size_is_named(dataset):
    Image.new("L", (8, 7)).save(dataset.folder / "masks" / "moon.png")
    with pytest.raises(ValueError, match="moon.png is 8x7, its image a.png 8x6. Give the mask"):
        read_dataset(dataset.folder)


def test_a_mask_that_marks_nothing_is_named(dataset):
    Image.new("L", (8, 6)).save(dataset.folder / "masks" / "moon.png")
    with pytest.raises(ValueError, match="moon.png is black all over. Paint the object white."):
        read_dataset(dataset.folder)


def test_a_mask_in_an_alpha_channel_is_read_and_one_that_covers_everything_is_told(dataset):
    """The one that covers everything where others are edited with it."""
    drawn = Image.new("L", (8, 6))
    drawn.paste(255, (2, 1, 5, 4))
    white = Image.new("RGB", (8, 6), "white")
    white.putalpha(drawn)
    white.save(dataset.folder / "masks" / "moon.png")
    told: list[str] = []
    again = read_dataset(dataset.folder, told.append)
    assert again.masks("a")[1].tobytes() == drawn.tobytes()
    assert len(told) == 1 and "moon.png has one colour, and is drawn in its alpha" in told[0]
    wolf, moon = (edit.objects[0] for edit in dataset.edits)
    write_dataset(replace(dataset, edits=(replace(dataset.edits[0], objects=(wolf, moon)),)), {})
    told.clear()
    read_dataset(dataset.folder, told.append)
    assert (
        len(told) == 2
        and "wolf.png covers the whole picture, and other objects are edited too" in told[0]
    )


def test_a_mask_that_was_cut_off_is_named(dataset):
    path = dataset.folder / "masks" / "moon.png"
    Image.effect_noise((8, 6), 90).save(path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match="moon.png is not a readable image"):
        read_dataset(dataset.folder)


def test_of_many_names_some_are_listed():
    assert list_some(["a", "b"]) == "a, b"
    assert list_some([str(k) for k in range(22)]).endswith("18, 19 and 2 more")


def test_the_attributes_are_those_that_the_judge_reads():
    assert set(ATTRIBUTES) == set(judging.ATTRIBUTES)


def test_the_texts_example_has_all_keys_and_no_others(tmp_path, dev):
    text = (dev.ROOT / "docs" / "bench.md").read_text(encoding="utf-8")
    (example,) = (
        part for part in re.findall(r"```json\n(.*?)```", text, re.DOTALL) if FORMAT in part
    )
    (tmp_path / FILE).write_text(example)
    Image.new("RGB", (8, 6)).save(_made(tmp_path / "images" / "scene0.png"))
    Image.new("L", (8, 6), 255).save(_made(tmp_path / "masks" / "scene0_0.png"))
    assert [edit.name for edit in read_dataset(tmp_path).edits] == ["scene0-color-1-0"]


def _made(path: Path) -> Path:
    path.parent.mkdir(exist_ok=True)
    return path


def test_a_picture_that_cannot_be_read_is_named(dataset):
    (dataset.folder / "a.png").write_text("no picture")
    with pytest.raises(ValueError, match="a.png is not a readable image"):
        read_dataset(dataset.folder)


def test_a_folder_without_a_data_set_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"There is no data set .*bench dataset ale photos --out"):
        read_dataset(tmp_path / "none")


def test_json_that_is_no_object_is_named(dataset):
    (dataset.folder / FILE).write_text(json.dumps([1]))
    with pytest.raises(ValueError, match="holds a list"):
        read_dataset(dataset.folder)
