"""Object-Restricted Embeddings (ORE): text embeddings in which no object's words or end-of-text
rows speak of another.

Mun, Nam, Cho, Ok: Addressing Text Embedding Leakage in Diffusion-based Image Editing, ICCV 2025
(arXiv 2412.04715), section 3.1 and Algorithm 1. Rows of a 77-token chunk: start of text, words,
then the end-of-text run to the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .edits import EndOfText, MethodSettings
from .spans import Span

BACKGROUND = -1


@dataclass(frozen=True, eq=False)
class Phrase:
    """One object's phrase encoded alone.

    embedding: (77, D); row 0 is start of text, rows [1, end) are its words, rows [end, 77) its
        end-of-text run.
    span: where its words stand in the base prompt.
    """

    text: str
    embedding: Tensor
    end: int
    span: Span


@dataclass(frozen=True, eq=False)
class Prompt:
    """The base prompt: embedding (chunks * 77, D) and, per chunk, the row of the first end-of-text
    token."""

    embedding: Tensor
    ends: tuple[int, ...]

    def chunks(self) -> tuple[Tensor, ...]:
        return self.embedding.chunk(len(self.ends), dim=0)


@dataclass(frozen=True, eq=False)
class ObjectRestrictedEmbeddings:
    """What RGB-CAM needs to know of a prompt. N tokens, D channels, K objects.

    keys: (N, D), the plain encoding of the base prompt.
    values: (K+1, N, D), ORE_1 .. ORE_K, then the background's embedding e'_base.
    owner: (N,) int64, the object whose word stands at a token, or BACKGROUND for every other token.
    phrases: the K phrases, in object order.
    settings: the method's settings that the values were built with.
    """

    keys: Tensor
    values: Tensor
    owner: Tensor
    phrases: tuple[str, ...]
    settings: MethodSettings

    @property
    def base(self) -> Tensor:
        """e'_base, (N, D)."""
        return self.values[-1]


def restrict_embeddings(
    base: Prompt, phrases: list[Phrase], empty: Tensor, settings: MethodSettings
) -> ObjectRestrictedEmbeddings:
    """ORE, Algorithm 1 of ALE-Edit, in both variants.

    base: plain encoding of the base prompt; every chunk is treated alone.
    phrases: the objects, each encoded alone, with its span in the base prompt.
    empty: (77, D), the encoding of the empty prompt (used by the "empty string" strategy only).
    With settings.ore off, every value is the plain encoding.
    """
    keys = base.embedding
    owner = torch.full((keys.shape[0],), BACKGROUND, dtype=torch.int64)
    length = keys.shape[0] // len(base.ends)
    for i, phrase in enumerate(phrases):
        owner.view(-1, length)[phrase.span.chunk, phrase.span.rows] = i
    if settings.ore:
        chunks = [
            _chunk_values(_PromptChunk(c, chunk, end), phrases, empty, settings)
            for c, (chunk, end) in enumerate(zip(base.chunks(), base.ends, strict=True))
        ]
        values = torch.cat(chunks, dim=1)
    else:
        values = keys.expand(len(phrases) + 1, *keys.shape).clone()
    texts = tuple(phrase.text for phrase in phrases)
    return ObjectRestrictedEmbeddings(keys, values, owner, texts, settings)


@dataclass(frozen=True, eq=False)
class _PromptChunk:
    """One chunk of the base prompt: number, plain encoding (77, D), first end-of-text row."""

    number: int
    base: Tensor
    end: int

    def holds(self, phrase: Phrase) -> bool:
        return phrase.span.chunk == self.number


def _chunk_values(
    chunk: _PromptChunk, phrases: list[Phrase], empty: Tensor, settings: MethodSettings
) -> Tensor:
    """Values of one chunk: (K+1, 77, D)."""
    substituted = chunk.base.clone()  # e'_base
    for phrase in filter(chunk.holds, phrases):  # lines 3 to 5
        rows = phrase.span.rows
        # Differs from the paper: the published code reads the phrase's embedding at the base
        # prompt's rows, which are its own words only for the first phrase of a prompt.
        own = rows if settings.variant == "published code" else slice(1, phrase.end)
        substituted[rows] = phrase.embedding[own]
    values = [
        _restrict(chunk, substituted, i, phrases, empty, settings) for i in range(len(phrases))
    ]
    if settings.end_of_text_in_base and settings.end_of_text not in ("ours", "naive"):
        run = end_of_text_rows(
            settings.end_of_text, chunk.base, chunk.end, chunk.base, chunk.end, empty
        )
        substituted[chunk.end :] = run
    return torch.stack([*values, substituted])


def _restrict(
    chunk: _PromptChunk,
    substituted: Tensor,
    index: int,
    phrases: list[Phrase],
    empty: Tensor,
    settings: MethodSettings,
) -> Tensor:
    """ORE of object `index` in one chunk: (77, D)."""
    out = substituted.clone()  # line 6
    if settings.variant == "published code":
        out[1 : chunk.end] = 0  # "and" and every other word of the prompt too
    else:
        for j, other in enumerate(phrases):
            if j != index and chunk.holds(other):
                out[other.span.rows] = 0  # line 8
    phrase = phrases[index]
    if chunk.holds(phrase):  # another chunk keeps its own end-of-text run
        out[phrase.span.rows] = phrase.embedding[1 : phrase.end]
        # line 10, aligned: the phrase's end-of-text run starts where the base prompt's does
        out[chunk.end :] = end_of_text_rows(
            settings.end_of_text, chunk.base, chunk.end, phrase.embedding, phrase.end, empty
        )
    return out


def end_of_text_rows(
    strategy: EndOfText, base: Tensor, end: int, phrase: Tensor, phrase_end: int, empty: Tensor
) -> Tensor:
    """The end-of-text run of an object's embedding, (N - end, D), by the strategies of the paper's
    table 12.

    base, phrase, empty: (N, D) encodings of the base prompt, of the object alone and of the empty
    prompt; their end-of-text runs start at rows end, phrase_end and 1. phrase_end must not be
    larger than end.
    """
    count = base.shape[0] - end
    if strategy == "ours":
        return phrase[phrase_end : phrase_end + count]
    if strategy == "naive":
        return base[end:]
    if strategy == "zeros":
        return torch.zeros_like(base[end:])
    if strategy == "bos":
        return base[:1].expand(count, -1)
    return empty[1 : 1 + count]  # "empty string"
