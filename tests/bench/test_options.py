"""The arguments of the jobs over HTTP, and a person's own pictures."""

import argparse
import os
from pathlib import Path

import pytest
from PIL import Image

from ale_edit.bench import options, own_input
from ale_edit.bench.options import (
    JOBS,
    demo_arguments,
    scenes_arguments,
)
from ale_edit.bench.parsers import EDIT_TYPES, VARIANTS
from ale_edit.editors.ale import SCHEDULES
from ale_edit.headless import table
from ale_edit.prompts import edits as prompts


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Pictures under the names that argument lists of a test give them."""
    sizes = {"image": (40, 20), "mask": (40, 20), "half": (20, 10), "tall": (20, 40)}
    found = {
        name: tmp_path / f"{name}.png" for name in (*sizes, "all", "black", "text", "cut", "none")
    }
    for name, size in sizes.items():
        picture = Image.new("L", size, 200 if name == "image" else 255)
        picture.paste(0 if name != "image" else 200, (0, 0, 3, 3))
        picture.save(found[name])
    for name, value in (("all", 255), ("black", 0)):
        Image.new("L", (40, 20), value).save(found[name])
    found["text"].write_text("no image")
    found["cut"].write_bytes(found["image"].read_bytes()[:50])
    return {**found, "folder": tmp_path}


def filled(argv: list[str], files: dict[str, Path]) -> list[str]:
    return [word.format(**files) for word in argv]


IMAGE = ["--image", "{image}"]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--image", "{none}", "--edit", "a -> b", "--mask", "{mask}"], "There is no file .*none"),
        ([*IMAGE, "--edit", "a -> b", "--mask", "{none}"], r"no file .*none.*\(--mask\)"),
        ([*IMAGE, "--edit", "a -> b", "--mask", "{folder}"], "is a folder. Give an image file"),
        ([*IMAGE, "--edit", "a -> b"], "1 times --edit and 0 times --mask. Give each"),
        (IMAGE, "0 times --edit and 0 times --mask"),
        ([*IMAGE, "--edit", "a to b", "--mask", "{mask}"], "'a to b' is not of the form"),
        ([*IMAGE, "--edit", "a -> ", "--mask", "{mask}"], "not of the form"),
        (["--edit", "a -> b"], "go with --image"),
        (["--mask", "{mask}"], "go with --image"),
        (["--out", "{text}"], "--out .*text.png is a file. Give another folder"),
        (["--out", "{text}/deeper"], "text.png is a file"),
    ],
)
def test_a_wrong_value_is_one_sentence(files, argv, expected):
    with pytest.raises(ValueError, match=expected):
        demo_arguments(filled(argv, files))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs file permissions")
def test_a_file_that_may_not_be_read_is_one_sentence(files):
    files["image"].chmod(0)
    with pytest.raises(ValueError, match="cannot be opened"):
        demo_arguments(filled([*IMAGE, "--edit", "a -> b", "--mask", "{mask}"], files))


@pytest.mark.parametrize(
    ("job", "argv", "expected"),
    [
        ("demo", ["--seed", "-1"], "'-1' is not a whole number from 0 on"),
        ("demo", ["--edit-type", "size"], "invalid choice: 'size'"),
        ("demo", ["--imag", "x"], "unrecognized arguments: --imag x"),
        ("bench scenes", ["--count", "0"], "'0' is not a whole number from 1 on"),
        ("bench scenes", ["--first", "one"], "'one' is not a whole number from 0 on"),
    ],
)
def test_a_wrong_option_is_argparses_error(capsys, job, argv, expected):
    with pytest.raises(SystemExit) as caught:
        JOBS[job](argv)
    assert caught.value.code == 2
    assert expected in capsys.readouterr().err


def test_edits_come_as_source_and_target_in_order(files):
    argv = [*IMAGE, "--edit", "a cat->a dog", "--mask", "{mask}", "--edit", " x -> y ", "--mask"]
    args = demo_arguments(filled([*argv, "{half}"], files))
    assert args.edit == [("a cat", "a dog"), ("x", "y")]
    assert args.mask == [files["mask"], files["half"]]


def test_without_options_a_demo_scene_and_a_server_of_its_own_are_meant():
    args = demo_arguments([])
    assert (args.image, args.seed, args.server) == (None, 0, "")
    assert (scenes_arguments([]).first, scenes_arguments([]).count) == (0, 10)


def test_help_shows_the_options_of_dev_py_too(capsys):
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--comfyui")
    with pytest.raises(SystemExit):
        demo_arguments(["--help"], [own])
    shown = capsys.readouterr().out
    assert "--comfyui" in shown and "--image" in shown


def test_the_choices_are_those_of_the_nodes():
    assert VARIANTS == prompts.VARIANTS
    assert set(EDIT_TYPES) == {*SCHEDULES, "custom"}


def read(files: dict[str, Path], image: str, mask: str) -> tuple[int, str]:
    told: list[str] = []
    argv = ["--image", str(files[image]), "--edit", "a -> b", "--mask", str(files[mask])]
    picture, masks = own_input.own_input(demo_arguments(argv), told.append)
    assert picture.mode == "RGB" and [m.size for m in masks] == [picture.size]
    return own_input.main(argv), " ".join(told)


def test_a_mask_of_another_size_is_resized_and_that_is_told(files):
    assert read(files, "image", "mask") == (0, "")
    code, told = read(files, "image", "half")
    assert code == 0
    assert "half.png is 20x10: resized to 40x20" in told


def test_a_mask_that_covers_everything_is_told(files):
    code, alone = read(files, "image", "all")
    assert code == 0 and "all.png covers the whole picture. Is it the right file?" in alone
    argv = ["--image", str(files["image"])]
    for name in ("all", "mask"):
        argv += ["--edit", "a -> b", "--mask", str(files[name])]
    told: list[str] = []
    own_input.own_input(demo_arguments(argv), told.append)
    assert (
        len(told) == 1
        and "all.png covers the whole picture, and other objects are edited too" in told[0]
    )


@pytest.mark.parametrize(
    ("image", "mask", "expected"),
    [
        ("image", "tall", "tall.png is 20x40, the image 40x20: their shapes differ"),
        ("image", "text", "text.png is not a readable image"),
        ("image", "image", "image.png is not a mask: 100% of it is grey"),
        ("image", "black", "black.png is black all over"),
        ("cut", "mask", "cut.png is not a readable image"),
        ("none", "mask", "There is no file"),
    ],
)
def test_pictures_that_cannot_be_used_are_one_line_and_an_exit_code(
    files, capsys, image, mask, expected
):
    argv = ["--image", str(files[image]), "--edit", "a -> b", "--mask", str(files[mask])]
    assert own_input.main(argv) == 1
    shown = capsys.readouterr()
    assert expected in shown.err and shown.err.count("\n") == 1
    assert not shown.out


@pytest.mark.parametrize(
    "text",
    [
        "wolf -> goat",
        " a b->c ",
        "a -> b -> c",
        "# a -> b",
        "wolf",
        "",
        "a - > b",
    ],
)
def test_an_edit_is_split_here_as_in_a_table(text):
    found = []
    for split in (options.split_edit, table.split_edit):
        try:
            found.append(split(text))
        except ValueError:
            found.append(None)
    assert found[0] == found[1]
