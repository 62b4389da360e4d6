"""The demo bench's data: 3,000 edits of scenes that are drawn exactly, large ones included."""

import pytest
import torch

from ale_edit.bench.demo_scenes import (
    HELD_OUT,
    demo_dataset,
    draw_scene,
    large_scene,
    seeds_use,
)
from ale_edit.bench.main_job import to_tensor
from ale_edit.demo.judge import Judge
from ale_edit.demo.world import is_held_out, make_scene, render


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory):
    return demo_dataset(tmp_path_factory.mktemp("demo"))


def test_it_holds_three_thousand_edits_of_scenes_0_to_19(dataset):
    assert len(dataset.edits) == 3000 and len(dataset.images) == 20
    assert dataset.about["scene seeds"] == [0, 19]
    assert dataset.about["seeds are for"] == "published tables"
    assert {image.group for image in dataset.images.values()} == set(dataset.images)


def test_pictures_and_masks_are_the_scenes(dataset):
    image, masks = render(make_scene(3, 3))
    shown = to_tensor(dataset.picture("scene3"))
    torch.testing.assert_close(shown, image, atol=0.5 / 255, rtol=0)
    for file, mask in zip(dataset.masks("scene3"), masks, strict=True):
        assert torch.equal(to_tensor(file), mask)


def test_at_least_fifteen_percent_become_triples_that_were_never_trained_on(dataset):
    edited = [(e, o) for e in dataset.edits for o in e.objects]
    for edit, o in edited:
        becomes = {**dataset.images[edit.image].objects[o.number].attributes, **o.asked}
        triple = (becomes["object"], becomes["color"], becomes["material"])
        assert (HELD_OUT in o.tags) == is_held_out(*triple)
    assert sum(HELD_OUT in o.tags for _, o in edited) / len(edited) >= 0.15
    first = [o for e in dataset.edits[:300] for o in e.objects]
    assert sum(HELD_OUT in o.tags for o in first) / len(first) >= 0.15


def test_new_colors_are_on_no_object_of_the_scene(dataset):
    for edit in dataset.edits:
        present = {o.attributes["color"] for o in dataset.images[edit.image].objects}
        colors = [o.asked["color"] for o in edit.objects if "color" in o.asked]
        assert not present & set(colors) and len(set(colors)) == len(colors)


@pytest.mark.parametrize(
    ("seeds", "use"),
    [
        (range(0, 20), "published tables"),
        (range(2980, 3000), "published tables"),
        (range(10_000, 10_020), "choosing settings"),
    ],
)
def test_scene_seeds_are_for_one_use(seeds, use):
    assert seeds_use(seeds) == use


@pytest.mark.parametrize("first", [2981, 3000, 9990, 99_990, 1_000_000])
def test_other_scene_seeds_are_refused(tmp_path, first):
    with pytest.raises(ValueError, match=f"Scene seeds {first} to .* Choose a first seed"):
        demo_dataset(tmp_path, first_seed=first)


@pytest.mark.parametrize("count", [4, 6, 8])
def test_large_scenes_hold_many_objects_that_do_not_touch(count):
    for seed in range(5):
        image, masks, objects = draw_scene(seed, count, 256)
        assert image.shape == (256, 256, 3) and masks.shape == (count, 256, 256)
        assert len({o.shape for o in objects}) == count
        assert all(15 <= 256 * o.size <= 41 for o in objects)
        assert not any(is_held_out(o.shape, o.color, o.material) for o in objects)
        grown = torch.nn.functional.max_pool2d(masks[:, None], 3, 1, 1)[:, 0]
        assert float(grown.sum(0).max()) == 1
        assert masks.flatten(1).sum(1).min() > 300


def test_a_large_scene_is_drawn_as_if_all_at_once():
    """Each object as it is drawn alone, and the background as it is drawn without any."""
    from dataclasses import replace

    image, masks, objects = draw_scene(1, 8, 256)
    scene = large_scene(1, 8)
    empty, _ = render(replace(scene, objects=()), 256)
    around = torch.zeros(256, 256, dtype=torch.bool)
    for k, o in enumerate(objects):
        alone, own = render(replace(scene, objects=(o,)), 256)
        assert torch.equal(own[0], masks[k])
        near = torch.nn.functional.max_pool2d(own[0][None], 5, 1, 2)[0] > 0
        torch.testing.assert_close(image[near], alone[near], atol=1e-5, rtol=0)
        around |= near
    assert torch.equal(image[~around], empty[~around])


def test_the_judge_reads_shapes_and_colors_of_large_scenes():
    judge, hits = Judge.load(), []
    for seed in range(3):
        image, masks, objects = draw_scene(seed, 8, 256)
        for o, mask in zip(objects, masks, strict=True):
            read = judge.read(image, mask)
            hits += [read.shape == o.shape, read.color == o.color]
    assert sum(hits) / len(hits) > 0.95


def test_large_scenes_hold_certain_numbers_only():
    with pytest.raises(ValueError, match="4, 6, 8 objects, not 5"):
        large_scene(0, 5)
