"""Compare: results side by side with their labels and scores."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from ale_edit.tests.nodes.graph import nodes, picture
from ale_edit.tests.nodes.scores import compare, keep, leak

pytestmark = pytest.mark.usefixtures("models_dir")


def test_batches_lists_and_earlier_comparisons_are_one_sheet() -> None:
    first, entries = compare([picture()], "source")
    sheet, all_entries = compare(
        [picture(2, seed=3), picture(height=32, width=96)], "naive\nALE\nwide", previous=[entries]
    )
    assert [e.label for e in all_entries] == ["source", "naive", "ALE", "wide"]
    assert sheet.shape[0] == 1 and sheet.shape[2] > 3 * first.shape[2]
    _, both = compare([picture()], "last", previous=[entries, all_entries])
    assert [e.label for e in both] == ["source", "source", "naive", "ALE", "wide", "last"]


def test_only_a_new_line_begins_a_label() -> None:
    """Text that was pasted may hold other separators, such as U+2028, U+2029 and U+0085."""
    _, entries = compare([picture(2)], "a\u2028b\u2029c\u0085d\r\nnext\n")
    assert [e.label for e in entries] == ["a\u2028b\u2029c\u0085d", "next"]


def test_scores_of_both_nodes_stand_under_their_pictures() -> None:
    images = picture(2, seed=5)
    leaked, kept = leak(image=images)[5], keep(image=images)[6]
    _, entries = compare([images], "a", scores=[leaked], more_scores=[kept])
    for entry, leaks, keeps in zip(
        entries, json.loads(leaked)["images"], json.loads(kept)["images"], strict=True
    ):
        assert f"TE {leaks['TE']:.2f}" in entry.scores
        assert f"PSNR {keeps['PSNR']:.2f}" in entry.scores
    assert [e.label for e in entries] == ["a", ""]


def test_the_sheet_is_shown_on_the_node(temp_directory: Path) -> None:
    made = nodes()["ALECompare"].execute([picture()], ["a"], [0], [128])
    assert len(made.ui.as_dict()["images"]) == 1
    (file,) = temp_directory.glob("*.png")
    assert Image.open(file).size == (made.args[0].shape[2], made.args[0].shape[1])
