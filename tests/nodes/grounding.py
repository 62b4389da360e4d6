"""What the tests of Grounded-SAM Masks share: a picture in which the objects are known.

Imported by tests as `ale_edit.tests.nodes.grounding`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ale_edit.tests.nodes.graph import one, picture, run
from ale_edit.tests.regions.test_objects import KnownDetector
from ale_edit.tests.tiny import box_mask

NODE = "ALEGroundedSAMMasks"
WOLF, MOON = (8.0, 8.0, 24.0, 40.0), (36.0, 20.0, 60.0, 56.0)
TABLE = {"wolf": {WOLF: 0.9}, "yellow moon": {MOON: 0.8}}
TEXT = "wolf -> goat\nYellow Moon. -> soccer ball"


class Boxes:
    """A segmenter whose masks are the boxes, shrunk by a pixel, with a speck."""

    def segment(self, image: Tensor, boxes: Tensor) -> Tensor:
        masks = torch.zeros(len(boxes), *image.shape[:2], dtype=torch.bool)
        for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
            mask[top + 1 : bottom - 1, left + 1 : right - 1] = True
            mask[0, 0] = True
        return masks


def find(table: Mapping[str, Any] = TABLE, text: str = TEXT, **inputs: Any) -> tuple[Any, ...]:
    given = {"image": picture(), "segmenter": Boxes(), "dilation": 0.0, **inputs}
    edits = given.pop("edits", None) or one("ALEEditList", text=text)
    return run(NODE, edits=edits, detector=KnownDetector(table), **given)


def box(area: tuple[float, ...], shrunk: int = 0) -> Tensor:
    left, top, right, bottom = (int(v) for v in area)
    return box_mask(
        64,
        64,
        top=top + shrunk,
        left=left + shrunk,
        bottom=bottom - shrunk,
        right=right - shrunk,
    )
