"""Which words of a target prompt stand for which words of the source prompt.

Hertz et al.: Prompt-to-Prompt (arXiv 2208.01626) aligns the tokens of the two prompts (its
"refinement"); the published code of InfEdit (arXiv 2312.04965) adds pairs of unlike words by the
likeness of their embeddings. Rows of a chunk: start of text, words, then the end-of-text run; every
chunk of a prompt is treated alone, and row r of chunk c is row c * length + r of the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from torch import Tensor

from .edits import Variant
from .spans import Token, Tokens, occurrences, same_token

UNALIGNED = -1

Rows: TypeAlias = tuple[int, ...]
"""Rows of a prompt, all chunks counted through."""


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """A prompt in words, in tokens, and encoded: (N, D), N rows of all chunks."""

    text: str
    tokens: Tokens
    embedding: Tensor


@dataclass(frozen=True, eq=False)
class Word:
    """A word and the tokens between start and end of text of that word alone."""

    text: str
    tokens: tuple[Token, ...]


@dataclass(frozen=True, eq=False)
class Alignment:
    """mapper: (N,) int64, for each of the N target rows a source row, or UNALIGNED. is_filled: (N,)
    bool, the rows aligned by likeness instead of by an equal token."""

    mapper: Tensor
    is_filled: Tensor


def align(source: Tokens, target: Tokens) -> Alignment:
    """The refinement of Prompt-to-Prompt: equal tokens in equal order, and the padding after the
    target's end of text row by row.

    A target chunk for which the source has none stays unaligned.
    """
    length = len(target.chunks[0])
    mapper = torch.full((len(target.chunks), length), UNALIGNED, dtype=torch.int64)
    for c, (mine, end) in enumerate(zip(target.chunks, target.ends, strict=True)):
        if c < len(source.chunks):
            theirs = source.chunks[c][: source.ends[c] + 1]
            rows = torch.tensor(_align_tokens(theirs, mine[: end + 1]))
            rows = torch.cat([rows, torch.arange(end + 1, length)])
            mapper[c] = torch.where(rows >= 0, rows + c * length, UNALIGNED)
    flat = mapper.flatten()
    return Alignment(flat, torch.zeros_like(flat, dtype=torch.bool))


def align_by_likeness(source: EncodedPrompt, target: EncodedPrompt, variant: Variant) -> Alignment:
    """InfEdit's alignment: `align`, and in each run of unaligned target words the one pair of a
    target word and a source word of the gap opposite whose embeddings are most alike.

    variant: the published code compares the source's embedding at the target's row with the
    target's at the source's row, which are other words; the paper variant compares the words.
    """
    alignment = align(source.tokens, target.tokens)
    mapper, is_filled = alignment.mapper.clone(), alignment.is_filled.clone()
    length = len(target.tokens.chunks[0])
    chunks = min(len(source.tokens.chunks), len(target.tokens.chunks))
    likeness = _likeness(source.embedding, target.embedding)
    if variant == "published code":
        likeness = likeness.T
    for c, end in enumerate(target.tokens.ends[:chunks]):
        start = c * length
        for first, last in _find_unaligned_runs(mapper[start : start + end + 1]):
            rows = range(start + first, start + last)
            opposite = range(int(mapper[rows.start - 1]) + 1, int(mapper[rows.stop]))
            if len(opposite):
                alike = likeness[rows.start : rows.stop, opposite.start : opposite.stop]
                row, other = divmod(int(alike.argmax()), len(opposite))
                mapper[rows[row]] = opposite[other]
                is_filled[rows[row]] = True
    return replace(alignment, mapper=mapper, is_filled=is_filled)


def is_aligned(alignment: Alignment, target: EncodedPrompt) -> bool:
    """Whether any word of the target prompt is aligned with one of the source's."""
    mapper, length = alignment.mapper, len(target.tokens.chunks[0])
    words = [c * length + r for c, end in enumerate(target.tokens.ends) for r in range(1, end)]
    return any(mapper[row] >= 0 for row in words)


def require_aligned(alignment: Alignment, source: EncodedPrompt, target: EncodedPrompt) -> None:
    """Raises ValueError when no word of the target prompt is aligned with one of the source's."""
    if not is_aligned(alignment, target):
        raise ValueError(
            f'no word of the target prompt ("{target.text}") can be aligned with one of the source '
            f'prompt ("{source.text}"). Use the same words in both prompts of the edits, except '
            "for what changes."
        )


def find_words(
    prompt: Tokens, words: Sequence[Word], accepts: Callable[[Rows], bool] = lambda rows: True
) -> list[Rows]:
    """The rows of each word in a prompt: of the first occurrence after the word before, else of
    the first one anywhere; none where it does not stand. accepts: rows that count."""
    length = len(prompt.chunks[0])
    found: list[Rows] = []
    behind = 0
    for word in words:
        spans = occurrences(prompt, word.tokens) if word.tokens else []
        places = [
            tuple(range(s.chunk * length + s.start, s.chunk * length + s.stop)) for s in spans
        ]
        places = [rows for rows in places if accepts(rows)]
        rows = next((rows for rows in places if rows[0] >= behind), (*places, ())[0])
        behind = rows[-1] + 1 if rows else behind
        found.append(rows)
    return found


def token_at(prompt: Tokens, row: int) -> Token:
    """The token at a row of a prompt, all chunks counted through."""
    chunk, row = divmod(row, len(prompt.chunks[0]))
    return prompt.chunks[chunk][row]


def _align_tokens(source: Sequence[Token], target: Sequence[Token]) -> list[int]:
    """For each target token its source token or UNALIGNED, by Needleman and Wunsch with gap 0,
    match 1, mismatch -1; among equally good alignments a target gap is preferred to a source gap,
    and both to a pair."""
    scores = [[0] * (len(target) + 1) for _ in range(len(source) + 1)]
    for i, theirs in enumerate(source, start=1):
        for j, mine in enumerate(target, start=1):
            pair = scores[i - 1][j - 1] + (1 if same_token(theirs, mine) else -1)
            scores[i][j] = max(scores[i][j - 1], scores[i - 1][j], pair)
    rows = [UNALIGNED] * len(target)
    i, j = len(source), len(target)
    while i and j:
        if scores[i][j] == scores[i][j - 1]:
            j -= 1
        elif scores[i][j] == scores[i - 1][j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            rows[j] = i
    return rows


def _find_unaligned_runs(mapper: Tensor) -> Iterator[tuple[int, int]]:
    """[first, last) of every run of unaligned rows between aligned ones."""
    first = None
    for row, source in enumerate(mapper.tolist()):
        if source == UNALIGNED:
            first = row if first is None else first
        elif first is not None:
            yield first, row
            first = None


def _likeness(source: Tensor, target: Tensor) -> Tensor:
    """(N_target, N_source) cosine similarities of two encoded prompts."""
    source, target = (t.float() for t in (source, target))
    source, target = (t / t.norm(dim=-1, keepdim=True).clamp(min=1e-8) for t in (source, target))
    return target @ source.T
