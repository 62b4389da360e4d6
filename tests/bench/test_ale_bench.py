"""A folder of images, masks and words as a data set of ALE-Bench's construction."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ale_edit.bench.ale_bench import WORDS, ale_bench
from ale_edit.bench.dataset import FILE, read_dataset
from ale_edit.bench.make_dataset import main
from ale_edit.tests.bench.samples import ale_sample


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return ale_sample(tmp_path / "photos", range(2))


def words(folder: Path, **changes: Any) -> None:
    path = folder / WORDS
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_every_image_gets_five_types_times_three_counts_times_ten_instances(folder, tmp_path):
    dataset = ale_bench(folder, tmp_path / "out", "mine")
    assert len(dataset.edits) == 2 * 5 * 3 * 10
    assert {(e.image, e.edit_type, len(e.objects)) for e in dataset.edits} == {
        (image, kind, count)
        for image in ("photo0", "photo1")
        for kind in ("color", "object", "material", "color and object", "object and material")
        for count in (1, 2, 3)
    }
    for name, image in dataset.images.items():
        assert [o.phrase for o in image.objects] == sorted(o.phrase for o in image.objects)
        for o, mask in zip(image.objects, dataset.masks(name), strict=True):
            with Image.open(folder / "masks" / name / f"{o.phrase}.png") as own:
                assert own.convert("L").tobytes() == mask.tobytes()
        with Image.open(folder / f"{name}.png") as own:
            assert own.convert("RGB").tobytes() == dataset.picture(name).tobytes()


def test_the_seed_makes_the_same_files_again_and_another_others(folder, tmp_path):
    options = {"counts": (1, 2), "instances": 2}
    first = ale_bench(folder, tmp_path / "a", "mine", **options)
    again = ale_bench(folder, tmp_path / "b", "mine", **options)
    other = ale_bench(folder, tmp_path / "c", "mine", seed=1, **options)
    texts = [(d.folder / FILE).read_bytes() for d in (first, again, other)]
    assert texts[0] == texts[1] != texts[2]
    assert [e.name for e in first.edits] == [e.name for e in other.edits]


def test_an_object_never_becomes_what_it_is_known_to_be(folder, tmp_path):
    dataset = ale_bench(folder, tmp_path / "out", "mine")
    for edit in dataset.edits:
        for o in edit.objects:
            was = dataset.images[edit.image].objects[o.number].attributes
            for attribute in edit.edit_type.split(" and "):
                assert o.asked[attribute] != was[attribute]


def test_nothing_need_be_known_of_what_objects_are_now(folder, tmp_path):
    words(folder, present={})
    dataset = ale_bench(folder, tmp_path / "out", "mine", instances=1)
    assert len(dataset.edits) == 30
    known = [o.attributes for image in dataset.images.values() for o in image.objects]
    assert all(set(attributes) == {"object"} for attributes in known)


def test_a_new_list_of_words_says_what_is_wrong_with_it(folder, tmp_path):
    def error(**changes: Any) -> str:
        words(folder, **changes)
        with pytest.raises(ValueError) as caught:
            ale_bench(folder, tmp_path / "out", "mine")
        return str(caught.value)

    kept = json.loads((folder / WORDS).read_text())
    assert "has another form: 'colors'[1] is a whole number, not text" in error(colors=["red", 1])
    assert "A list of words that objects can become is empty" in error(colors=[])
    assert "attributes.json does not say what '" in error(**{**kept, "objects": {}})
    wrong = {"photo0": {"wolf": {"color": "gray"}}}
    expected = "knows an object 'wolf' of image 'photo0', which has no such mask. It has "
    assert expected in error(**{**kept, "present": wrong})
    expected = "knows an image 'szene0' in 'present', which .* does not have. .* photo0, photo1."
    assert re.search(expected, error(present={"szene0": {}}))
    wrong = {"photo0": {"ball": {"colour": "gray"}}}
    expected = "'present', 'photo0', 'ball' has a key 'colour', which nothing reads. Correct it; "
    assert expected + "there are object, color, material." in error(present=wrong)
    assert "attributes.json has a key 'colours', which nothing reads" in error(colours=["red"])


def test_a_mask_that_marks_nothing_is_named(folder, tmp_path):
    mask = next((folder / "masks" / "photo0").glob("*.png"))
    Image.new("L", (128, 128), 127).save(mask)
    with pytest.raises(ValueError, match=f"{mask.name} is not a mask: 100% of it is grey"):
        ale_bench(folder, tmp_path / "out", "mine")
    Image.new("L", (128, 128)).save(mask)
    with pytest.raises(ValueError, match=f"{mask.name} is black all over. Paint the object"):
        ale_bench(folder, tmp_path / "out", "mine")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_else_is_not_written_to(folder, tmp_path):
    out = tmp_path / "out"
    ale_bench(folder, out, "mine", instances=1)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (out / "images" / "photo0.png").rename(out / "images" / "photo0.png.part")  # of a killed run
    ale_bench(folder, out, "mine", instances=1)
    with pytest.raises(ValueError, match="out holds dataset.json already, .* Give a new folder"):
        ale_bench(folder, out, "mine", instances=2)
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    (tmp_path / "empty").mkdir()
    assert ale_bench(folder, tmp_path / "empty", "mine", instances=1).edits
    with pytest.raises(ValueError, match="photos holds attributes.json already"):
        ale_bench(folder, folder, "mine", instances=1)


def test_files_that_are_missing_are_named(folder, tmp_path):
    def error() -> str:
        with pytest.raises(ValueError) as caught:
            ale_bench(folder, tmp_path / "out", "mine")
        return str(caught.value)

    words(folder, present={})
    mask = next((folder / "masks" / "photo0").glob("*.png"))
    mask.unlink()
    assert "Image 'photo0' has 2 objects, and edits of 3 were asked for" in error()
    Image.new("L", (5, 5), 255).save(mask)
    assert f"{mask} is 5x5, its image photo0.png 128x128. Give the mask" in error()
    assert not (tmp_path / "out").exists()
    for other in (folder / "masks" / "photo0").glob("*.png"):
        other.unlink()
    assert "There is no mask of photo0.png. Put one for each" in error()
    Image.new("RGB", (8, 8)).save(folder / "photo0.jpg")
    assert "photo0.jpg and photo0.png have one name" in error()
    for image in (*folder.glob("*.png"), *folder.glob("*.jpg")):
        image.unlink()
    assert "holds no image" in error()
    (folder / WORDS).unlink()
    assert "There is no file of attributes" in (found := error())
    assert found.endswith("Write it: docs/bench.md, Your own images.")


def test_the_command_makes_it(folder, tmp_path, capsys):
    argv = ["ale", str(folder), "--out", str(tmp_path / "set"), "--counts", "2", "--instances", "1"]
    assert main(argv) == 0
    assert "10 edits of 2 images" in capsys.readouterr().out
    assert {len(e.objects) for e in read_dataset(tmp_path / "set").edits} == {2}
    assert main(["ale", str(tmp_path / "none"), "--out", str(tmp_path / "x")]) == 1
    assert "There is no folder" in capsys.readouterr().err
