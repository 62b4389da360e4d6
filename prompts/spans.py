"""Where each object's phrase stands in a tokenised prompt.

A prompt is a list of chunks; a chunk is a list of `length` tokens that begins with the
start-of-text token and ends with a run of end-of-text and padding tokens. Tokens are compared by id
(or, for textual inversions, by value).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

Token: TypeAlias = int | Tensor


@dataclass(frozen=True)
class Span:
    """Token rows [start, stop) of chunk `chunk`; row 0 of a chunk is the start-of-text token."""

    chunk: int
    start: int
    stop: int

    @property
    def rows(self) -> slice:
        return slice(self.start, self.stop)

    def overlaps(self, other: Span) -> bool:
        return self.chunk == other.chunk and self.start < other.stop and other.start < self.stop


@dataclass(frozen=True)
class Tokens:
    """One tokenised prompt.

    chunks: one list of tokens a chunk, all of the same length.
    ends: per chunk the row of its first end-of-text token.
    inner: (chunk, row) of every token that does not begin a word ("firetruck" is "fire", "truck").
    """

    chunks: tuple[tuple[Token, ...], ...]
    ends: tuple[int, ...]
    inner: frozenset[tuple[int, int]] = frozenset()

    @property
    def words(self) -> tuple[Token, ...]:
        """The tokens between start and end of text, of all chunks."""
        rows = zip(self.chunks, self.ends, strict=True)
        return tuple(token for chunk, end in rows for token in chunk[1:end])


def find_spans_in_order(prompt: Tokens, phrases: Sequence[Sequence[Token]]) -> list[Span | None]:
    """Spans of phrases that stand in the prompt in their own order, each searched after the one
    before.

    Exact for a base prompt that was joined from the phrases, also when a phrase is repeated or lies
    inside another.
    """
    spans: list[Span | None] = []
    chunk, row = 0, 1
    for phrase in phrases:
        found = next(
            (s for s in occurrences(prompt, phrase) if (s.chunk, s.start) >= (chunk, row)), None
        )
        if found is not None:
            chunk, row = found.chunk, found.stop
        spans.append(found)
    return spans


def find_spans_anywhere(prompt: Tokens, phrases: Sequence[Sequence[Token]]) -> list[Span | None]:
    """Spans of phrases in a prompt that the user wrote: longest phrase first, none overlapping,
    equal phrases in order."""
    spans: list[Span | None] = [None] * len(phrases)
    taken: list[Span] = []
    for i in sorted(range(len(phrases)), key=lambda i: (-len(phrases[i]), i)):
        free = (s for s in occurrences(prompt, phrases[i]) if not any(map(s.overlaps, taken)))
        spans[i] = next(free, None)
        taken.extend(s for s in (spans[i],) if s is not None)
    return spans


def find_first_spans(prompt: Tokens, phrases: Sequence[Sequence[Token]]) -> list[Span | None]:
    """The first occurrence of every phrase, as the published code searches: repeated phrases share
    one span, and a phrase may be the end of a longer word."""
    tokens = replace(prompt, inner=frozenset())
    return [next(iter(occurrences(tokens, phrase)), None) for phrase in phrases]


SpanSearch: TypeAlias = Callable[[Tokens, Sequence[Sequence[Token]]], list[Span | None]]


def occurrences(prompt: Tokens, phrase: Sequence[Token]) -> list[Span]:
    """Every span of the prompt at which the phrase stands whole inside one chunk and begins with a
    word."""
    length = len(phrase)
    return [
        Span(c, start, start + length)
        for c, (chunk, end) in enumerate(zip(prompt.chunks, prompt.ends, strict=True))
        for start in range(1, end - length + 1)
        if (c, start) not in prompt.inner
        and all(map(same_token, chunk[start : start + length], phrase))
    ]


def same_token(a: Token, b: Token) -> bool:
    """Whether two tokens have one id, or as textual inversions one value."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and torch.equal(a, b)
    return a == b
