"""How well pictures fit words: similarities beside TE and TI, and what a similarity model is.

CLIPScore (J. Hessel et al., 2021, arXiv 2104.08718), as in PIE-Bench (X. Ju et al., 2024, arXiv
2310.01506): max(100 cos, 0); a region alone is the picture, black outside it and not cropped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from .leakage import Cosines, Leakage, cut_outs

Refusal: TypeAlias = Callable[[Sequence[str], tuple[int, int]], str]
"""Of texts and the (height, width) of pictures: why they cannot be compared; "" where they can."""


def refuses_nothing(_texts: Sequence[str], _size: tuple[int, int]) -> str:
    return ""


@dataclass(frozen=True)
class Similarity:
    """A text encoder and an image encoder into one space.

    name: what a report says of it. note: a doubt that every report repeats. refusal: of a model
    that knows some words or pictures only.
    """

    name: str
    cosines: Cosines
    note: str = ""
    refusal: Refusal = refuses_nothing


@dataclass(frozen=True)
class EditSimilarity:
    """Higher is better.

    objects: mean over objects of the score of the object alone and its target. union: all objects
    together on black, and the target prompt. whole: the whole image and the target prompt. The
    paper's "editing performance" does not say which of the first two it is.
    """

    objects: float
    union: float
    whole: float


def edit_similarity(
    cosines: Cosines, image: Tensor, masks: Tensor, prompt: str, found: Leakage
) -> EditSimilarity:
    """Of an image (H, W, 3) with raw masks (K, H, W) and the leakage found in it."""
    union = cut_outs(image, masks.amax(0, keepdim=True))[0]
    of_union, of_whole = clip_scores(cosines, torch.stack([union, image]), [prompt])[:, 0]
    objects = found.pairs[:, :-1].diagonal()
    return EditSimilarity(float(objects.mean()), float(of_union), float(of_whole))


def clip_scores(cosines: Cosines, images: Tensor, texts: Sequence[str]) -> Tensor:
    """CLIPScores (B, T) in [0, 100] of images (B, H, W, 3) and texts."""
    return (100 * cosines(images, list(texts))).clamp(min=0)
