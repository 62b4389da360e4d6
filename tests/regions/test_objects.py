"""Head nouns, repeated phrases and choice of instances, with a detector whose answers are known."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from ale_edit.regions.detection import Detections, Thresholds
from ale_edit.regions.objects import GroundedObject, find_objects, parse_choices

IMAGE = torch.zeros(20, 60, 3)
LEFT, MIDDLE, RIGHT = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0), (40.0, 0.0, 50.0, 10.0)
Box = tuple[float, float, float, float]


class KnownDetector:
    """Answers from a table: phrase -> box -> score. Keeps what it was asked."""

    def __init__(self, table: Mapping[str, Mapping[Box, float]]) -> None:
        self.table = table
        self.asked: list[tuple[str, ...]] = []

    def detect(self, image: Tensor, phrases: tuple[str, ...]) -> Detections:
        self.asked.append(phrases)
        boxes = sorted({box for answers in self.table.values() for box in answers})
        scores = torch.tensor(
            [[self.table.get(phrase, {}).get(box, 0.0) for phrase in phrases] for box in boxes]
        ).reshape(len(boxes), len(phrases))
        return Detections(torch.tensor(boxes).reshape(-1, 4), scores, scores)


def find(
    table: Mapping[str, Mapping[Box, float]], *phrases: str, choices: str = "all"
) -> list[GroundedObject]:
    return find_objects(
        KnownDetector(table),
        IMAGE,
        phrases,
        Thresholds(0.35, 0.25),
        parse_choices(choices, len(phrases)),
    )


def boxes(found: GroundedObject) -> list[Box]:
    return [i.box for i in found.instances]


def test_a_phrase_is_found_whatever_its_capitals_and_dots() -> None:
    (wolf,) = find({"grey wolf": {LEFT: 0.9}}, "Grey  WOLF.")
    assert boxes(wolf) == [LEFT] and wolf.phrase == "Grey  WOLF."


def test_a_phrase_that_is_not_found_is_looked_for_by_its_head_noun() -> None:
    (paprika,) = find({"paprika": {RIGHT: 0.6}}, "red-colored paprika")
    assert boxes(paprika) == [RIGHT] and paprika.words == "paprika"


@pytest.mark.parametrize(
    "noun",
    ["lens", "canvas", "atlas", "cookies", "potatoes", "series", "apples", "wolves", "people"],
)
def test_a_noun_is_looked_for_as_the_user_wrote_it(noun: str) -> None:
    """Detectors read plurals; a guessed singular of "lens" is no word at all."""
    detector = KnownDetector({"something else": {LEFT: 0.9}})
    (found,) = find_objects(detector, IMAGE, [f"two {noun}"], Thresholds(0.35, 0.25), ["all"])
    assert not found.instances
    assert detector.asked == [(f"two {noun}",), (noun,)]
    detector.asked.clear()
    find_objects(detector, IMAGE, [noun], Thresholds(0.35, 0.25), ["all"])
    assert detector.asked == [(noun,)]


def test_a_phrase_that_is_found_is_asked_for_once() -> None:
    detector = KnownDetector({"red wolf": {LEFT: 0.9}})
    find_objects(detector, IMAGE, ["red wolf"], Thresholds(0.35, 0.25), ["all"])
    assert detector.asked == [("red wolf",)]


def test_a_head_noun_takes_no_box_that_another_phrase_has() -> None:
    table = {"dog": {LEFT: 0.9}, "wolf": {LEFT: 0.8, RIGHT: 0.5}}
    dog, wolf = find(table, "dog", "silver wolf")
    assert boxes(dog) == [LEFT] and boxes(wolf) == [RIGHT]


def test_one_noun_for_two_phrases_is_dealt_by_what_the_phrases_scored() -> None:
    table = {
        "red paprika": {LEFT: 0.1, RIGHT: 0.3},
        "green paprika": {LEFT: 0.2, RIGHT: 0.1},
        "paprika": {LEFT: 0.8, RIGHT: 0.7},
    }
    red, green = find(table, "red paprika", "green paprika")
    assert boxes(red) == [RIGHT] and boxes(green) == [LEFT]


def test_a_noun_for_two_phrases_with_one_box_leaves_one_missing() -> None:
    table = {"red paprika": {LEFT: 0.3}, "paprika": {LEFT: 0.8}}
    red, green = find(table, "red paprika", "green paprika")
    assert boxes(red) == [LEFT] and not green.instances and green.claimed_by == "red paprika"


def test_two_phrases_on_one_object_find_the_second_object_by_its_noun() -> None:
    table = {
        "red paprika": {LEFT: 0.9},
        "green paprika": {LEFT: 0.6},
        "paprika": {LEFT: 0.7, RIGHT: 0.5},
    }
    red, green = find(table, "red paprika", "green paprika")
    assert boxes(red) == [LEFT] and boxes(green) == [RIGHT]


def test_a_phrase_whose_object_another_one_has_says_which() -> None:
    wolf, dog = find({"wolf": {LEFT: 0.5}, "dog": {LEFT: 0.9}}, "wolf", "dog")
    assert not wolf.instances and wolf.claimed_by == "dog"
    assert boxes(dog) == [LEFT]


def test_the_same_phrase_twice_takes_the_two_best_from_left_to_right() -> None:
    table = {"cat": {LEFT: 0.5, MIDDLE: 0.4, RIGHT: 0.9}}
    first, second = find(table, "cat", "Cat")
    assert boxes(first) == [LEFT] and boxes(second) == [RIGHT]


def test_the_same_phrase_twice_with_one_instance_leaves_the_second_missing() -> None:
    first, second = find({"cat": {LEFT: 0.5}}, "cat", "cat")
    assert boxes(first) == [LEFT] and not second.instances


def test_numbers_for_the_same_phrase_twice_count_all_of_its_instances() -> None:
    table = {"cat": {LEFT: 0.5, MIDDLE: 0.4, RIGHT: 0.9}}
    first, second = find(table, "cat", "cat", choices="3, 2")
    assert boxes(first) == [RIGHT] and boxes(second) == [MIDDLE]
    assert first.available == second.available == 3
    first, second = find(table, "cat", "cat", choices="best, 3")
    assert boxes(first) == [LEFT] and boxes(second) == [RIGHT]
    first, second = find(table, "cat", "cat", choices="2, 4")
    assert boxes(first) == [MIDDLE] and boxes(second) == [] and second.available == 3


def test_the_same_number_for_the_same_phrase_twice_leaves_the_second_missing() -> None:
    table = {"cat": {LEFT: 0.5, RIGHT: 0.9}}
    first, second = find(table, "cat", "cat", choices="1")
    assert boxes(first) == [LEFT] and boxes(second) == []
    assert second.claimed_by == "cat" and second.available == 0


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("all", [LEFT, MIDDLE, RIGHT]), ("best", [MIDDLE]), ("1", [LEFT]), ("3", [RIGHT]), ("4", [])],
)
def test_instances_are_chosen(choice: str, expected: list[Box]) -> None:
    table = {"cat": {LEFT: 0.5, MIDDLE: 0.9, RIGHT: 0.7}}
    (cat,) = find(table, "cat", choices=choice)
    assert boxes(cat) == expected and cat.available == 3


def test_each_object_may_have_its_own_choice() -> None:
    table = {"cat": {LEFT: 0.5, MIDDLE: 0.9}, "dog": {RIGHT: 0.7}}
    cat, dog = find(table, "cat", "dog", choices="best, all")
    assert boxes(cat) == [MIDDLE] and boxes(dog) == [RIGHT]


@pytest.mark.parametrize("text", ["some", "0", "-1", "1.5", "", "all,,best"])
def test_a_choice_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not all, best, or a number"):
        parse_choices(text, 3)


def test_a_wrong_number_of_choices_is_refused() -> None:
    with pytest.raises(ValueError, match="has 2 choices, but 3 objects"):
        parse_choices("all, best", 3)


@pytest.mark.parametrize("phrase", ["", " . ", "?!"])
def test_a_phrase_without_a_word_is_refused(phrase: str) -> None:
    with pytest.raises(ValueError, match="contains no word to look for"):
        find({}, phrase)
