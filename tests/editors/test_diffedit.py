"""DiffEdit's mask and blend on numbers by hand."""

from __future__ import annotations

import pytest
import torch

from ale_edit.attention.control import IMAGE, Step
from ale_edit.editors.diffedit import (
    DiffEditControl,
    add_disagreement,
    clamp_disagreement,
    cut_mask,
)
from ale_edit.regions.regions import RegionsBatch, make_regions
from ale_edit.tests.tiny import box_mask, randn

LAST = Step(3, 4, 0.1)


def test_noises_add_the_mean_of_the_channels():
    source = torch.zeros(1, 2, 1, 2)
    target = torch.tensor([[[[1.0, 0.0]], [[-3.0, 4.0]]]])
    once = add_disagreement(0.0, source, target)
    assert once.tolist() == [[[2.0, 2.0]]]
    assert add_disagreement(once, target, source).tolist() == [[[4.0, 4.0]]]


def test_each_image_is_clamped_at_its_own_mean():
    disagreement = torch.tensor([[[0.0, 1.0, 1.0, 6.0]], [[0.0, 10.0, 10.0, 60.0]]])
    shares = clamp_disagreement(disagreement, 2.0)  # 2 * mean is 4, and 40
    assert shares.tolist() == [[[0.0, 0.25, 0.25, 1.0]]] * 2
    assert cut_mask(shares, 0.25).tolist() == [[[False, False, False, True]]] * 2


@pytest.mark.parametrize("factor", [0.5, 7.5])
def test_a_factor_of_all_places_changes_nothing(factor: float):
    disagreement = randn(2, 5, 7).abs()
    torch.testing.assert_close(
        clamp_disagreement(factor * disagreement, 1.5), clamp_disagreement(disagreement, 1.5)
    )


def test_prompts_that_agree_everywhere_are_refused():
    disagreement = torch.ones(2, 2, 2)
    disagreement[1] = 0
    with pytest.raises(ValueError, match="the same everywhere"):
        clamp_disagreement(disagreement, 3.0)


def test_an_empty_mask_is_refused_with_its_numbers():
    shares = torch.tensor([[[0.1, 0.9]], [[0.2, 0.31]]])
    assert cut_mask(shares, 0.3).sum() == 2
    with pytest.raises(ValueError, match=r"above threshold 0\.4, .* at most 0\.31 of"):
        cut_mask(shares, 0.4)


def test_each_image_keeps_itself_outside_its_own_mask():
    halves = [
        make_regions([box_mask(32, 32, top=t, left=0, bottom=t + 16, right=32)], ["edit"], 0.0)
        for t in (0, 16)
    ]
    image, target = randn(2, 4, 4, 4), randn(2, 4, 4, 4, seed=1)
    latents = {IMAGE: image, "target": target}
    blended = DiffEditControl(RegionsBatch(tuple(halves)), 8).blend_latents(latents, LAST)["target"]
    assert torch.equal(blended[0, :, :2], target[0, :, :2])
    assert torch.equal(blended[0, :, 2:], image[0, :, 2:])
    assert torch.equal(blended[1, :, :2], image[1, :, :2])
    assert torch.equal(blended[1, :, 2:], target[1, :, 2:])


def test_masks_of_several_edits_are_one_place():
    boxes = [box_mask(32, 32, top=t, left=0, bottom=t + 8, right=32) for t in (0, 24)]
    image, target = randn(1, 4, 4, 4), randn(1, 4, 4, 4, seed=1)
    control = DiffEditControl(make_regions(boxes, ["one", "other"], 0.0), 8)
    blended = control.blend_latents({IMAGE: image, "target": target}, LAST)["target"]
    assert torch.equal(blended[:, :, [0, 3]], target[:, :, [0, 3]])
    assert torch.equal(blended[:, :, [1, 2]], image[:, :, [1, 2]])
