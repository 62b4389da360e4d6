"""What Compare does: put pictures, their labels and scores on one sheet."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...prompts.edits import text_lines
from ...scoring import comparison
from ...scoring.comparison import SheetCell
from ...scoring.summary import picture_lines
from ..pictures import read_pictures
from .inputs import COMPARE


def make_entries(
    images: Sequence[Tensor],
    labels: str,
    scores: Sequence[Sequence[str]] = (),
    previous: Sequence[SheetCell] = (),
) -> tuple[SheetCell, ...]:
    """One entry for each picture of a list of IMAGE batches, after those of an earlier Compare.

    labels: one a line. scores: for each kind of score, JSON of its nodes, together with one entry
    for each picture.
    Raises ValueError where the numbers do not fit, or a text is not the JSON of a score.
    """
    flat = [picture for batch in images for picture in read_pictures(batch, COMPARE, "images")]
    names = [line.strip() for line in text_lines(labels)]
    if len(names) > len(flat):
        raise ValueError(
            f"{COMPARE}: the labels input has {len(names)} lines, the images input {len(flat)} "
            "pictures. Write one label a line for each picture, in their order."
        )
    names += [""] * (len(flat) - len(names))
    below = _score_lines(scores, len(flat))
    return (*previous, *(SheetCell(*parts) for parts in zip(flat, names, below, strict=True)))


def _score_lines(scores: Sequence[Sequence[str]], count: int) -> list[str]:
    """Of each picture the figures of all scores."""
    columns: list[Sequence[str]] = []
    for texts in scores:
        try:
            lines = [line for text in texts for line in picture_lines(text)]
        except ValueError as error:
            raise ValueError(
                f"{COMPARE}: the scores input cannot be used; {error}. Connect the json output of "
                "Leakage Score or Preservation Score."
            ) from error
        if len(lines) != count:
            raise ValueError(
                f"{COMPARE}: the scores input covers {len(lines)} pictures, the images input "
                f"holds {count}. Connect the scores of these pictures."
            )
        columns.append(lines)
    return ["  ".join(lines) for lines in zip(*columns, strict=True)] or [""] * count


def draw_sheet(entries: Sequence[SheetCell], columns: int, height: int) -> Tensor:
    """The sheet as an IMAGE (1, H, W, 3). Raises ValueError when it gets too large."""
    try:
        return comparison.sheet(entries, columns, height)[None]
    except ValueError as error:
        raise ValueError(
            f"{COMPARE}: {error}. Set columns or cell_height to smaller numbers."
        ) from error
