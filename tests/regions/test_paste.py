import pytest
import torch

from ale_edit.regions.paste import paste_background, restore_size
from ale_edit.regions.regions import RegionsBatch, make_regions
from ale_edit.tests.tiny import box_mask, generator


def images(height: int, width: int, cropped_height: int, cropped_width: int):
    draws = generator(0)
    source = torch.rand(2, height, width, 3, generator=draws)
    return torch.rand(2, cropped_height, cropped_width, 3, generator=draws), source


@pytest.mark.parametrize(
    ("height", "width", "cell"), [(70, 69, 8), (64, 71, 8), (64, 64, 8), (79, 75, 16)]
)
def test_the_strip_that_the_vae_cropped_comes_back_from_the_source(
    height: int, width: int, cell: int
):
    edited, source = images(height, width, 64, 64)
    out = restore_size(edited, source, cell)
    top, left = (height % cell) // 2, (width % cell) // 2
    inside = torch.zeros(height, width, dtype=torch.bool)
    inside[top : top + 64, left : left + 64] = True
    assert torch.equal(out[:, inside], edited.flatten(1, 2))
    assert torch.equal(out[:, ~inside], source[:, ~inside])


@pytest.mark.parametrize("channels", [3, 4])
def test_one_source_serves_a_batch_of_edits_and_alpha_is_dropped(channels: int):
    out = restore_size(torch.zeros(3, 64, 64, channels), torch.ones(1, 66, 64, 4), 8)
    assert out.shape == (3, 66, 64, 3)


@pytest.mark.parametrize("sources", [1, 2])
def test_the_sources_alpha_stays_everywhere(sources: int):
    edited, source = images(70, 66, 64, 64)
    alpha = torch.rand(2, 70, 66, 1, generator=generator(1))
    regions = make_regions([box_mask(70, 66, top=9, left=9, bottom=50, right=50)], ["a"], 0.0, 0.1)
    with_alpha = torch.cat([source, alpha], dim=-1)[:sources]
    made = paste_background(edited, with_alpha, regions, 8)
    assert made.shape == (2, 70, 66, 4)
    assert torch.equal(made[..., :3], paste_background(edited, source[:sources], regions, 8))
    assert torch.equal(made[..., 3:], alpha[:sources].expand(2, -1, -1, -1))


def test_images_of_other_sizes_are_refused_with_both_sizes():
    with pytest.raises(ValueError, match="the edited image is 32x64 .* source 64x64.*Connect"):
        restore_size(torch.zeros(1, 32, 64, 3), torch.zeros(1, 64, 64, 3), 8)


def test_outside_the_dilated_regions_every_pixel_is_the_sources():
    edited, source = images(66, 64, 64, 64)
    mask = box_mask(66, 64, top=20, left=20, bottom=40, right=40)
    regions = make_regions([mask], ["wolf"], 0.05)
    out = paste_background(edited, source, regions, 8)
    background = regions.background.bool()
    assert torch.equal(out[:, background], source[:, background])
    inside = ~background
    assert torch.equal(out[:, inside], restore_size(edited, source, 8)[:, inside])


@pytest.mark.parametrize("feather", [0.0, 0.05])
def test_an_object_of_one_pixel_stays_in_an_image_smaller_than_its_mask(feather: float):
    """The background shrinks to what none of its pixels leaves to an object."""
    edited, source = torch.zeros(1, 64, 64, 3), torch.ones(1, 64, 64, 3)
    mask = box_mask(256, 256, top=101, left=33, bottom=102, right=34)
    out = paste_background(edited, source, make_regions([mask], ["wolf"], 0.0, feather), 8)
    assert not out[0, 25, 8].any()
    assert (out[0, :16] == 1).all()


@pytest.mark.parametrize("sources", [1, 2])
def test_each_image_of_a_batch_is_pasted_with_its_own_regions(sources: int):
    edited, source = images(66, 64, 64, 64)
    source = source[:sources]
    each = [
        make_regions([box_mask(66, 64, top=t, left=9, bottom=t + 9, right=50)], ["a"], 0.02, 0.1)
        for t in (5, 40)
    ]
    made = paste_background(edited, source, RegionsBatch(tuple(each)), 8)
    for j, own in enumerate(each):
        alone = paste_background(edited[j : j + 1], source[j % sources :][:1], own, 8)
        assert torch.equal(made[j : j + 1], alone)


def test_regions_of_another_number_of_images_are_refused():
    edited, source = images(64, 64, 64, 64)
    own = make_regions([torch.ones(64, 64)], ["a"], 0.0)
    with pytest.raises(
        ValueError, match="^the regions were made from 3 images, but there are 2 images here. Make"
    ):
        paste_background(edited, source, RegionsBatch((own,) * 3), 8)


def test_a_feathered_edge_mixes_both_images():
    edited, source = torch.zeros(1, 64, 64, 3), torch.ones(1, 64, 64, 3)
    mask = box_mask(64, 64, top=20, left=20, bottom=40, right=40)
    out = paste_background(edited, source, make_regions([mask], ["wolf"], 0.0, 0.15), 8)
    assert not out[0, 20:40, 20:40].any()
    assert ((out > 0) & (out < 1)).any() and out[0, 0, 0].min() == 1
