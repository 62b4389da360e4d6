"""A prompt as ComfyUI's CLIP tokenises it: for every text encoder, chunks of (token, weight).

SDXL has two text encoders. One set of spans serves both, because words stand at the same rows of
each; where a textual inversion breaks that, the text is refused. Padding differs (CLIP-L repeats
the end-of-text token, OpenCLIP-H and -G write 0): the end-of-text run of a chunk is everything from
its first end-of-text token on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol, TypeAlias

from torch import Tensor

from ...prompts.spans import Token, Tokens
from ..messages import NodeName

if TYPE_CHECKING:
    from comfy.sd import CLIP

NODE = NodeName("Object-Restricted Embeddings")
END_OF_TEXT = 49407
END_OF_WORD = "</w>"
ENCODERS = {("l",): "SD 1.5", ("h",): "SD 2", ("g", "l"): "SDXL and its refiner"}

FAMILIES = ", ".join(f"{family} ({', '.join(n)})" for n, family in ENCODERS.items())

WeightedToken: TypeAlias = tuple[Token, float]
"""ComfyUI's (token, weight)."""
WordTokens: TypeAlias = dict[str, list[WeightedToken]]
"""For each text encoder the entries between start and end of text, of all chunks."""
Tokenized: TypeAlias = dict[str, list[list[WeightedToken]]]
"""For each text encoder its chunks, as CLIP.tokenize gives them."""


def require_clip(clip: CLIP | None) -> None:
    """Raises ValueError for the CLIP of a checkpoint without one."""
    if clip is None:
        raise ValueError(
            f"{NODE}: the clip input is empty, the checkpoint holds no text encoder. Connect one "
            f"of {FAMILIES}."
        )


def tokenize(clip: CLIP, text: str) -> Tokenized:
    """Tokens of a text, for each text encoder of a CLIP input.

    Raises ValueError without a CLIP, for text encoders other than CLIP's, and when the text
    continues after an end-of-text token.
    """
    require_clip(clip)
    tokenized = clip.tokenize(text)
    if tuple(sorted(tokenized)) not in ENCODERS:
        raise ValueError(
            f"{NODE}: the clip input has the text encoders {', '.join(sorted(tokenized))}, which "
            "belong to another kind of model than a UNet with CLIP. Connect the CLIP of "
            f"{FAMILIES}."
        )
    for chunk in (chunk for chunks in tokenized.values() for chunk in chunks):
        padding = (END_OF_TEXT, chunk[-1][0])
        if not all(any(_is(entry, token) for token in padding) for entry in chunk[_end(chunk) :]):
            raise ValueError(
                f'{NODE}: the text "{text}" continues after an end-of-text token. Remove '
                "<|endoftext|> from it."
            )
    return tokenized


class LimitedTokenizer(Protocol):
    """A tokenizer of ComfyUI (`clip.tokenizer`) of a text encoder that knows some words only."""

    def unknown_words(self, tokenized: Tokenized) -> Sequence[str]:
        """The words of a text that its encoder was never taught. tokenized: what the tokenizer
        itself made of the text, so that weights and textual inversions are not words."""
        ...


def unknown_words(clip: CLIP, texts: Iterable[str]) -> list[str]:
    """The words of some texts that the encoder of a CLIP says it was never taught, each once; none
    where it says nothing of its words."""
    if not hasattr(clip.tokenizer, "unknown_words"):
        return []
    vocabulary: LimitedTokenizer = clip.tokenizer
    found = (word for text in texts for word in vocabulary.unknown_words(clip.tokenize(text)))
    return list(dict.fromkeys(found))


def words_of(tokenized: Tokenized) -> WordTokens:
    """The entries between start and end of text, of all chunks."""
    return {
        name: [entry for chunk in chunks for entry in chunk[1 : _end(chunk)]]
        for name, chunks in tokenized.items()
    }


def ids(words: Sequence[WeightedToken]) -> tuple[Token, ...]:
    return tuple(entry[0] for entry in words)


def capacity(empty: Tokenized) -> int:
    """Words that fit between start and end of text of one chunk."""
    return min(len(chunk) for (chunk,) in empty.values()) - 2


def one_chunk(words: WordTokens, empty: Tokenized) -> Tokenized:
    """Words, at most a chunk of them, as if they were a text of their own.

    empty: the tokens of the empty text.
    """
    return {name: [_chunk(entries, empty[name][0])] for name, entries in words.items()}


