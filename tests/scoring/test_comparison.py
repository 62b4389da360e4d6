"""The sheet of pictures: every picture is there, whole, undistorted, in its order."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ale_edit.scoring.comparison import SheetCell, columns_of, fit, sheet

COLORS = [(1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0), (1.0, 1.0, 0), (0, 1.0, 1.0), (1.0, 0, 1.0)]


def plain(k: int, height: int = 40, width: int = 40) -> torch.Tensor:
    return torch.tensor(COLORS[k]).expand(height, width, 3)


def boxes(page: torch.Tensor) -> list[tuple[int, int, int, int]]:
    """Top, left, height, width of the pixels of each of the colours."""
    found = []
    for color in COLORS:
        rows, columns = torch.where((page - torch.tensor(color)).abs().amax(-1) < 0.01)
        if len(rows):
            top, left = int(rows.min()), int(columns.min())
            found.append((top, left, int(rows.max()) + 1 - top, int(columns.max()) + 1 - left))
    return found


def test_pictures_stand_in_rows_in_their_order() -> None:
    page = sheet([SheetCell(plain(k)) for k in range(5)], 3, 80)
    found = boxes(page)
    assert [box[2:] for box in found] == [(80, 80)] * 5
    tops, lefts = [b[0] for b in found], [b[1] for b in found]
    assert tops[0] == tops[1] == tops[2] < tops[3] == tops[4]
    assert lefts[0] == lefts[3] < lefts[1] == lefts[4] < lefts[2]


def test_each_picture_keeps_its_shape_in_a_cell_of_the_widest() -> None:
    page = sheet(
        [SheetCell(plain(0, 40, 80)), SheetCell(plain(1, 80, 40)), SheetCell(plain(2, 160, 160))],
        0,
        80,
    )
    assert [box[2:] for box in boxes(page)] == [(80, 160), (80, 40), (80, 80)]


def test_labels_and_scores_stand_below_and_nowhere_on_a_picture() -> None:
    bare = sheet([SheetCell(plain(0))], 0, 120)
    named = sheet([SheetCell(plain(0), "source", "TE 16.00")], 0, 120)
    ((top, left, height, width),) = boxes(named)
    assert (height, width) == (120, 120) and named.shape[0] > bare.shape[0]
    picture = named[top : top + height, left : left + width]
    assert torch.equal(picture, plain(0, 120, 120))
    assert (named[top + height :] < 0.5).any()


def test_a_long_label_stays_below_its_own_picture() -> None:
    page = sheet([SheetCell(plain(0), "word " * 50), SheetCell(plain(1))], 0, 120)
    (top, left, height, _), _ = boxes(page)
    ((_, second, _, _),) = boxes(page)[1:]
    below = page[top + height :, second:]
    assert bool((below > 0.99).all())


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (5, 5), (6, 3), (9, 3), (10, 4)])
def test_by_itself_it_chooses_one_row_or_nearly_a_square(count: int, expected: int) -> None:
    assert columns_of(count, 0) == expected


def test_more_columns_than_pictures_are_one_row() -> None:
    assert columns_of(3, 8) == 3


def test_small_pictures_are_magnified_pixel_by_pixel() -> None:
    image = torch.rand(2, 2, 3).mul(255).round() / 255
    large = torch.from_numpy(np.asarray(fit(image, 8, 8)).copy()) / 255
    torch.testing.assert_close(large, image.repeat_interleave(4, 0).repeat_interleave(4, 1))


def test_a_sheet_beyond_comfyuis_limit_is_refused_with_the_numbers() -> None:
    with pytest.raises(ValueError, match="5 pictures in 5 columns of 4096x4096 pixels .* 16384"):
        sheet([SheetCell(plain(0))] * 5, 5, 4096)
    with pytest.raises(ValueError, match="no picture"):
        sheet([], 0, 64)
