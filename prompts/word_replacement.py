"""Prompt-to-Prompt's replacement of words, and the words that its settings name.

Hertz, Mokady, Tenenbaum, Aberman, Pritch, Cohen-Or: Prompt-to-Prompt Image Editing with Cross
Attention Control, ICLR 2023 (arXiv 2208.01626). Word i of the target prompt stands for word i of
the source prompt. Words are what blanks stand between; rows are counted through all chunks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .alignment import EncodedPrompt, Rows, Word
from .edits import Variant
from .spans import Tokens, occurrences, same_token

OWN = -1.0
"""Share of a target row that keeps its own map."""


def split_words(text: str) -> list[str]:
    """The words of a prompt, without the marks of its weights."""
    text = re.sub(r"(?<!\\):\s*[-+]?[\d.]+\s*(?=\))", "", text)
    return re.sub(r"(?<!\\)[()]", "", text).split()


def find_everywhere(prompt: Tokens, word: Word) -> Rows:
    """The rows of every place where a word stands in a prompt."""
    length = len(prompt.chunks[0])
    spans = occurrences(prompt, word.tokens) if word.tokens else []
    return tuple(
        span.chunk * length + row for span in spans for row in range(span.start, span.stop)
    )


def parse_factors(
    text: str, name: str = "reweight", phrases: Sequence[str] = ()
) -> list[tuple[str, float]]:
    """Words with their factors: "goat: 2.0, ball: 1.5". name: of the setting. phrases: that may
    stand in place of a word, commas and all.

    Raises ValueError for anything else.
    """
    found = []
    longest_first = sorted(filter(None, phrases), key=len, reverse=True)
    piece = "|".join([*map(re.escape, longest_first), r"[^,\n]"])
    for part in filter(None, (part.strip() for part in re.findall(f"(?:{piece})+", text))):
        word, colon, number = part.rpartition(":")
        try:
            factor = float(number)
        except ValueError:
            factor = float("nan")
        if not (colon and word.strip() and abs(factor) < float("inf")):
            raise ValueError(
                f'{name} has "{part}", which is not a word with a factor. Write it like '
                '"goat: 2.0, ball: 1.5".'
            )
        found.append((word.strip(), factor))
    return found


def replacement_shares(
    source: EncodedPrompt,
    target: EncodedPrompt,
    read_word: Callable[[str], Word],
    variant: Variant = "paper",
) -> Tensor:
    """(N_source, N_target): what the map of each target row takes of each source row's map; OWN in
    a column that keeps its own.

    A word of the same number of tokens takes them one by one; else each of its tokens takes an
    equal part of them all. Start of text and the end-of-text run take those of the source's same
    chunk. variant: after the last word that differs, the published code takes the source's row of
    the same number, which is another word where words before it have other numbers of tokens.

    Raises ValueError when the prompts differ in their number of words.
    """
    names = split_words(source.text), split_words(target.text)
    if len(names[0]) != len(names[1]):
        raise ValueError(
            f'edit_mode "replace" needs the same number of words in both prompts, but the source '
            f'prompt ("{source.text}") has {len(names[0])} and the target prompt ("{target.text}") '
            f'{len(names[1])}. Make them equal, or set edit_mode to "refine".'
        )
    theirs, mine = (
        _word_rows(prompt, [read_word(word) for word in words])
        for prompt, words in zip((source, target), names, strict=True)
    )
    length = len(target.tokens.chunks[0])
    shares = torch.zeros(len(source.tokens.chunks) * length, len(target.tokens.chunks) * length)
    for rows, own in zip(theirs, mine, strict=True):
        if len(rows) == len(own):
            shares[list(rows), list(own)] = 1
        elif rows and own:
            shares[torch.tensor(rows)[:, None], torch.tensor(own)] = 1 / len(own)
    for c, end in enumerate(target.tokens.ends):
        others = [0, *range(end, length)]
        if c >= len(source.tokens.ends):
            shares[:, [c * length + row for row in others]] = OWN
            continue
        shift = source.tokens.ends[c] - end
        for row in others:
            opposite = row and min(row + shift, length - 1)
            shares[c * length + opposite, c * length + row] = 1
    if variant == "published code" and shares.shape == (length, length):
        _count_rows_behind(shares, theirs, mine, [a != b for a, b in zip(*names, strict=True)])
    return shares


def _count_rows_behind(
    shares: Tensor, theirs: Sequence[Rows], mine: Sequence[Rows], differs: Sequence[bool]
) -> None:
    """Let rows after the last word that differs take the source's row of the same number, except
    the last ones where the source is longer, which take nothing."""
    if not any(differs):
        return
    last = max(i for i, is_other in enumerate(differs) if is_other)
    shift = theirs[last][-1] - mine[last][-1]
    for row in range(mine[last][-1] + 1, len(shares)):
        shares[:, row] = 0
        if row + shift < len(shares):
            shares[row, row] = 1


def _word_rows(prompt: EncodedPrompt, words: Sequence[Word]) -> list[Rows]:
    """The rows of each word of a prompt. Raises ValueError where its tokens are others than those
    of its words."""
    tokens, length = prompt.tokens, len(prompt.tokens.chunks[0])
    rows = [c * length + row for c, end in enumerate(tokens.ends) for row in range(1, end)]
    parts = [token for word in words for token in word.tokens]
    if len(parts) != len(rows) or not all(map(same_token, parts, tokens.words)):
        raise ValueError(
            f'the words of the prompt "{prompt.text}" cannot be told apart by its tokens. Write it '
            'without weights and escapes, or set edit_mode to "refine".'
        )
    found: list[Rows] = []
    for word in words:
        found.append(tuple(rows[: len(word.tokens)]))
        rows = rows[len(word.tokens) :]
    return found
