"""Pictures, masks and tables for the tests of edit.py's parts."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

SIZE = (24, 16)


def write_inputs(folder: Path, count: int) -> list[dict[str, str]]:
    """Images p0.png ... with a mask m0.png ... each, and a row of a table for each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", SIZE, (number, 60, 90)).save(folder / f"p{number}.png")
        write_mask(folder / f"m{number}.png", (number % 8, 2, number % 8 + 6, 10))
    return [
        {"image": f"p{n}.png", "edits": "box -> ring", "masks": f"m{n}.png"} for n in range(count)
    ]


def write_mask(path: Path, box: tuple[int, int, int, int], size: tuple[int, int] = SIZE) -> None:
    mask = Image.new("L", size)
    mask.paste(255, box)
    mask.save(path)


def write_csv(path: Path, rows: Sequence[Mapping[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    return path
