"""Texts moved along edit directions (prompts/directions.py) by ComfyUI's CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from ...prompts.directions import SentencePair, find_direction, move_along
from ..comfy_types import Conditioning
from .embedding import NODE, encode_whole

if TYPE_CHECKING:
    from comfy.sd import CLIP

POOLED = "pooled_output"


def move_text(
    clip: CLIP, conditioning: Conditioning, directions: Sequence[SentencePair]
) -> Conditioning:
    """A CONDITIONING of one entry, moved along the sum of some directions; its pooled vector, too.

    Raises ValueError for a sentence without tokens, or with more than one chunk of them.
    """
    ((embedding, options),) = conditioning
    text: Tensor = embedding[0]
    pooled: Tensor | None = options.get(POOLED)
    for pair in directions:
        source, target = (
            [_encode(clip, sentence) for sentence in sentences]
            for sentences in (pair.source, pair.target)
        )
        text = move_along(text, find_direction(*([e[0][0] for e in s] for s in (source, target))))
        if pooled is not None:
            own = find_direction(*([e[1][POOLED] for e in s] for s in (source, target)))
            pooled = pooled + own.to(pooled)
    return [[text[None], {**options, POOLED: pooled}]]


def _encode(clip: CLIP, sentence: str) -> tuple[Tensor, dict[str, Tensor]]:
    """The rows (1, N, D) of a sentence, and what comes with them."""
    conditioning, encoded = encode_whole(clip, sentence, "the sentence")
    if len(encoded.tokens.chunks) > 1:
        most = len(encoded.tokens.chunks[0]) - 2
        raise ValueError(
            f'{NODE}: the sentence "{sentence}" has {len(encoded.tokens.words)} tokens, more than '
            f"the {most} of one chunk. Shorten it."
        )
    return conditioning[0][0], conditioning[0][1]
