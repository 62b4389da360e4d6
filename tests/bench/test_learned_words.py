"""How well learned nouns show where their objects are, on the demo world."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

pytestmark = [pytest.mark.comfy, pytest.mark.ci]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Of one scene, by the words' name."""
    from ale_edit.bench import learned_words

    out = tmp_path_factory.mktemp("learned") / "deep" / "report.json"
    assert learned_words.main(["--scenes", "1", "--steps", "4", "--out", str(out)]) == 0
    report = json.loads(out.read_text(encoding="utf-8"))
    assert report["scenes"] == 1
    return {row["words"]: row for row in report["rows"]}


def test_every_case_has_its_row(rows):
    assert [*rows] == ["plain words", "DPL", "DPL, cheap", "LocInv", "LocInv, cheap"]
    for row in rows.values():
        print(row)
        assert 0.2 < row["iou"] <= row["best_iou"] < 1
        assert (row["iou"] == rows["plain words"]["iou"]) == (row["updated"] == 0)


def test_masks_raise_the_maps_of_their_objects(rows):
    assert rows["LocInv"]["updated"] > rows["LocInv, cheap"]["updated"] > 0
    assert rows["plain words"]["iou"] < rows["LocInv, cheap"]["iou"] < rows["LocInv"]["iou"]


def test_the_union_counts_what_either_shows():
    from ale_edit.bench.learned_words import THRESHOLDS, compare

    maps, masks = torch.zeros(2, 4, 4), torch.zeros(2, 4, 4, dtype=torch.bool)
    maps[0, 0], maps[1, 1] = 1, 0.52
    masks[0, 0, :2], masks[1, 1], masks[1, 2] = True, True, True
    for threshold, found in zip(THRESHOLDS.tolist(), compare(maps, masks).tolist(), strict=True):
        assert found == pytest.approx(0.5 if threshold < 0.52 else 0.25)
