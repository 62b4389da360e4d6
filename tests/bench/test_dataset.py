"""Data sets on disk: written and read back, and every way in which one can be wrong is named."""

import json
from pathlib import Path

import pytest
from PIL import Image

from ale_edit.bench.dataset import (
    FILE,
    Dataset,
    ImageEdit,
    ImageObject,
    ObjectEdit,
    SourceImage,
    read_dataset,
    write_dataset,
)


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
        ('"name"', '"title"', "no key 'name'"),
        ('"type"', '"kind"', "no key 'type'"),
        ('"object": 0', '"object": 2', r"edits objects \[2\], and its image has 2.*from 0 to 1"),
        ('"image": "a"', '"image": "b"', "edit 'a-1': there is no image 'b'"),
        ('"type": "color"', '"type": "size"', "edit 'a-2': there is no type 'size'. Use one of"),
        ('"id": "a-2"', '"id": "a-1"', "edit 'a-1': ids must differ"),
        ('"id": "a-2"', '"id": "../a"', "serve as file names"),
        ("ale-edit dataset 1", "ale-edit dataset 9", "its format is 'ale-edit dataset 9'"),
        ('"images": {', '"images": {,', r"is not JSON \(.*line \d+ column \d+"),
        ('"a.png"', '"b.png"', "There is no file .*b.png"),
        ('"images": {\n  "a": {', '"images": {\n  "a": 5, "b": {', "another form"),
    ],
)
def test_what_is_wrong_is_named(dataset, old, new, expected):
    change(dataset.folder, old, new)
    with pytest.raises(ValueError, match=expected) as caught:
        read_dataset(dataset.folder)
    assert FILE in str(caught.value)


def test_a_mask_of_another_size_is_named(dataset):
    Image.new("L", (8, 7)).save(dataset.folder / "masks" / "moon.png")
    with pytest.raises(ValueError, match="moon.png is 8x7, its image a.png 8x6. Give the mask"):
        read_dataset(dataset.folder)


def test_a_picture_that_cannot_be_read_is_named(dataset):
    (dataset.folder / "a.png").write_text("no picture")
    with pytest.raises(ValueError, match="a.png is no image that can be read"):
        read_dataset(dataset.folder)


def test_a_folder_without_a_data_set_is_named(tmp_path):
    with pytest.raises(ValueError, match="There is no data set"):
        read_dataset(tmp_path / "none")


def test_json_that_is_no_object_is_named(dataset):
    (dataset.folder / FILE).write_text(json.dumps([1]))
    with pytest.raises(ValueError, match="holds a list"):
        read_dataset(dataset.folder)
