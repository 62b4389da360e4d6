"""What the tests of the nodes of scores share.

Imported by tests as `ale_edit.tests.nodes.scores`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ale_edit.scoring.similarity import Similarity
from ale_edit.tests.nodes.graph import edits_with_masks, one, picture, run
from ale_edit.tests.tiny import two_boxes


def mean_colors(images: Tensor, texts: list[str]) -> Tensor:
    """Cosines that depend on every pixel and on every word."""
    weights = torch.tensor([[len(t) % 5 + 1.0, len(t) % 3 + 1.0, 1.0] for t in texts])
    return torch.nn.functional.cosine_similarity(
        images.mean((1, 2))[:, None] + 1e-3, weights[None], dim=-1
    )


HALVES = torch.stack([torch.ones(64, 64).tril(), 1 - torch.ones(64, 64).tril()])
MODEL = Similarity("mean colours", mean_colors)


def regions(**inputs: Any) -> Any:
    return one("ALERegions", **{"edits": edits_with_masks(), **inputs})


def leak(**inputs: Any) -> tuple[Any, ...]:
    usual = {"image": picture(), "regions": regions(), "edits": edits_with_masks()}
    return run("ALELeakageScore", **{**usual, "similarity": MODEL, **inputs})


def keep(**inputs: Any) -> tuple[Any, ...]:
    usual = {"image": picture(seed=5), "source": picture(), "regions": regions()}
    return run("ALEPreservationScore", **{**usual, **inputs})


def compare(images: Any, labels: str = "", **inputs: Any) -> tuple[Any, ...]:
    usual: dict[str, Any] = {"columns": [0], "cell_height": [128]}
    return run("ALECompare", images=images, labels=[labels], **{**usual, **inputs})


def background() -> Tensor:
    return 1 - torch.stack(two_boxes(64, 64)).amax(0)
