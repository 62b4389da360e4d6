"""Tables: what they say, and every way in which they can be wrong, with its line."""

import json
import re
from pathlib import Path

import pytest

from ale_edit.headless.table import Problems, name_rows, read_table, rows_of, split_edit
from ale_edit.tests.headless.inputs import write_inputs


def table(tmp_path: Path, text: str, name: str = "edits.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8"))
    return path


def problem(tmp_path: Path, text: str, name: str = "edits.csv") -> str:
    with pytest.raises(Problems) as caught:
        read_table(table(tmp_path, text, name))
    return str(caught.value)


CSV = (
    "image,edits,masks,type,seed,name,source_prompt,Guider.target_guidance\n"
    'a.png,"wolf -> goat; moon -> soccer ball","w.png; m.png",color,7,first,a wolf,4.5\n'
    "\n"
    'b.png,"cat -> a dog, big\nsofa -> bed",,,,,,\n'
)


def test_a_csv_table_gives_rows_with_paths_from_its_own_folder(tmp_path):
    first, second = read_table(table(tmp_path, CSV))
    assert first.image == tmp_path / "a.png"
    assert first.edits == (("wolf", "goat"), ("moon", "soccer ball"))
    assert first.masks == (tmp_path / "w.png", tmp_path / "m.png")
    assert first.settings == {"type": "color", "seed": "7", "Guider.target_guidance": "4.5"}
    assert first.prompts == {"source_prompt": "a wolf"} and first.name == "first"
    assert second.edits == (("cat", "a dog, big"), ("sofa", "bed"))
    assert second.masks == () and second.settings == {} and second.prompts == {}
    assert first.place.endswith("edits.csv, line 2") and second.place.endswith("line 4")


@pytest.mark.parametrize("text", [CSV.replace("\n", "\r\n"), "\ufeff" + CSV])
def test_files_as_spreadsheets_save_them_are_the_same(tmp_path, text):
    assert [r.edits for r in read_table(table(tmp_path, text))] == [
        (("wolf", "goat"), ("moon", "soccer ball")),
        (("cat", "a dog, big"), ("sofa", "bed")),
    ]


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters_are_seen_in_the_first_line(tmp_path, delimiter):
    text = delimiter.join(["image", "edits", "seed"]) + "\n"
    text += delimiter.join(["a.png", '"a -> b; c -> d"', "1"])
    blank = ("", "\n", " \t\n\n", 2 * delimiter + "\n", f'""{delimiter}""{delimiter}""\n')
    odd = ("\u2028\n", "\u2029, \x85\xa0\n", "\x0b\x0c\x1c\n", '""""\n', ',;"\t,"\n')
    for before in (*blank, *odd):
        (row,) = read_table(table(tmp_path, before + text))
        assert row.edits == (("a", "b"), ("c", "d")) and row.settings == {"seed": "1"}
        assert row.place.endswith(f"line {before.count(chr(10)) + 2}")


def test_json_lines_give_the_same_rows_with_typed_settings(tmp_path):
    record = {
        "image": "a.png",
        "edits": ["wolf -> goat", "moon; full -> ball"],
        "masks": ["w.png", "m.png"],
        "seed": 7,
        "type": None,
    }
    (row,) = read_table(table(tmp_path, json.dumps(record) + "\n\n", "edits.jsonl"))
    assert row.edits == (("wolf", "goat"), ("moon; full", "ball"))
    assert row.masks == (tmp_path / "w.png", tmp_path / "m.png")
    assert row.settings == {"seed": 7}


# all that str.splitlines takes for the end of a line, and JSON does not
ENDS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


@pytest.mark.parametrize("end", ENDS[-3:])
def test_json_lines_end_where_json_says_so(tmp_path, end):
    lines = [
        json.dumps({"image": "a.png", "edits": [f"wolf{end}-> grey{end}goat"]}, ensure_ascii=False),
        json.dumps({"image": f"b{end}c.png", "edits": "x -> y", "source_prompt": f"an{end}x"}),
    ]
    assert end in lines[0]
    first, second = read_table(table(tmp_path, "\r\n".join(lines) + "\n", "edits.jsonl"))
    assert first.edits == (("wolf", "grey goat"),)
    assert second.image.name == f"b{end}c.png" and second.prompts == {"source_prompt": f"an{end}x"}
    assert (first.place[-6:], second.place[-6:]) == ("line 1", "line 2")
    wrong = problem(tmp_path, lines[0] + "\n{", "edits.jsonl")
    assert "line 2, column 2: not JSON" in wrong


