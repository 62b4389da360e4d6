"""From phrases to the boxes of each object: detection, a second query by head nouns, choice of
instances."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .detection import (
    Detections,
    Detector,
    Instance,
    Match,
    Thresholds,
    iou,
    left_to_right,
    match,
)
from .phrases import clean_phrase, head_noun

NEAR = 0.5
"""Intersection over union from which a box of one detection speaks of a box of another."""
CHOICES = ("all", "best")


@dataclass(frozen=True)
class GroundedObject:
    """One object of the edits.

    phrase: as the user wrote it. words: what the detector was asked for. instances: the boxes that
    were chosen, left to right. available: how many there were to choose from. best: the highest
    score that any box had for the phrase. claimed_by: for an object without boxes, the phrase that
    has the box it would have had, which is its own where it occurs in several edits. choice: which
    of the instances the user wants.
    """

    phrase: str
    words: str
    instances: tuple[Instance, ...]
    available: int
    best: float
    claimed_by: str | None = None
    choice: str = "all"


def parse_choices(text: str, count: int) -> list[str]:
    """Which instances each of `count` objects takes: "all", "best", or a number from 1, counted
    from left to right; one choice for all objects, or one for each, with commas between.

    Raises ValueError with the words that are not understood, or when the count is wrong.
    """
    choices = [choice.strip().lower() for choice in text.split(",")]
    wrong = [c for c in choices if c not in CHOICES and not re.fullmatch(r"[1-9]\d{0,3}", c)]
    if wrong:
        raise ValueError(
            f'the instances input is "{text}"; "{wrong[0]}" is not all, best, or a number '
            "from 1 that counts from left to right. Write one of them, or one for each object with "
            "commas between, such as: all, best, 2."
        )
    if len(choices) not in (1, count):
        raise ValueError(
            f'the instances input "{text}" has {len(choices)} choices, but {count} objects are '
            f"looked for. Write one choice for all of them, or {count} with commas between."
        )
    return choices * count if len(choices) == 1 else choices


def find_objects(
    detector: Detector,
    image: Tensor,
    phrases: Sequence[str],
    thresholds: Thresholds,
    choices: Sequence[str],
) -> list[GroundedObject]:
    """The boxes of each phrase in an image (H, W, 3) in [0, 1].

    A phrase that is not found is looked for by its head noun. A phrase that occurs several
    times takes the best instances, one each, from left to right, but numbers count all of them.
    Raises ValueError for a phrase without a word.
    """
    cleaned = require_words(phrases)
    unique = tuple(dict.fromkeys(cleaned))
    first = detector.detect(image, unique)
    found = {
        name: GroundedObject(name, name, m.instances, len(m.instances), m.best, m.claimed_by)
        for name, m in zip(unique, match(first, unique, thresholds), strict=True)
    }
    nouns = {
        name: noun
        for name, entry in found.items()
        if not entry.instances and (noun := head_noun(name)) != name
    }
    if nouns:
        found.update(_find_by_noun(detector, image, first, unique, thresholds, found, nouns))
    wanted = {
        name: [choice for other, choice in zip(cleaned, choices, strict=True) if other == name]
        for name in unique
    }
    shares = {name: _share_out(found[name], wanted[name]) for name in unique}
    return [
        replace(shares[name].pop(0), phrase=phrase, choice=choice)
        for phrase, name, choice in zip(phrases, cleaned, choices, strict=True)
    ]


def require_words(phrases: Sequence[str]) -> list[str]:
    """The phrases cleaned; ValueError for one without a word."""
    cleaned = [clean_phrase(phrase) for phrase in phrases]
    if "" in cleaned:
        phrase = phrases[cleaned.index("")]
        raise ValueError(f'the source phrase "{phrase}" contains no word to look for.')
    return cleaned


def _find_by_noun(
    detector: Detector,
    image: Tensor,
    first: Detections,
    unique: tuple[str, ...],
    thresholds: Thresholds,
    found: dict[str, GroundedObject],
    nouns: dict[str, str],
) -> dict[str, GroundedObject]:
    """What the head nouns of some phrases find that no other phrase has."""
    asked = tuple(dict.fromkeys(nouns.values()))
    taken = [(name, i) for name, entry in found.items() for i in entry.instances]
    second = match(detector.detect(image, asked), asked, thresholds, taken)
    out: dict[str, GroundedObject] = {}
    for noun, result in zip(asked, second, strict=True):
        owners = [name for name in nouns if nouns[name] == noun]
        scores = {name: first.scores[:, unique.index(name)] for name in owners}
        dealt = _deal(result, owners, first.boxes, scores)
        holder = next((name for name in owners if dealt[name]), None)
        for name in owners:
            claimed = found[name].claimed_by or result.claimed_by or holder
            out[name] = GroundedObject(
                name,
                noun if dealt[name] else name,
                left_to_right(dealt[name]),
                len(dealt[name]),
                max(found[name].best, result.best if not dealt[name] else 0.0),
                None if dealt[name] else claimed,
            )
    return out


def _deal(
    result: Match, owners: list[str], boxes: Tensor, scores: dict[str, Tensor]
) -> dict[str, list[Instance]]:
    """Instances of one noun shared out to the phrases that have it as their head noun, by what the
    whole phrases scored there: first one for each phrase, then the rest."""
    if len(owners) == 1:
        return {owners[0]: list(result.instances)}
    near = [iou(torch.tensor(i.box), boxes) >= NEAR for i in result.instances]
    fit = {
        (name, i): float((scores[name] * near[i]).amax()) if len(boxes) else 0.0
        for name in owners
        for i in range(len(result.instances))
    }
    dealt: dict[str, list[Instance]] = {name: [] for name in owners}
    free = set(range(len(result.instances)))
    for name, i in sorted(fit, key=lambda pair: -fit[pair]):
        if not dealt[name] and i in free:
            dealt[name].append(result.instances[i])
            free.discard(i)
    for i in sorted(free):
        dealt[max(owners, key=lambda name: fit[name, i])].append(result.instances[i])
    return dealt


def _share_out(entry: GroundedObject, choices: Sequence[str]) -> list[GroundedObject]:
    """What each of the edits of one phrase gets, by their choices."""
    if len(choices) == 1 or not entry.instances:
        return [_choose(entry, choice) for choice in choices]
    asked = {choice for choice in choices if choice not in CHOICES}
    rest = [i for n, i in enumerate(entry.instances, start=1) if str(n) not in asked]
    best = sorted(rest, key=lambda i: -i.score)[: sum(choice in CHOICES for choice in choices)]
    dealt = iter(left_to_right(best))
    taken = replace(entry, instances=(), available=0, claimed_by=entry.phrase)
    shares: list[GroundedObject] = []
    for choice in choices:
        if choice in CHOICES:
            instance = next(dealt, None)
            shares.append(replace(entry, instances=(instance,)) if instance else taken)
        else:
            shares.append(_choose(entry, choice) if choice in asked else taken)
            asked.discard(choice)
    return shares


def _choose(entry: GroundedObject, choice: str) -> GroundedObject:
    """The instances that the user wants of those available; none where the number is too high."""
    if choice == "all" or not entry.instances:
        return entry
    if choice == "best":
        return replace(entry, instances=(max(entry.instances, key=lambda i: i.score),))
    number = int(choice)
    return replace(entry, instances=entry.instances[number - 1 : number])