def join(phrases: Sequence[WordTokens], joiner: WordTokens, empty: Tokenized) -> Tokenized:
    """Phrases with a joiner between them, none of them cut by the border of a chunk."""
    joined: Tokenized = {}
    for name, joint in joiner.items():
        chunks: list[list[WeightedToken]] = [[]]
        for i, phrase in enumerate(phrases):
            for group in (joint, phrase[name]) if i else (phrase[name],):
                if len(chunks[-1]) + len(group) > capacity(empty):
                    chunks.append([])
                chunks[-1].extend(group)
        joined[name] = [_chunk(words, empty[name][0]) for words in chunks]
    return joined


def _chunk(words: Sequence[WeightedToken], empty: Sequence[WeightedToken]) -> list[WeightedToken]:
    start, *end_and_padding = empty
    return [start, *words, *end_and_padding[: len(end_and_padding) - len(words)]]


def rows_of(tokenized: Tokenized) -> dict[str, Tokens]:
    """Tokens and end-of-text rows of each text encoder."""
    return {
        name: Tokens(tuple(map(ids, chunks)), tuple(map(_end, chunks)))
        for name, chunks in tokenized.items()
    }


def inner_rows(clip: CLIP, chunks: Sequence[Sequence[WeightedToken]]) -> frozenset[tuple[int, int]]:
    """(chunk, row) of every word token that continues the word of the token before it."""
    rows = [(c, row) for c, chunk in enumerate(chunks) for row in range(1, _end(chunk))]
    return frozenset(
        (c, row)
        for (c_before, before), (c, row) in pairwise(rows)
        if not _ends_word(clip, chunks[c_before][before])
    )


def _ends_word(clip: CLIP, entry: WeightedToken) -> bool:
    if isinstance(entry[0], Tensor):  # a textual inversion
        return True
    ((_, text),) = clip.tokenizer.untokenize([entry])
    return text.endswith(END_OF_WORD)


def require_same_rows(tokenized: Tokenized, name: str) -> None:
    """Raises ValueError when the text encoders have the words of a text at different rows.

    name: what the text is, such as 'the source prompt ("wolf and moon")'.
    """
    layouts = {
        tuple((c * len(chunk), _end(chunk)) for c, chunk in enumerate(chunks))
        for chunks in tokenized.values()
    }
    if len(layouts) > 1:
        counts = ", ".join(
            f"{sum(_end(chunk) - 1 for chunk in chunks)} tokens in text encoder {encoder} "
            f"(chunks of {len(chunks[0])})"
            for encoder, chunks in sorted(tokenized.items())
        )
        raise ValueError(
            f"{NODE}: {name} has {counts}, so that their words stand at different places. Use "
            "textual inversions with the same number of vectors for each text encoder, and shorten "
            "the text to one chunk if the chunks differ."
        )


def require_vectors_fit(tokenized: Tokenized, width: int, name: str) -> None:
    """Raises ValueError when a textual inversion is of another width than the text encoders.

    ComfyUI leaves such a vector out while encoding, which shifts every word after it. width: of the
    conditioning, which is the sum of the encoders' widths, or that of one (SDXL's refiner).
    """
    for chunks in zip(*tokenized.values(), strict=True):
        for entries in zip(*chunks, strict=False):  # a longer chunk is cut to the shorter
            vectors = {
                encoder: entry[0].shape[-1]
                for encoder, entry in zip(tokenized, entries, strict=True)
                if isinstance(entry[0], Tensor)
            }
            if vectors and width not in (sum(vectors.values()), *vectors.values()):
                found = " and ".join(f"{size} ({key})" for key, size in sorted(vectors.items()))
                raise ValueError(
                    f"{NODE}: a textual inversion in {name} has vectors of {found} channels; the "
                    f"text encoders of the clip input take {width} in all. Use an embedding made "
                    "for the same kind of model."
                )


def require_rows(text: Tensor, tokenized: Tokenized) -> None:
    """Raises ValueError when a CLIP gives another number of rows than it has tokens."""
    expected = min(sum(map(len, chunks)) for chunks in tokenized.values())
    if text.shape[1] != expected:
        raise ValueError(
            f"{NODE}: the clip input gives {text.shape[1]} rows for {expected} tokens; another "
            "node changed how it encodes. Connect the CLIP from before that node."
        )


def weights_of(words: Mapping[str, Sequence[WeightedToken]]) -> list[float]:
    return [entry[1] for entries in words.values() for entry in entries]


def _end(chunk: Sequence[WeightedToken]) -> int:
    """Row of the first end-of-text token."""
    return next(row for row, entry in enumerate(chunk) if _is(entry, END_OF_TEXT))


def _is(entry: WeightedToken, token: Token) -> bool:
    return not isinstance(entry[0], Tensor) and entry[0] == token
