"""Edits and their embeddings for the tests of text. Imported as `ale_edit.tests.host.texts`."""

from __future__ import annotations

from typing import Any

import torch

from ale_edit.host.text.conditioning import ORE_KEY
from ale_edit.host.text.embedding import embed_side
from ale_edit.prompts.edits import Edits, Side
from ale_edit.prompts.ore import ObjectRestrictedEmbeddings
from ale_edit.tests.tiny import edits_of


def sources(*phrases: str, prompt: str | None = None, **settings: Any) -> Edits:
    """Edits of which only the sources matter."""
    return edits_of([(phrase, "x") for phrase in phrases], source_prompt=prompt, **settings)


def embed(clip: Any, edits: Edits, side: Side = "source") -> ObjectRestrictedEmbeddings:
    ((text, options),) = embed_side(clip, edits, side)
    ore = options[ORE_KEY]
    assert torch.equal(text[0], ore.base)
    return ore


def rows(ore: ObjectRestrictedEmbeddings, i: int) -> list[int]:
    """The rows that object i owns."""
    return (ore.owner == i).nonzero().flatten().tolist()


def owned(clip: Any, ore: ObjectRestrictedEmbeddings, prompt: str, encoder: str = "l") -> Any:
    """The token ids that each object owns in a prompt."""
    tokens = [entry[0] for chunk in clip.tokenize(prompt)[encoder] for entry in chunk]
    return [[tokens[row] for row in rows(ore, i)] for i in range(len(ore.phrases))]
