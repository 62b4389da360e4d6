import pytest
import torch

from ale_edit.editors.ale import (
    SCHEDULES,
    ALESettings,
    background_weights,
    is_blending_step,
    is_injection_step,
)
from ale_edit.prompts.edits import Variant
from ale_edit.regions.grid import latent_background
from ale_edit.regions.regions import make_regions
from ale_edit.tests.tiny import box_mask, two_boxes


def injected(schedule: float, variant: Variant, steps: int = 15) -> list[int]:
    return [i for i in range(steps) if is_injection_step(i, steps, schedule, variant)]


@pytest.mark.parametrize(
    ("schedule", "paper", "published"),
    [(1.0, 15, 14), (0.6, 9, 8), (0.5, 8, 7), (0.3, 5, 4), (0.0, 0, 0)],
)
def test_injection_covers_the_first_share_of_15_steps(schedule: float, paper: int, published: int):
    """methods.md A.5: paper i/n < s, published code (i+1)/n < s, both strict."""
    assert injected(schedule, "paper") == list(range(paper))
    assert injected(schedule, "published code") == list(range(published))


def test_blending_runs_at_every_step_or_as_the_published_code_not_at_the_first_and_last():
    paper, published = (
        [i for i in range(15) if is_blending_step(i, 15, variant)]
        for variant in ("paper", "published code")
    )
    assert paper == list(range(15))
    assert published == list(range(1, 14))


def test_the_defaults_are_the_papers():
    assert ALESettings() == ALESettings(
        steps=15,
        strength=1.0,
        source_guidance=1.0,
        target_guidance=2.0,
        schedule=0.5,
        dilation=0.01,
        eta=1.0,
    )
    assert SCHEDULES == {
        "color": 1.0,
        "material": 0.6,
        "object": 0.5,
        "color and object": 0.5,
        "object and material": 0.5,
    }


@pytest.mark.parametrize("variant", ["paper", "published code"])
@pytest.mark.parametrize("shape", [(128, 128), (96, 160)])
def test_hard_weights_are_the_variants_background_of_the_dilated_masks(variant: Variant, shape):
    regions = make_regions(two_boxes(*shape), ["a", "b"], 0.02)
    height, width = (side // 8 for side in shape)
    weights = background_weights(regions, height, width, variant, is_soft=False, cell=8)
    assert weights.dtype == torch.bool
    assert torch.equal(weights, latent_background(regions.dilated, height, width, variant))


def test_soft_weights_are_the_mean_of_each_cells_64_pixels():
    mask = box_mask(64, 96, top=12, left=20, bottom=40, right=50)
    regions = make_regions([mask], ["a"], 0.0, feather=0.1)
    weights = background_weights(regions, 8, 12, "paper", is_soft=True, cell=8)
    soft = regions.soft_background
    for y in range(8):
        for x in range(12):
            cell = soft[8 * y : 8 * y + 8, 8 * x : 8 * x + 8]
            torch.testing.assert_close(weights[y, x], cell.mean())


def test_soft_weights_keep_an_object_of_one_pixel_of_a_larger_image():
    mask = box_mask(512, 512, top=203, left=67, bottom=204, right=68)
    weights = background_weights(
        make_regions([mask], ["a"], 0.0, feather=0.01), 8, 8, "paper", is_soft=True, cell=8
    )
    assert weights[3, 1] < 1 and (weights < 1).sum() <= 4


def test_weights_stand_for_the_pixels_that_the_vae_keeps():
    mask = box_mask(71, 70, top=3, left=3, bottom=67, right=35)
    regions = make_regions([mask], ["a"], 0.0)
    weights = background_weights(regions, 8, 8, "paper", is_soft=False, cell=8)
    assert not weights[:, :4].any() and weights[:, 4:].all()
