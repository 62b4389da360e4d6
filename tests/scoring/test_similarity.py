"""Similarities of edited regions and of whole images against torchmetrics' CLIPScore."""

from __future__ import annotations

from typing import cast

import pytest
import torch

from ale_edit.scoring.leakage import leakage
from ale_edit.scoring.similarity import clip_scores, edit_similarity
from ale_edit.tests.scoring.test_leakage import RandomClip, cosines_of, example, scored

PROMPT = "red ball and box made of wood"


@pytest.fixture
def net() -> RandomClip:
    return RandomClip().requires_grad_(False)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_they_are_clip_scores_of_torchmetrics_on_8_bit_cut_outs(net: RandomClip, count: int):
    picture, masks, targets = example(count)
    cosines = cosines_of(net)
    found = leakage(cosines, picture / 255, masks, targets)
    similar = edit_similarity(cosines, picture / 255, masks, PROMPT, found)
    each = [
        scored(net, picture * m.byte()[..., None], y) for m, y in zip(masks, targets, strict=True)
    ]
    together = picture * masks.amax(0).byte()[..., None]
    assert similar.objects == pytest.approx(sum(each) / count, abs=1e-4)
    assert similar.union == pytest.approx(scored(net, together, PROMPT), abs=1e-4)
    assert similar.whole == pytest.approx(scored(net, picture, PROMPT), abs=1e-4)
    assert min(*each, similar.union) > 1
    if count > 1:
        assert abs(similar.objects - similar.union) > 0.01


def test_a_score_below_zero_counts_as_zero_as_in_clip_score():
    scores = clip_scores(
        lambda images, texts: torch.tensor([[-0.3, 0.25]]),
        torch.zeros(1, 4, 4, 3),
        cast("list[str]", ("a", "b")),
    )
    assert scores.tolist() == [[0.0, 25.0]]
