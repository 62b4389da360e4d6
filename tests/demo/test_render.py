import pytest
import torch

from ale_edit.demo.render import render, render_batch
from ale_edit.demo.scenes import MATERIALS, make_scene


def test_drawing_is_deterministic_and_in_range():
    image, masks = render(make_scene(3))
    again, _ = render(make_scene(3))
    assert image.shape == (128, 128, 3) and masks.shape == (2, 128, 128)
    assert torch.equal(image, again)
    assert image.min() >= 0 and image.max() <= 1


def test_a_batch_draws_what_single_scenes_draw():
    scenes = [make_scene(s, 1 + s % 4) for s in range(8)]
    images, masks = render_batch(scenes)
    for i, scene in enumerate(scenes):
        image, own = render(scene)
        torch.testing.assert_close(images[i], image, atol=1e-5, rtol=0)
        assert torch.equal(masks[i, : len(own)], own)
        assert not masks[i, len(own) :].any()


def test_backgrounds_alone_are_drawn_as_beside_other_scenes():
    bare, full = make_scene(3, 0), make_scene(4, 2)
    alone, masks = render_batch([bare])
    together, _ = render_batch([bare, full])
    assert torch.equal(alone[0], together[0])
    assert not masks.any() and masks.shape == (1, 4, *alone.shape[1:3])


@pytest.mark.parametrize("size", [64, 128, 256])
def test_masks_are_exactly_the_pixels_an_object_changes(size):
    scene = make_scene(5)
    _, masks = render(scene, size)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert not (masks[0] * masks[1]).any()
    for keep in (0, 1):
        without = type(scene)(scene.seed, (scene.objects[keep],), scene.background)
        changed = (render(scene, size)[0] - render(without, size)[0]).abs().amax(-1) > 0
        assert not (changed & (masks[keep] > 0)).any()
        inside = masks[1 - keep] > 0
        assert changed[inside].float().mean() > 0.99
        grown = torch.nn.functional.max_pool2d(masks[1 - keep][None, None], 3, 1, 1)[0, 0] > 0
        assert (changed & ~grown).sum() <= 4  # the faint ends of a crescent's tips


def test_every_material_changes_the_look():
    scene = make_scene(7, 1)
    looks = []
    for material in MATERIALS:
        o = scene.objects[0]
        same = type(o)(o.shape, o.color, material, o.centre, o.size, o.shade)
        looks.append(render(type(scene)(7, (same,), scene.background))[0])
    for i, a in enumerate(looks):
        for b in looks[:i]:
            assert (a - b).abs().amax() > 0.2
