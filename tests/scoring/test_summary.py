"""Scores as text and JSON: what does not exist is n/a and null."""

from __future__ import annotations

import json
from math import isnan, nan

import pytest
import torch

from ale_edit.scoring.leakage import Leakage
from ale_edit.scoring.similarity import EditSimilarity
from ale_edit.scoring.summary import (
    BACKGROUND,
    PIE_BENCH,
    EditScores,
    leakage_summary,
    mean,
    picture_lines,
    preservation_summary,
)


def scores(te: float, ti: float, count: int = 2) -> EditScores:
    pairs = torch.arange(count * (count + 1.0)).reshape(count, count + 1)
    return EditScores(Leakage(te, ti, pairs), EditSimilarity(20.5, 21.25, 22.0))


def test_text_and_json_hold_every_figure_of_edit_and_source() -> None:
    made = leakage_summary(["goat", "ball"], "goat and ball", "M", [scores(16, 15)], [scores(9, 8)])
    assert "edited: TE 16.00, TI 15.00" in made.text and "source: TE 9.00, TI 8.00" in made.text
    assert '2 "ball": region 1 3.00, region 2 4.00, background 5.00' in made.text
    content = json.loads(made.json)
    (entry,), (source,) = content["images"], content["source"]
    assert (entry["TE"], entry["TI"], source["TE"], source["TI"]) == (16, 15, 9, 8)
    assert entry["pairs"] == [[0, 1, 2], [3, 4, 5]]
    assert entry["edited regions, mean over objects"] == 20.5
    assert entry["edited regions, together"] == 21.25 and entry["whole image"] == 22
    assert content["similarity"] == "M" and content["prompt"] == "goat and ball"


def test_one_object_has_no_ti_in_either_form() -> None:
    made = leakage_summary(["goat"], "goat", "M", [scores(16, nan, 1)], [], ["One object."])
    assert "TE 16.00, TI n/a" in made.text and made.text.endswith("One object.")
    assert json.loads(made.json)["images"][0]["TI"] is None and "NaN" not in made.json
    assert picture_lines(made.json) == ["TE 16.00  TI n/a"]


def test_pictures_of_a_batch_are_numbered() -> None:
    made = leakage_summary(["a"], "a", "M", [scores(1, 2, 1), scores(3, 4, 1)], [scores(5, 6, 1)])
    for part in ("edited 1: TE 1.00", "edited 2: TE 3.00", "source: TE 5.00"):
        assert part in made.text
    assert picture_lines(made.json) == ["TE 1.00  TI 2.00", "TE 3.00  TI 4.00"]


def test_preservation_keeps_both_ways_apart() -> None:
    alone = {"PSNR": 28.214, "MSE": 0.00125, "SSIM": 0.934, "LPIPS": nan}
    black = {"PSNR": 30.0, "MSE": 0.001, "SSIM": 0.95, "LPIPS": 0.02}
    made = preservation_summary([{BACKGROUND: alone, PIE_BENCH: black}], [0.01234])
    assert "PSNR 28.21 dB, MSE 0.001250, SSIM 0.9340, LPIPS n/a" in made.text
    assert "PSNR 30.00 dB, MSE 0.001000, SSIM 0.9500, LPIPS 0.0200" in made.text
    assert "structure distance: 0.01234" in made.text
    (entry,) = json.loads(made.json)["images"]
    assert entry["PSNR"] == 28.214 and entry["PIE-Bench"]["PSNR"] == 30 and entry["LPIPS"] is None
    assert picture_lines(made.json) == ["PSNR 28.21  SSIM 0.93"]


@pytest.mark.parametrize("text", ["", "TE 16", "{}", "[]", '{"shown": ["TE"], "images": [{}]}'])
def test_a_text_that_is_no_score_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="it is not the JSON of a score"):
        picture_lines(text)


def test_the_mean_of_nothing_and_of_nothing_known_is_nan() -> None:
    assert isnan(mean([])) and isnan(mean([1.0, nan])) and mean([1.0, 2.0]) == 1.5
