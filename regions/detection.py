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


def concatenated(parts: Sequence[Detections]) -> Detections:
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
    passed = (detections.scores >= thresholds.box) & (detections.heads >= thresholds.text)
    claims = sorted(
        ((float(detections.scores[q, p]), int(q), int(p)) for q, p in passed.nonzero()),
        key=lambda claim: -claim[0],
    )
    kept: list[list[int]] = [[] for _ in phrases]
    losers: dict[int, str] = {}
    given = [(owner, torch.tensor(instance.box)) for owner, instance in taken]
    for _, q, p in claims:
        box = detections.boxes[q]
        rival = next((name for name, other in given if iou(box, other) >= SAME_OBJECT), None)
        if rival is None:
            given.append((phrases[p], box))
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


def left_to_right(instances: Iterable[Instance]) -> tuple[Instance, ...]:
    """Instances ordered by the middle of their boxes, then from top to bottom."""
    return tuple(sorted(instances, key=lambda i: (i.box[0] + i.box[2], i.box[1] + i.box[3])))


def _instance(detections: Detections, query: int, phrase: int) -> Instance:
    left, top, right, bottom = detections.boxes[query].tolist()
    return Instance((left, top, right, bottom), float(detections.scores[query, phrase]))


def iou(a: Tensor, b: Tensor) -> float:
    """Intersection over union of two boxes (4,), left, top, right, bottom; 0 where both are
    empty."""
    width, height = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0)
    shared = float(width * height)
    areas = sum(float((box[2] - box[0]) * (box[3] - box[1])) for box in (a, b))
    return shared / (areas - shared) if areas > shared else 0.0
