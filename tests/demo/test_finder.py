"""The demo world's detector and segmenter; its logic on exact pixel labels, without weights."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ale_edit.demo.captions import object_phrase
from ale_edit.demo.evaluate import measure_overlaps
from ale_edit.demo.finder import ATTRIBUTES, FinderNet, SceneFinder
from ale_edit.demo.render import render_batch
from ale_edit.demo.scenes import CHECK_SEEDS, COLORS, MATERIALS, SHAPES, Scene, make_scene
from ale_edit.demo.stage import StagePlan
from ale_edit.demo.train_finder import (
    finder_loss,
    fray,
    object_masks,
    pixel_labels,
    train_finder,
)
from ale_edit.demo.train_judge import object_labels
from ale_edit.regions.detection import Thresholds, iou, match
from ale_edit.regions.objects import find_objects


class Exact(FinderNet):
    """Answers with the true labels of one scene, whatever the image."""

    def __init__(self, labels: Tensor, masks: Tensor, shapes: Tensor):
        super().__init__()
        self.labels = labels  # (2, H, W), negative outside objects
        self.masks, self.true_shapes = masks > 0.5, shapes

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        height, width = images.shape[2:]
        is_object = torch.full((1, height, width), -9.0)
        labels = self.labels[:, :height, :width]
        rows, columns = labels.shape[1:]
        is_object[0, :rows, :columns][labels[0] >= 0] = 9
        kinds = []
        for names, label in zip(ATTRIBUTES[1:], labels, strict=True):
            logits = torch.zeros(1, len(names), height, width)
            one_hot = nn.functional.one_hot(label.clamp(min=0), len(names)).permute(2, 0, 1)
            logits[0, :, :rows, :columns] = 9.0 * one_hot
            kinds.append(logits)
        return is_object, *kinds

    def shapes(self, masks: Tensor) -> Tensor:
        rows, columns = masks.shape[1:]
        shared = (masks[:, None] & self.masks[None, :, :rows, :columns]).sum((2, 3))
        return 9.0 * nn.functional.one_hot(self.true_shapes[shared.argmax(1)], len(SHAPES))


def scene_and_finder(seed: int, objects: int) -> tuple[Scene, Tensor, Tensor, SceneFinder]:
    scene = make_scene(seed, objects)
    images, masks = render_batch([scene])
    shapes = object_labels([scene])[:, 0]
    return (
        scene,
        images[0],
        masks[0, :objects] > 0.5,
        SceneFinder(Exact(pixel_labels([scene], masks)[0], masks[0, :objects], shapes)),
    )


@pytest.mark.parametrize("objects", [1, 2, 3, 4])
def test_each_phrase_finds_its_object_and_its_mask(objects):
    scene, image, masks, finder = scene_and_finder(5, objects)
    phrases = tuple(object_phrase(o.shape, o.color, o.material) for o in scene.objects)
    found = match(finder.detect(image, phrases), phrases, Thresholds(0.35, 0.25))
    boxes = torch.tensor([m.instances[0].box for m in found])
    assert [len(m.instances) for m in found] == [1] * objects
    made = finder.segment(image, boxes)
    shared, union = (made & masks).sum((1, 2)), (made | masks).sum((1, 2))
    assert (shared / union > 0.99).all()  # a lost pixel at the tip of a star is no patch


def test_a_phrase_with_one_wrong_attribute_finds_nothing():
    scene, image, _, finder = scene_and_finder(5, 2)
    o = scene.objects[0]
    other = next(c for c in ("red", "green", "blue") if c not in (o.color, scene.objects[1].color))
    detections = finder.detect(image, (o.shape, f"{other}-colored {o.shape}", "something", other))
    assert detections.scores.amax(0).tolist() == pytest.approx([1, 0, 0, 0], abs=2e-3)
    assert detections.heads.amax(0).tolist() == pytest.approx([1, 1, 0, 0], abs=2e-3)


def test_the_size_of_an_image_need_not_fit_the_network():
    _, image, masks, finder = scene_and_finder(7, 2)
    rows = masks.any(0).any(1).nonzero()
    cut = image[: int(rows.max()) + 3]
    assert cut.shape[0] % 8
    found = finder.find(cut)
    assert len(found) == 2
    for o in found:
        assert o.mask.shape == cut.shape[:2] and (o.mask & ~masks.any(0)[: len(cut)]).sum() == 0


def test_an_image_without_objects_has_none():
    _, image, _, _ = scene_and_finder(7, 1)
    nowhere = torch.full((2, 128, 128), -100)
    finder = SceneFinder(Exact(nowhere, torch.zeros(1, 128, 128), torch.tensor([0])))
    assert finder.detect(image, ("ball",)).boxes.shape == (0, 4)
    assert not finder.segment(image, torch.tensor([[0.0, 0, 9, 9]])).any()


def test_boxes_are_those_of_the_masks():
    _, image, masks, finder = scene_and_finder(11, 1)
    rows, columns = masks[0].any(1).nonzero(), masks[0].any(0).nonzero()
    true = torch.tensor(
        [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], dtype=torch.float32
    )
    assert torch.equal(finder.detect(image, ("ball",)).boxes, true)
    assert float(iou(true[0], true)) == 1


def test_pixel_labels_follow_the_masks():
    scenes = [make_scene(s, 1 + s % 4) for s in range(6)]
    _, masks = render_batch(scenes)
    labels = pixel_labels(scenes, masks)
    for b, scene in enumerate(scenes):
        assert torch.equal(labels[b, 0] >= 0, (masks[b] > 0.5).any(0))
        for k, o in enumerate(scene.objects):
            inside = labels[b, :, masks[b, k] > 0.5]
            expected = [COLORS.index(o.color), MATERIALS.index(o.material)]
            assert (inside == torch.tensor(expected)[:, None]).all()


def test_frayed_outlines_stay_close_to_the_object():
    scenes = [make_scene(s, 1 + s % 4) for s in range(6)]
    whole = object_masks(scenes, render_batch(scenes)[1])
    assert len(whole) == sum(len(scene.objects) for scene in scenes)
    made = fray(whole, np.random.default_rng(0))
    near = nn.functional.max_pool2d(whole[:, None], 3, 1, 1)[:, 0]
    assert (made >= whole).all() and (made <= near).all()
    assert (made != whole).flatten(1).any(1).all()


def test_a_few_steps_lower_the_loss(tmp_path):
    scenes = [make_scene(s, 2) for s in range(4)]
    images, masks = render_batch(scenes)
    batch = images.permute(0, 3, 1, 2), masks, pixel_labels(scenes, masks)
    torch.manual_seed(0)
    with torch.no_grad():
        before = float(finder_loss(FinderNet(), *batch))
    net = train_finder(StagePlan("finder", 240, 4, 2e-3, ema=0.5), tmp_path, torch.device("cpu"))
    with torch.no_grad():
        assert float(finder_loss(net, *batch)) < 0.85 * before


@pytest.mark.ci
def test_its_masks_are_those_of_scenes_that_it_never_saw():
    scenes = [make_scene(CHECK_SEEDS[i], 1 + i % 4, triples="all") for i in range(500)]
    images, masks = render_batch(scenes)
    overlaps = measure_overlaps(SceneFinder.load(), images, masks, scenes)
    assert len(overlaps) == 1250
    assert sum(overlaps) / len(overlaps) >= 0.85


def plural(shape: str) -> str:
    return {"box": "boxes", "cross": "crosses"}.get(shape, f"{shape}s")


@pytest.mark.ci
@pytest.mark.parametrize("kind", ["shape and color", "shape", "plural and color"])
def test_its_words_find_every_object_of_scenes_that_it_never_saw(kind):
    """As many as before the detectors' second query lost its step by the noun's singular."""
    phrase_of = {
        "shape and color": lambda o: object_phrase(o.shape, o.color),
        "shape": lambda o: o.shape,
        "plural and color": lambda o: object_phrase(plural(o.shape), o.color),
    }[kind]
    finder = SceneFinder.load()
    scenes = [make_scene(CHECK_SEEDS[i], 1 + i % 4, triples="all") for i in range(500)]
    found = []
    for image, scene in zip(render_batch(scenes)[0], scenes, strict=True):
        phrases = [phrase_of(o) for o in scene.objects]
        answers = find_objects(
            finder, image, phrases, Thresholds(0.35, 0.25), ["all"] * len(phrases)
        )
        found += [bool(answer.instances) for answer in answers]
    print(f"Demo finder, by {kind}: {sum(found)} of {len(found)} objects found")  # pytest -rP
    assert (sum(found), len(found)) == (1250, 1250)
