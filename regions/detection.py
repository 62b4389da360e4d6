"""Which of a detector's boxes belongs to which phrase.

The published code of ALE-Edit keeps a box only if its label is, letter for letter, one of the
phrases, and so loses boxes whose label holds a part of a phrase. Here a box is judged by the scores
of each phrase's own tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

SAME_OBJECT = 0.8
"""Intersection over union from which two boxes are taken for one object."""


@dataclass(frozen=True, eq=False)
class Detections:
    """What a detector says of one image and P phrases.

    boxes: (Q, 4), left, top, right, bottom in pixels, inside the image. scores, heads: (Q, P) in
    [0, 1], the highest score of a phrase's tokens, and of its head noun's tokens.
    """

    boxes: Tensor
    scores: Tensor
    heads: Tensor


class Detector(Protocol):
    """From words to boxes."""

    def detect(self, image: Tensor, phrases: tuple[str, ...]) -> Detections:
        """image: (H, W, 3) in [0, 1]. phrases: cleaned, each once."""
        ...


class Segmenter(Protocol):
    """From boxes to masks."""

    def segment(self, image: Tensor, boxes: Tensor) -> Tensor:
        """image: (H, W, 3) in [0, 1], boxes: (n, 4) in pixels; masks (n, H, W), bool."""
        ...


@dataclass(frozen=True)
class Thresholds:
    """box: the least score of a phrase's best token. text: the least score of its head noun, so
    that no box is taken for the sake of an adjective alone."""

    box: float
    text: float


@dataclass(frozen=True)
class Instance:
    """One box of a phrase: left, top, right, bottom in pixels, and its score."""

    box: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class Match:
    """What was found for one phrase.

    instances: left to right. best: the highest score of any box for the phrase, 0 to 1. claimed_by:
    for a phrase without instances, the phrase that has the box which would have been its own.
    """

    instances: tuple[Instance, ...]
    best: float
    claimed_by: str | None = None


def concatenate(parts: Sequence[Detections]) -> Detections:
    """Detections of several lists of phrases in one image, as those of one list."""
    return Detections(
        torch.cat([part.boxes for part in parts]),
        torch.block_diag(*[part.scores for part in parts]),
        torch.block_diag(*[part.heads for part in parts]),
    )


def match(
    detections: Detections,
    phrases: Sequence[str],
    thresholds: Thresholds,
    taken: Sequence[tuple[str, Instance]] = (),
) -> list[Match]:
    """The boxes of each of P phrases.

    A box belongs to a phrase when its scores reach both thresholds. Of several boxes of one phrase
    on the same object the best stays. An object that two phrases claim goes to the one with the
    higher score. taken: boxes that other phrases have already.
    """
    kept: list[list[int]] = [[] for _ in phrases]
    losers: dict[int, str] = {}
    owners: list[str | None] = [None] * len(detections.boxes)

    def give(box: Tensor, owner: str) -> None:
        for q in (iou(box, detections.boxes) >= SAME_OBJECT).nonzero()[:, 0].tolist():
            owners[q] = owners[q] or owner

    for owner, instance in taken:
        give(torch.tensor(instance.box), owner)
    for q, p in _rank_claims(detections, thresholds):
        rival = owners[q]
        if rival is None:
            owners[q] = phrases[p]
            give(detections.boxes[q], phrases[p])
            kept[p].append(q)
        elif rival != phrases[p]:
            losers.setdefault(p, rival)
    best = detections.scores.amax(dim=0) if len(detections.scores) else torch.zeros(len(phrases))
    return [
        Match(
            left_to_right(_instance(detections, q, p) for q in queries),
            float(best[p]),
            None if queries else losers.get(p),
        )
        for p, queries in enumerate(kept)
    ]


def _rank_claims(detections: Detections, thresholds: Thresholds) -> list[list[int]]:
    """Box and phrase of all scores that reach the thresholds, the highest first."""
    passed = (detections.scores >= thresholds.box) & (detections.heads >= thresholds.text)
    passed &= detections.scores > 0  # 0: the box was made for another list of phrases
    order = detections.scores[passed].sort(descending=True, stable=True).indices
    return passed.nonzero()[order].tolist()


def left_to_right(instances: Iterable[Instance]) -> tuple[Instance, ...]:
    """Instances ordered by the middle of their boxes, then from top to bottom."""
    return tuple(sorted(instances, key=lambda i: (i.box[0] + i.box[2], i.box[1] + i.box[3])))


def _instance(detections: Detections, query: int, phrase: int) -> Instance:
    left, top, right, bottom = detections.boxes[query].tolist()
    return Instance((left, top, right, bottom), float(detections.scores[query, phrase]))


def iou(box: Tensor, boxes: Tensor) -> Tensor:
    """(n,): intersection over union of a box (4,) with each of n boxes (n, 4), left, top, right,
    bottom; 0 where both are empty."""
    low, high = torch.maximum(box[:2], boxes[:, :2]), torch.minimum(box[2:], boxes[:, 2:])
    shared = (high - low).clamp(min=0).prod(dim=1)
    union = (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(dim=1) - shared
    return torch.where(union > 0, shared / union, 0.0)
