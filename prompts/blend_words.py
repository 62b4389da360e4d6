"""Words that a local blend goes by: where they stand in the target prompt.

InfEdit (arXiv 2312.04965) keeps an edit to the words that it is about, its target blend, and keeps
the source on words that both prompts have, its source blend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .alignment import Alignment, EncodedPrompt, Rows, Word, find_words, token_at
from .spans import same_token


@dataclass(frozen=True)
class BlendRows:
    """Rows of the target prompt that the local blend goes by.

    edited: of the target blend. kept: of the source blend.
    """

    edited: Rows = ()
    kept: Rows = ()

    @property
    def common_rows(self) -> Rows:
        """Of words in both: their layout may change, their look may not."""
        return tuple(row for row in self.edited if row in self.kept)

    @property
    def fixed_rows(self) -> Rows:
        return tuple(row for row in self.kept if row not in self.edited)


def blend_words(blend: str) -> list[str]:
    """The words of a blend, which blanks or commas stand between."""
    return blend.replace(",", " ").split()


def blend_rows(
    target_words: Sequence[Word],
    source_words: Sequence[Word],
    alignment: Alignment,
    source: EncodedPrompt,
    target: EncodedPrompt,
) -> BlendRows:
    """Where the blend words stand in the target prompt.

    A word of the target blend may be one of the source prompt in whose place the target has
    another. Raises ValueError naming the word that is not in its prompt.
    """
    edited: set[int] = set()
    for word, rows in zip(target_words, find_words(target.tokens, target_words), strict=True):
        found = {*rows, *_rows_in_place_of(word, alignment, source)}
        if not found:
            raise ValueError(
                f'the target blend word "{word.text}" does not occur in the target prompt '
                f'("{target.text}"). Write it as in the prompt, or leave it out.'
            )
        edited |= found

    def is_kept(rows: Rows) -> bool:
        """Whether the source prompt has the same tokens at the places opposite."""
        opposite = [(row, int(alignment.mapper[row])) for row in rows]
        return all(
            other >= 0 and same_token(token_at(source.tokens, other), token_at(target.tokens, row))
            for row, other in opposite
        )

    kept: set[int] = set()
    for word, rows in zip(
        source_words, find_words(target.tokens, source_words, is_kept), strict=True
    ):
        if not rows:
            raise ValueError(
                f'the source blend word "{word.text}" is not at the same place in the '
                f'source prompt ("{source.text}") and in the target prompt ("{target.text}"). '
                "Choose a word that both have, or leave it out."
            )
        kept.update(rows)
    return BlendRows(tuple(sorted(edited)), tuple(sorted(kept)))


def _rows_in_place_of(word: Word, alignment: Alignment, source: EncodedPrompt) -> list[int]:
    """The target rows that likeness aligned with a token of a word of the source prompt."""
    rows = alignment.is_filled.nonzero().flatten().tolist()
    return [
        row
        for row in rows
        if any(
            same_token(token_at(source.tokens, int(alignment.mapper[row])), token)
            for token in word.tokens
        )
    ]