@pytest.mark.parametrize("end", ENDS)
def test_an_edit_stays_one_line_of_edit_list(end):
    """Which splits its text as str.splitlines does."""
    source, target = split_edit(f"{end}big{end}wolf{end} -> {end}goat")
    assert (source, target) == ("big wolf", "goat") and len(f"{source}{target}".splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "has no rows"),
        ("image,edits\n", "has no rows"),
        ("image,edits,colour\na.png,a -> b,1\n", "line 1: there is no column 'colour'. There are"),
        ("image,edits,image\n", "line 1: there are 2 columns 'image'"),
        ("image,masks\n", "line 1: there is no column 'edits'"),
        ("image,edits\na.png,a -> b\nb.png\n", "line 3: 1 cells, and the header has 2"),
        ("image,edits\na.png,a -> b, c\n", "line 2: 3 cells.*into quotes"),
        ('image,edits\n"a.png,a -> b\n', "line 2: .*Close the quotes"),
        ("image,edits\na.png,a to b\n", "line 2: the edit 'a to b' is not of the form"),
        ("image,edits\na.png,\n", "line 2: edits is empty"),
        ("image,edits\n,a -> b\n", "line 2: there is no image"),
        ("image,edits,masks\na.png,a -> b,m.png;n.png\n", "line 2: 1 edits and 2 masks"),
        ("image,edits,name\na.png,a -> b,x/y\n", "line 2: the name 'x/y' cannot be"),
    ],
)
def test_a_wrong_csv_table_is_told_with_line_and_cure(tmp_path, text, expected):
    assert re.search(expected, problem(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"image": "a.png", "edits": ["a -> b"]}\n{"image": "b.png",}', "line 2, column 19: not "),
        ("[]", "line 1 holds a list. Write one JSON object per line"),
        ('{"image": "a", "edit": "a -> b"}', "line 1: there is no column 'edit'"),
        ('{"image": "a", "image": "b", "edits": "a -> b"}', "the key 'image' occurs twice"),
        ('{"image": 3, "edits": "a -> b"}', "image is 3. Write text"),
        ('{"image": "a", "edits": [1]}', "edits is [1]. Write a list of texts"),
        ('{"image": "a", "edits": "a -> b", "seed": [1]}', "seed is [1]. Write a number"),
        ('{"edits": "a -> b"}', "there is no image. Add it"),
    ],
)
def test_wrong_json_lines_are_told_with_line_and_key(tmp_path, text, expected):
    assert expected in problem(tmp_path, text, "edits.jsonl")


def test_all_wrong_rows_are_told_at_once(tmp_path):
    text = "image,edits\na.png,nonsense\nb.png,a -> b\nc.png,->\n"
    assert [line.split(":")[0][-6:] for line in problem(tmp_path, text).splitlines()] == [
        "line 2",
        "line 4",
    ]


def test_a_table_that_is_not_there_or_of_another_kind_or_encoding_is_told(tmp_path):
    with pytest.raises(Problems, match="There is no table"):
        read_table(tmp_path / "none.csv")
    assert "neither .csv nor .jsonl" in problem(tmp_path, "x", "edits.xlsx")
    (tmp_path / "latin.csv").write_bytes("image,edits\na.png,gr\xfcn -> rot\n".encode("latin-1"))
    with pytest.raises(Problems, match="line 2: not UTF-8"):
        read_table(tmp_path / "latin.csv")


def test_rows_without_a_name_get_their_images_numbered_where_needed(tmp_path):
    text = "image,edits,name\nx/a.png,a -> b,\ny/a.png,a -> b,\nz/A.png,a -> b,\nq.png,a -> b,a-2\n"
    assert [row.name for row in name_rows(read_table(table(tmp_path, text)))] == [
        "a",
        "a-3",
        "A-4",
        "a-2",
    ]


def test_a_name_given_twice_is_told_also_in_another_case(tmp_path):
    rows = read_table(table(tmp_path, "image,edits,name\na,a -> b,One\nb,a -> b,one\n"))
    with pytest.raises(
        Problems, match="'One' occurs more.*line 2, .*line 3. Give each row its own."
    ):
        name_rows(rows)


def test_a_folder_of_images_takes_masks_of_the_same_names(tmp_path):
    write_inputs(tmp_path / "in", 2)
    masks = tmp_path / "masks"
    masks.mkdir()
    for number in range(2):
        (tmp_path / "in" / f"m{number}.png").rename(masks / f"p{number}.png")
    (tmp_path / "in" / "notes.txt").write_text("not an image")
    rows = rows_of(tmp_path / "in", [("a", "b")], [masks])
    assert [(r.image.name, [m.name for m in r.masks]) for r in rows] == [
        ("p0.png", ["p0.png"]),
        ("p1.png", ["p1.png"]),
    ]
    (masks / "p1.png").unlink()
    with pytest.raises(Problems, match=r"masks has no mask for p1.png"):
        rows_of(tmp_path / "in", [("a", "b")], [masks])
    with pytest.raises(Problems, match="There is no image in"):
        rows_of(tmp_path / "masks" / "..", [("a", "b")], [])


@pytest.mark.parametrize("text", ["a", "->", " -> "])
def test_an_edit_needs_an_arrow_and_a_side(text):
    with pytest.raises(ValueError, match="source -> target"):
        split_edit(text)


def test_a_table_may_add_and_remove_objects(tmp_path):
    expected = (("a wolf", ""), ("", "a hat"), ("box", "nothing"))
    rows = [{"image": "a.png", "edits": ["a wolf ->", " -> a hat", "box -> nothing"]}]
    csv = 'image,edits\na.png,"a wolf -> ; -> a hat; box -> nothing"\n'
    for text, name in ((csv, "edits.csv"), (json.dumps(rows[0]), "edits.jsonl")):
        (row,) = read_table(table(tmp_path, text, name))
        assert row.edits == expected


def test_an_edit_has_one_arrow():
    with pytest.raises(ValueError, match="has two arrows. Separate edits by ';'"):
        split_edit("wolf -> goat moon -> ball")
    with pytest.raises(ValueError, match="begins with #, which marks a comment in Edit List"):
        split_edit("# wolf -> goat")
