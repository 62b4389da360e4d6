import itertools

import pytest
import torch
from PIL import Image, ImageDraw, ImageFont

from ale_edit.regions.preview import (
    COLORS,
    _label_box,
    _shorten,
    _widen,
    object_color,
    preview_batch,
    preview_image,
    preview_regions,
    text_color,
)
from ale_edit.regions.regions import make_regions
from ale_edit.tests.tiny import box_mask, generator


def oklab(color: tuple[float, float, float]) -> torch.Tensor:
    """An sRGB colour in OKLab (Ottosson 2020), where distance is how different colours look."""
    to_cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    to_lab = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return torch.tensor(to_lab) @ (torch.tensor(to_cones) @ linear(color)) ** (1 / 3)


def linear(color: tuple[float, float, float]) -> torch.Tensor:
    values = torch.tensor(color)
    return torch.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize(("count", "least"), [(4, 0.3), (10, 0.19), (16, 0.16)])
def test_objects_have_colours_that_look_different(count, least):
    colors = [oklab(object_color(i)) for i in range(count)]
    assert min((a - b).norm() for a, b in itertools.combinations(colors, 2)) > least


def test_more_objects_than_colours_still_differ():
    assert len({object_color(i) for i in range(2 * len(COLORS))}) == 2 * len(COLORS)


@pytest.mark.parametrize("index", range(2 * len(COLORS)))
def test_text_can_be_read_on_every_colour(index):
    color = object_color(index)
    weights = torch.tensor([0.2126, 0.7152, 0.0722])
    red, green, blue = text_color(color)
    behind, before = (
        float(linear(c) @ weights) for c in (color, (red / 255, green / 255, blue / 255))
    )
    light, dark = max(behind, before), min(behind, before)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_each_object_is_tinted_outlined_and_labelled_and_the_rest_is_left():
    masks = [
        box_mask(256, 256, top=60, left=20, bottom=120, right=100),
        box_mask(256, 256, top=160, left=140, bottom=240, right=230),
    ]
    regions = make_regions(masks, ["wolf", "moon"], 0.02)
    image = torch.full((256, 256, 3), 0.5)
    preview = preview_regions(image, regions)
    assert preview.shape == (256, 256, 3) and preview.min() >= 0 and preview.max() <= 1
    for i, (y, x) in enumerate([(100, 60), (200, 180)]):  # inside, away from the label
        color = torch.tensor(object_color(i))
        torch.testing.assert_close(preview[y, x], 0.55 * 0.5 + 0.45 * color, rtol=0, atol=0.005)
        line = (preview - color).abs().amax(dim=-1) < 0.005
        assert line.sum() > 100
        label = preview[: y - 20] if i == 0 else preview[130:165, 130:]
        letters = torch.tensor(text_color(object_color(i))) / 255
        assert ((label - letters).abs().amax(dim=-1) < 0.3).sum() > 20
    torch.testing.assert_close(preview[250, 10], image[250, 10], rtol=0, atol=0.003)


def test_the_label_follows_the_name():
    mask = box_mask(128, 128, top=50, left=30, bottom=100, right=90)
    image = torch.zeros(128, 128, 3)
    first, second = (
        preview_regions(image, make_regions([mask], [name], 0.0)) for name in ("wolf", "moon")
    )
    assert not torch.equal(first, second)
    assert torch.equal(first[70:], second[70:])


def test_the_image_itself_is_not_painted_on():
    image = torch.zeros(64, 64, 3)
    regions = make_regions([torch.ones(64, 64)], ["wolf"], 0.0)
    preview_regions(image, regions)
    assert not image.any()


def test_labels_stay_inside_small_images_and_at_borders():
    masks = [pixel_at(0, 0), pixel_at(31, 31)]
    regions = make_regions(masks, ["a very long name of an object", "b"], 0.0)
    assert preview_image(None, regions).shape == (1, 32, 32, 3)


def pixel_at(row: int, column: int) -> torch.Tensor:
    return box_mask(32, 32, top=row, left=column, bottom=row + 1, right=column + 1)


