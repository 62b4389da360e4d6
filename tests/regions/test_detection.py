"""Which box belongs to which phrase."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from ale_edit.regions.detection import Detections, Instance, Thresholds, concatenate, iou, match

THRESHOLDS = Thresholds(box=0.35, text=0.25)
LEFT, MIDDLE, RIGHT = (0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10)


def detections(
    boxes: list[tuple[int, int, int, int]],
    scores: list[list[float]],
    heads: list[list[float]] | None = None,
) -> Detections:
    table = torch.tensor(scores)
    return Detections(
        torch.tensor(boxes).float(), table, torch.tensor(heads) if heads else table.clone()
    )


def boxes_of(result: object) -> list[tuple[float, ...]]:
    return [i.box for i in result.instances]  # type: ignore[attr-defined]


def test_each_phrase_takes_its_own_boxes() -> None:
    given = detections([LEFT, RIGHT], [[0.9, 0.1], [0.2, 0.8]])
    wolf, moon = match(given, ("wolf", "moon"), THRESHOLDS)
    assert boxes_of(wolf) == [LEFT] and boxes_of(moon) == [RIGHT]
    assert abs(wolf.best - 0.9) < 1e-6 and abs(moon.best - 0.8) < 1e-6


def test_several_instances_stand_from_left_to_right() -> None:
    given = detections([RIGHT, LEFT, MIDDLE], [[0.9], [0.5], [0.7]])
    (wolf,) = match(given, ("wolf",), THRESHOLDS)
    assert boxes_of(wolf) == [LEFT, MIDDLE, RIGHT]


def test_of_two_boxes_on_one_object_the_better_stays() -> None:
    given = detections([(0, 0, 10, 10), (0, 0, 10, 9)], [[0.5], [0.6]])
    (wolf,) = match(given, ("wolf",), THRESHOLDS)
    assert boxes_of(wolf) == [(0, 0, 10, 9)]


def test_an_object_that_two_phrases_claim_goes_to_the_higher_score_and_the_other_says_so() -> None:
    given = detections([LEFT, (0, 0, 10, 9)], [[0.5, 0.4], [0.6, 0.7]])
    wolf, dog = match(given, ("wolf", "dog"), THRESHOLDS)
    assert not wolf.instances and wolf.claimed_by == "dog"
    assert boxes_of(dog) == [(0, 0, 10, 9)] and dog.claimed_by is None


def test_a_phrase_that_loses_one_claim_keeps_its_other_boxes() -> None:
    given = detections([LEFT, RIGHT], [[0.5, 0.6], [0.4, 0.0]])
    wolf, dog = match(given, ("wolf", "dog"), THRESHOLDS)
    assert boxes_of(wolf) == [RIGHT] and wolf.claimed_by is None
    assert boxes_of(dog) == [LEFT]


def test_an_adjective_alone_finds_nothing() -> None:
    """The box scores for "yellow", not for "moon"."""
    given = detections([LEFT], [[0.9]], heads=[[0.1]])
    (moon,) = match(given, ("yellow moon",), THRESHOLDS)
    assert not moon.instances and abs(moon.best - 0.9) < 1e-6


def test_a_score_at_the_threshold_counts_and_one_below_does_not() -> None:
    given = detections([LEFT, RIGHT], [[0.5], [0.49]])
    (wolf,) = match(given, ("wolf",), Thresholds(0.5, 0.0))
    assert boxes_of(wolf) == [LEFT]


def test_a_box_that_is_taken_already_is_not_given_again() -> None:
    given = detections([LEFT, RIGHT], [[0.9], [0.8]])
    (wolf,) = match(given, ("wolf",), THRESHOLDS, [("dog", Instance(LEFT, 0.5))])
    assert boxes_of(wolf) == [RIGHT]


def test_without_a_single_box_nothing_is_found() -> None:
    given = Detections(torch.zeros(0, 4), torch.zeros(0, 2), torch.zeros(0, 2))
    results = match(given, ("wolf", "moon"), THRESHOLDS)
    assert [(r.instances, r.best) for r in results] == [((), 0.0)] * 2


def test_lists_of_phrases_are_joined_without_mixing_their_scores() -> None:
    one, two = detections([LEFT], [[0.9, 0.1]]), detections([RIGHT], [[0.7]])
    both = concatenate([one, two])
    assert both.scores.tolist() == torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.0, 0.7]]).tolist()
    assert both.boxes.shape == (2, 4) and torch.equal(both.heads, both.scores)


def test_with_thresholds_of_zero_a_phrase_has_no_box_of_another_list() -> None:
    one, two = detections([LEFT], [[0.9]]), detections([RIGHT], [[0.7]])
    wolf, moon = match(concatenate([one, two]), ("wolf", "moon"), Thresholds(0.0, 0.0))
    assert boxes_of(wolf) == [LEFT] and boxes_of(moon) == [RIGHT]


def test_intersection_over_union_is_torchvisions() -> None:
    from torchvision.ops import box_iou

    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(40, 2, 2, generator=generator).sort(dim=1).values * 50
    boxes: Tensor = corners.flatten(1)
    expected = box_iou(boxes, boxes)
    ours = torch.stack([iou(box, boxes) for box in boxes])
    torch.testing.assert_close(ours, expected)
    assert iou(torch.zeros(4), torch.zeros(1, 4)).tolist() == [0.0]


def test_a_hundred_phrases_with_thresholds_of_zero_are_matched_in_seconds() -> None:
    """Every box passes for every phrase: 900 boxes in each of four lists of phrases."""
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(4, 900, 2, 2, generator=generator).sort(dim=2).values.flatten(2) * 500
    scores = torch.rand(4, 900, 25, generator=generator)
    lists = [Detections(b, s, s) for b, s in zip(corners, scores, strict=True)]
    phrases = [str(i) for i in range(100)]
    before = time.process_time()
    found = match(concatenate(lists), phrases, Thresholds(0.0, 0.0))
    assert time.process_time() - before < 10  # 0.3 as it is; minutes, box by box
    assert len(found) == 100 and all(len(set(boxes_of(m))) == len(m.instances) for m in found)
