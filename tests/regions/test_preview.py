import torch

from ale_edit.regions.preview import object_color, preview_image, preview_regions
from ale_edit.regions.regions import make_regions
from ale_edit.tests.tiny import box_mask


def test_sixteen_objects_have_sixteen_colours():
    colors = torch.tensor([object_color(i) for i in range(16)])
    distances = torch.cdist(colors, colors) + torch.eye(16) * 9
    assert distances.min() > 0.1
    neighbours = (colors[1:] - colors[:-1]).norm(dim=1)
    assert neighbours.min() > 0.5


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
    assert (preview > 0.8).all(dim=-1).sum() > 20  # white letters
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
    label = first[:40].amax(dim=-1) > 0.05  # above the first object there is only its label
    assert label.sum() > 300
    assert torch.equal(both[:40][label], first[:40][label])