def test_masks_of_another_size_are_fitted_to_the_image_and_alpha_is_dropped():
    regions = make_regions([torch.ones(32, 48)], ["wolf"], 0.0)
    assert preview_image(torch.zeros(2, 64, 96, 4), regions).shape == (1, 64, 96, 3)


def test_labels_of_neighbours_do_not_cover_each_other():
    masks = [
        box_mask(128, 128, top=40, left=10, bottom=80, right=60),
        box_mask(128, 128, top=40, left=68, bottom=80, right=118),
    ]
    names = ["blue-colored cross", "yellow-colored ball"]
    both = preview_regions(torch.zeros(128, 128, 3), make_regions(masks, names, 0.0))
    first = preview_regions(torch.zeros(128, 128, 3), make_regions(masks[:1], names[:1], 0.0))
    label = first[:38].amax(dim=-1) > 0.05  # above the first object there is only its label
    assert label.sum() > 300
    assert torch.equal(both[:38][label], first[:38][label])


def test_the_labels_of_ten_objects_in_rows_do_not_meet_and_stay_inside():
    size = (300, 30)
    masks = [
        box_mask(768, 768, top=y, left=x, bottom=y + 180, right=x + 120)
        for y in (90, 420)
        for x in range(20, 770, 150)
    ]
    taken: list[tuple[int, int, int, int]] = []
    for i, mask in enumerate(masks):
        others = torch.stack(masks[:i] + masks[i + 1 :]).sum(dim=0)
        taken.append(_label_box(mask, others, size, taken))
    picture = torch.zeros(768, 768)
    for left, top, right, bottom in taken:
        assert min(left, top) >= 0 and max(right, bottom) <= 768
        picture[top:bottom, left:right] += 1
    assert picture.max() == 1


def test_a_label_rather_covers_nothing_than_another_object():
    mask = box_mask(200, 200, top=100, left=80, bottom=150, right=120)
    above = box_mask(200, 200, top=60, left=80, bottom=95, right=120)
    assert _label_box(mask, torch.zeros(200, 200), (60, 20), []) == (70, 80, 130, 100)
    assert _label_box(mask, above, (60, 20), []) == (70, 150, 130, 170)


def test_a_label_longer_than_the_image_is_cut_at_its_end():
    draw = ImageDraw.Draw(Image.new("RGB", (8, 8)))
    font = ImageFont.load_default(size=12)
    whole = "1 a lantern made of brass"
    assert _shorten(whole, draw, font, 500) == whole
    short = _shorten(whole, draw, font, 90)
    assert draw.textlength(short, font=font) <= 90 < draw.textlength(whole, font=font)
    assert short.endswith("...") and whole.startswith(short.removesuffix("..."))


def test_a_small_image_is_magnified_for_the_screen_only():
    image = torch.rand(1, 100, 120, 3, generator=torch.Generator().manual_seed(0))
    mask = box_mask(100, 120, top=60, left=20, bottom=80, right=90)
    regions = make_regions([mask], ["wolf"], 0.0)
    preview, shown = preview_batch(image, regions)
    assert preview.shape == (1, 100, 120, 3) and shown.shape == (1, 500, 600, 3)
    far = slice(90, 100)  # away from the object and its label
    torch.testing.assert_close(
        shown[:, 450::5, ::5], image[:, far], rtol=0, atol=0.003, check_stride=False
    )


def test_a_large_image_is_shown_as_it_is():
    preview, shown = preview_batch(
        torch.zeros(1, 512, 64, 3), make_regions([torch.ones(512, 64)], ["a"], 0.0)
    )
    assert shown is preview


@pytest.mark.parametrize("radius", [1, 2, 3, 4, 5, 9, 40])
def test_lines_are_unbroken_up_to_the_border(radius):
    """A line is what a square of the radius reaches, as max pooling gives it."""
    masks = torch.rand(3, 17, 23, generator=generator(radius)) > 0.97
    masks[:, 0, 0] = masks[:, -1, 5] = True
    pooled = torch.nn.functional.max_pool2d(masks.float(), 2 * radius + 1, 1, radius)
    assert torch.equal(_widen(masks, radius), pooled > 0)
