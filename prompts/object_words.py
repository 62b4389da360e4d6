"""The words of each object: where the phrases of the edits, their words, and words that the person
names stand in a prompt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from .alignment import EncodedPrompt, Rows, Word
from .blend_words import blend_words
from .edits import Side
from .spans import find_spans_anywhere
from .word_replacement import find_everywhere, split_words

ReadWord: TypeAlias = Callable[[str], Word]


def find_phrases(
    side: Side, phrases: Sequence[str], prompt: EncodedPrompt, read_word: ReadWord
) -> list[Rows]:
    """The rows of each phrase in the prompt of its side.

    Raises ValueError for a phrase that is not there.
    """
    spans = find_spans_anywhere(prompt.tokens, [read_word(p).tokens for p in phrases])
    length = len(prompt.tokens.chunks[0])
    found: list[Rows] = []
    for phrase, span in zip(phrases, spans, strict=True):
        if span is None:
            raise ValueError(
                f'the {side} phrase "{phrase}" does not occur in the {side} prompt '
                f'("{prompt.text}"). Use the same words in the edit and in the full prompt, once '
                "for every edit."
            )
        found.append(tuple(span.chunk * length + r for r in range(span.start, span.stop)))
    return found


def words_of_phrase(
    phrase: str, rows: Rows, prompt: EncodedPrompt, read_word: ReadWord
) -> list[Rows]:
    """The rows of each word of a phrase that stands at `rows` of a prompt."""
    each = (find_everywhere(prompt.tokens, read_word(word)) for word in split_words(phrase))
    return [part for part in (inside(word, rows) for word in each) if part]


def find_named_words(
    name: str, words: str, side: Side, prompt: EncodedPrompt, read_word: ReadWord
) -> dict[str, Rows]:
    """The rows of each word of a setting, wherever it stands. name: of the setting.

    Raises ValueError for a word that is not in the prompt.
    """
    found = {word: find_everywhere(prompt.tokens, read_word(word)) for word in blend_words(words)}
    for word, rows in found.items():
        if not rows:
            raise ValueError(
                f'the word "{word}" of {name} does not occur in the {side} prompt '
                f'("{prompt.text}"). Write it as in the prompt, or leave it out.'
            )
    return found


def share_among(words: Mapping[str, Rows], phrases: Sequence[Rows]) -> list[tuple[Rows, ...]]:
    """The words of each phrase: those that stand in it, and those that stand in no phrase."""
    free = [rows for rows in words.values() if not any(inside(rows, p) for p in phrases)]
    return [
        (*(part for rows in words.values() if (part := inside(rows, phrase))), *free)
        for phrase in phrases
    ]


def inside(word: Rows, phrase: Rows) -> Rows:
    """The rows of a word that are a phrase's."""
    return tuple(row for row in word if row in phrase)
