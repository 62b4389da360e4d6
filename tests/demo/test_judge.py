import pytest
import torch

from ale_edit.demo.finding import find_objects
from ale_edit.demo.judge import Judge
from ale_edit.demo.render import render, render_batch
from ale_edit.demo.scenes import CHECK_SEEDS, make_scene

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module")
def judge():
    return Judge.load()


def test_it_reads_98_percent_of_fresh_ground_truth(judge):
    scenes = [make_scene(CHECK_SEEDS[20_000 + i], triples="all") for i in range(100)]
    images, masks = render_batch(scenes)
    right = [
        judge.read(image, mask).agrees({"shape": o.shape, "color": o.color, "material": o.material})
        for image, rows, scene in zip(images, masks, scenes, strict=True)
        for mask, o in zip(rows, scene.objects, strict=False)
    ]
    assert sum(right) / len(right) >= 0.98


def test_a_reading_says_the_likeliest_word_and_agrees_only_if_all_is_found(judge):
    image, masks = render(make_scene(0))
    reading = judge.read(image, masks[0])
    for attribute, shares in reading.probabilities.items():
        assert sum(shares.values()) == pytest.approx(1, abs=1e-4)
        assert max(shares, key=shares.get) == getattr(reading, attribute)
    assert reading.agrees({"shape": reading.shape})
    assert not reading.agrees({"shape": reading.shape, "color": "none"})


def test_the_region_decides_which_object_is_read(judge):
    scene = make_scene(0)
    image, masks = render(scene)
    assert [judge.read(image, m).color for m in masks] == [o.color for o in scene.objects]


def test_an_empty_region_is_refused(judge):
    with pytest.raises(ValueError, match="empty mask"):
        judge.read(torch.zeros(128, 128, 3), torch.zeros(128, 128))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_finding_objects_without_masks_finds_each_one(count):
    if count == 0:
        assert find_objects(torch.full((128, 128, 3), 0.5)).shape == (0, 128, 128)
        return
    scene = make_scene(11, count)
    image, masks = render(scene)
    found = find_objects(image)
    assert len(found) == count
    overlap = (found[:, None] * masks[None]).sum((2, 3)) / masks.sum((1, 2))
    assert (overlap.amax(0) > 0.8).all()
