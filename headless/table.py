"""Tables of edits: CSV, or JSON Lines, one image with its edits a row.

Columns: image, edits, masks, name, editor, source_prompt, target_prompt, and settings (a name of
SETTINGS, a setting of an editor, or TITLE.INPUT). All problems of a table are found at once.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .editors import require_editor, setting_names
from .edits import PROMPTS, SETTINGS

DELIMITERS = ",;\t"
COLUMNS = ("image", "edits", "masks", "name", "editor", *PROMPTS)
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
BAD_NAME = re.compile(r'[<>:"/\\|?*\x00-\x1f]|^\.|[. ]$|^$')


@dataclass(frozen=True)
class Row:
    """One image to edit. place: where it was asked for, for messages. editor: where it has one of
    its own."""

    place: str
    image: Path
    edits: tuple[tuple[str, str], ...]
    masks: tuple[Path, ...] = ()
    name: str = ""
    prompts: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    editor: str = ""


class Problems(ValueError):
    """Everything that is wrong with the input, a sentence each."""

    def __init__(self, sentences: Sequence[str]):
        super().__init__("\n".join(sentences))
        self.sentences = tuple(sentences)


# -- from a file -----------------------------------------------------------------------------------


def read_table(path: Path) -> list[Row]:
    """The rows of a table; paths in it start from its own folder. Raises Problems."""
    records = list(_records(path))
    if not records:
        raise Problems([f"{path} has no rows. Give one for each image."])
    rows, problems = [], []
    for place, record in records:
        try:
            rows.append(_row(place, record, path.parent))
        except ValueError as error:
            problems.append(f"{place}: {error}")
    if problems:
        raise Problems(problems)
    return rows


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise Problems([f"There is no table {path}. Give its path."]) from None
    except OSError as error:
        raise Problems(
            [f"{path} cannot be read ({error.strerror}). Give a table file that you may read."]
        ) from error
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise Problems([f"{path}, line {line}: not UTF-8. Save the table as UTF-8."]) from error
    kinds = {".csv": _csv, ".tsv": _csv, ".jsonl": _json_lines, ".ndjson": _json_lines}
    if path.suffix.lower() not in kinds:
        raise Problems([f"{path} is neither .csv nor .jsonl. Give it the ending of its format."])
    return kinds[path.suffix.lower()](path, text)


def _csv(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    header = next(filter(_has_text, re.split(r"[\r\n]", text)), "")
    delimiter = max(DELIMITERS, key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] | None = None
    while True:
        place = f"{path}, line {reader.line_num + 1}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise Problems([f"{place}: {error}. Close the quotes of every cell."]) from error
        if cells is None:
            return
        if not any(map(_has_text, cells)):
            continue
        if columns is None:
            columns = [cell.strip() for cell in cells]
            _check_columns(place, columns)
        elif len(cells) != len(columns):
            raise Problems(
                [
                    f"{place}: {len(cells)} cells, and the header has {len(columns)} columns. "
                    f"Put cells that hold {delimiter!r} into quotes."
                ]
            )
        else:
            yield place, {k: v.strip() for k, v in zip(columns, cells, strict=True) if v.strip()}


def _has_text(part: str) -> bool:
    """Whether a line or a cell of a CSV holds more than spaces, delimiters and quotes."""
    return any(not char.isspace() and char not in f'{DELIMITERS}"' for char in part)


def _check_columns(place: str, columns: Sequence[str]) -> None:
    problems = []
    for column in dict.fromkeys(columns):
        if columns.count(column) > 1:
            problems.append(f"{place}: there are {columns.count(column)} columns {column!r}.")
    problems += [f"{place}: {_explain_unknown(c)}" for c in columns if not _is_known(c)]
    problems += [
        f"{place}: there is no column {c!r}. Add it."
        for c in ("image", "edits")
        if c not in columns
    ]
    if problems:
        raise Problems(problems)


def _is_known(column: str) -> bool:
    return column in (*COLUMNS, *SETTINGS, *setting_names()) or "." in column.strip(".")


def _explain_unknown(column: str) -> str:
    names = dict.fromkeys((*COLUMNS, *SETTINGS, *setting_names()))
    return (
        f"there is no column {column!r}. There are: {', '.join(names)}; and TITLE.INPUT for any "
        "input of a node of the workflow."
    )


def _json_lines(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):  # not at U+2028, which JSON may hold
        place = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            record = json.loads(line, object_pairs_hook=_unique)
        except json.JSONDecodeError as error:
            raise Problems(
                [
                    f"{place}, column {error.colno}: not JSON ({error.msg}). Write one JSON object "
                    "per line."
                ]
            ) from error
        except ValueError as error:
            raise Problems([f"{place}: {error}"]) from error
        if not isinstance(record, dict):
            raise Problems(
                [f"{place} holds a {type(record).__name__}. Write one JSON object per line."]
            )
        if problems := [
            f"{place}: {_explain_unknown(key)}" for key in record if not _is_known(key)
        ]:
            raise Problems(problems)
        yield place, {key: value for key, value in record.items() if value is not None}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"the key {twice[0]!r} occurs twice. Keep one.")
    return dict(pairs)


def _row(place: str, record: Mapping[str, Any], folder: Path) -> Row:
    edits = tuple(split_edit(text) for text in _texts(record, "edits"))
    if not edits:
        raise ValueError("edits is empty. Write one 'source -> target' for each object.")
    row = Row(
        place,
        folder / _text(record, "image"),
        edits,
        tuple(folder / mask for mask in _texts(record, "masks")),
        _text(record, "name", ""),
        {key: _text(record, key) for key in PROMPTS if key in record},
        {key: _plain(key, value) for key, value in record.items() if key not in COLUMNS},
        require_editor(_text(record, "editor")) if "editor" in record else "",
    )
    check_row(row)
    return row


def _text(record: Mapping[str, Any], key: str, default: str | None = None) -> str:
    value = record.get(key, default)
    if not isinstance(value, str) or (default is None and not value.strip()):
        raise ValueError(
            f"{key} is {value!r}. Write text." if key in record else f"there is no {key}. Add it."
        )
    return value.strip()


def _texts(record: Mapping[str, Any], key: str) -> list[str]:
    """A list of JSON, or one text: a line each, or else separated by semicolons."""
    value = record.get(key, [])
    if isinstance(value, str):
        value = value.split("\n" if "\n" in value else ";")
        value = [part for part in value if part.strip()]
    if not isinstance(value, list) or not all(isinstance(v, str) and v.strip() for v in value):
        raise ValueError(f"{key} is {value!r}. Write a list of texts.")
    return [part.strip() for part in value]


def _plain(key: str, value: Any) -> Any:
    if not isinstance(value, str | int | float):
        raise ValueError(f"{key} is {value!r}. Write a number, true, false, or text.")
    return value


def split_edit(text: str) -> tuple[str, str]:
    """(source, target) of "source -> target", each as one line; one of them may be empty."""
    parts = text.partition("->")
    source, arrow, target = (" ".join(part.strip().splitlines()) for part in parts)
    if not arrow or not (source or target):
        raise ValueError(
            f"the edit {text!r} is not of the form 'source -> target', such as "
            "'wolf -> brown-colored goat'. One side may be empty: 'wolf ->' removes the wolf."
        )
    if "->" in target:
        raise ValueError(f"the edit {text!r} has two arrows. Separate edits by ';' or line ends.")
    if source.startswith("#"):
        raise ValueError(
            f"the edit {text!r} begins with #, which marks a comment in Edit List. Remove it."
        )
    return source, target


# -- from options ----------------------------------------------------------------------------------


def rows_of(
    image: Path, edits: Sequence[tuple[str, str]], masks: Sequence[Path], name: str = ""
) -> list[Row]:
    """The same edits of one image, or of every image of a folder. name: of one image's result.

    The masks of a folder are folders, too: one for each edit, with files named like the images.
    """
    if not image.is_dir():
        row = Row(str(image), image, tuple(edits), tuple(masks), name)
        check_row(row)
        return [row]
    if name:
        raise Problems(
            [f"--name is for one image, and {image} is a folder. Name results in a table."]
        )
    images = [p for p in sorted(image.iterdir()) if _is_picture(p)]
    if not images:
        raise Problems([f"There is no image in {image} ({', '.join(SUFFIXES)})."])
    rows, problems = [], []
    for path in images:
        try:
            own = tuple(_like(path, folder) for folder in masks)
            row = Row(str(path), path, tuple(edits), own)
            check_row(row)
            rows.append(row)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise Problems(list(dict.fromkeys(problems)))
    return rows


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _like(image: Path, folder: Path) -> Path:
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder. For a folder of images, give one of masks.")
    found = [p for p in sorted(folder.iterdir()) if p.stem == image.stem and _is_picture(p)]
    if len(found) != 1:
        count = "no mask" if not found else f"{len(found)} masks"
        raise ValueError(f"{folder} has {count} for {image.name}. Give one of that name.")
    return found[0]


# -- all rows --------------------------------------------------------------------------------------


def check_row(row: Row) -> None:
    if row.masks and len(row.masks) != len(row.edits):
        raise ValueError(
            f"{len(row.edits)} edits and {len(row.masks)} masks. Give one mask for each edit, in "
            "the same order, or none, to have the objects found from their words."
        )
    if row.name and BAD_NAME.search(row.name):
        raise ValueError(f"the name {row.name!r} cannot be that of a file. Use letters and digits.")


def name_rows(rows: Sequence[Row]) -> list[Row]:
    """Every row with a name of its own: the one given, else its image's, numbered if need be."""
    taken = [row.name.casefold() for row in rows if row.name]
    if twice := [row for row in rows if row.name and taken.count(row.name.casefold()) > 1]:
        places = ", ".join(row.place for row in twice)
        raise Problems(
            [f"The name {twice[0].name!r} occurs more than once: {places}. Give each row its own."]
        )
    seen, result = set(taken), []
    for row in rows:
        if not row.name:
            stem = re.sub(BAD_NAME, "_", row.image.stem)
            number, name = 1, stem
            while name.casefold() in seen:
                number += 1
                name = f"{stem}-{number}"
            seen.add(name.casefold())
            row = replace(row, name=name)
        result.append(row)
    return result
