"""Edit directions: what changes between the encodings of two sets of sentences.

Parmar, Singh, Zhang, Li, Lu, Zhu: Zero-shot Image-to-Image Translation, SIGGRAPH 2023 (arXiv
2302.03027), section 3.1. Embeddings are (N, D) rows of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .edits import text_lines

PHRASE = "{}"
TEMPLATES = (
    "{}",
    "a photo of {}",
    "a picture of {}",
    "a painting of {}",
    "a drawing of {}",
    "a view of {}",
    "{} in the room",
    "{} in the sky",
    "{} in the fog",
    "{} in the street",
)
"""Sentences around a phrase of an edit."""


@dataclass(frozen=True)
class SentencePair:
    """Sentences about the source and about the target of one direction."""

    source: tuple[str, ...]
    target: tuple[str, ...]


def make_sentences(phrase: str) -> tuple[str, ...]:
    """The built-in sentences about a phrase."""
    return tuple(template.replace(PHRASE, phrase) for template in TEMPLATES)


def read_sentences(text: str) -> tuple[str, ...]:
    """A person's own sentences, one a line; empty lines are left out."""
    return tuple(line.strip() for line in text_lines(text) if line.strip())


def find_direction(source: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """The mean of the encodings of the target's sentences less that of the source's: (N, D)."""
    return torch.stack([*target]).mean(0) - torch.stack([*source]).mean(0)


def move_along(text: Tensor, direction: Tensor) -> Tensor:
    """A text (M, D) moved along a direction (N, D), M a multiple of N: each chunk of a long text by
    the same."""
    return text + direction.to(text).repeat(len(text) // len(direction), 1)
