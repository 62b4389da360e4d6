"""A job replaces the files that it wrote itself, and no others."""

import json
import os
from pathlib import Path

import pytest
from PIL import Image

from ale_edit.bench.ledger import LEDGER, check_places
from ale_edit.bench.main_job import write_files
from ale_edit.bench.options import demo_arguments, demo_files, scenes_arguments

SAYS = "is there, and no earlier run of this command wrote it. Give another --out"
OWN = ["--edit", "a -> b", "--edit", "c -> d"]


def demo(out: Path, *more: str) -> list[str]:
    return ["--out", str(out), "--server", "http://127.0.0.1:1", *more]


@pytest.mark.parametrize("name", demo_files(2))
def test_the_demo_refuses_a_folder_with_a_file_of_somebody_else(tmp_path, name):
    (tmp_path / name).write_text("precious")
    with pytest.raises(ValueError, match=f"{name} {SAYS}"):
        demo_arguments(demo(tmp_path))
    with pytest.raises(ValueError, match=f"{name} {SAYS}"):
        write_files(tmp_path, {name: b"new"})
    assert (tmp_path / name).read_text() == "precious" and not (tmp_path / LEDGER).exists()


@pytest.mark.parametrize("name", ["comparison.png", "scenes.json", "scene1/source.png"])
def test_the_scenes_refuse_a_folder_with_a_file_of_somebody_else(tmp_path, name):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("precious")
    with pytest.raises(ValueError, match=SAYS):
        scenes_arguments([*demo(tmp_path), "--count", "2"])
    assert scenes_arguments([*demo(tmp_path / "new"), "--count", "2"]).count == 2


def test_the_third_mask_counts_only_where_there_is_one(tmp_path):
    Image.new("RGBA", (8, 8)).save(tmp_path / "mask_3.png")
    photo, mask = tmp_path / "photo.png", tmp_path / "m.png"
    for path in (photo, mask):
        Image.new("L", (8, 8)).save(path)
    argv = [*demo(tmp_path), "--image", str(photo)]
    two = [*argv, *OWN, *["--mask", str(mask)] * 2]
    assert demo_arguments(two).image == photo
    with pytest.raises(ValueError, match="mask_3.png is there"):
        demo_arguments([*two, "--edit", "e -> f", "--mask", str(mask)])


@pytest.mark.parametrize("is_linked", [False, True])
def test_an_input_is_not_replaced_even_where_the_demo_wrote_it(tmp_path, is_linked):
    made = {"source.png": b"picture", "mask_1.png": b"mask"}
    write_files(tmp_path, made)
    source = tmp_path / "source.png"
    if is_linked:
        source = tmp_path / "link.png"
        os.symlink("source.png", source)
    argv = demo(tmp_path, "--image", str(source), "--edit", "a -> b")
    with pytest.raises(ValueError, match="source.png is an input, and would be overwritten"):
        demo_arguments([*argv, "--mask", str(tmp_path / "mask_1.png")])


def test_a_job_replaces_what_it_wrote_itself_as_often_as_it_runs(tmp_path):
    for data in (b"first", b"second", b"second", b"third"):
        check_places(tmp_path, ["a.png", "b.json"])
        write_files(tmp_path, {"a.png": data, "b.json": b"{}"})
        assert (tmp_path / "a.png").read_bytes() == data
    assert len(json.loads((tmp_path / LEDGER).read_text())["a.png"]) <= 2


def test_a_file_that_somebody_changed_since_is_kept(tmp_path):
    write_files(tmp_path, {"a.png": b"first"})
    (tmp_path / "a.png").write_bytes(b"painted over")
    with pytest.raises(ValueError, match=SAYS):
        write_files(tmp_path, {"a.png": b"second"})
    assert (tmp_path / "a.png").read_bytes() == b"painted over"
    (tmp_path / "a.png").unlink()
    write_files(tmp_path, {"a.png": b"second"})


def test_a_run_that_was_killed_while_it_wrote_can_be_given_again(tmp_path, monkeypatch):
    write_files(tmp_path, {"a.png": b"1", "b.png": b"1"})
    with monkeypatch.context() as patch:

        def fail_at_last(path: Path, data: bytes) -> None:
            if path.name == "b.png":
                raise KeyboardInterrupt
            path.write_bytes(data)

        patch.setattr("ale_edit.bench.main_job.write_whole", fail_at_last)
        with pytest.raises(KeyboardInterrupt):
            write_files(tmp_path, {"a.png": b"2", "b.png": b"2"})
    write_files(tmp_path, {"a.png": b"3", "b.png": b"3"})
    assert [(tmp_path / name).read_bytes() for name in ("a.png", "b.png")] == [b"3", b"3"]


def test_folders_and_links_in_the_place_of_a_file_are_kept(tmp_path):
    (tmp_path / "source.png").mkdir()
    with pytest.raises(ValueError, match=f"source.png {SAYS}"):
        demo_arguments(demo(tmp_path))
    os.symlink("nowhere", tmp_path / "a.png")
    with pytest.raises(ValueError, match=f"a.png {SAYS}"):
        write_files(tmp_path, {"a.png": b"new"})


@pytest.mark.parametrize("text", ["", "[]", '{"a.png": 3}', "{"])
def test_a_damaged_ledger_is_one_sentence(tmp_path, text):
    (tmp_path / LEDGER).write_text(text)
    with pytest.raises(ValueError, match=f"{LEDGER} is damaged: .* Give another --out"):
        check_places(tmp_path, ["a.png"])
