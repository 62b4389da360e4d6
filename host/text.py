"""ComfyUI's CLIP -> token spans -> Object-Restricted Embeddings.

Only public calls of CLIP are used (tokenize, encode_from_tokens), so clip skip, LoRA and weights
act as everywhere.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from torch import Tensor

from ..prompts.edits import JOINER, Edits, base_prompt
from ..prompts.ore import ObjectRestrictedEmbeddings, Phrase, Prompt, object_restricted_embeddings
from ..prompts.spans import (
    Span,
    SpanSearch,
    Token,
    Tokens,
    occurrences,
    spans_anywhere,
    spans_first,
    spans_in_order,
)

NODE = "Object-Restricted Embeddings"
ENCODER = "l"
END_OF_TEXT = 49407

Side = Literal["source", "target"]
Entry: TypeAlias = tuple[Any, ...]
"""ComfyUI's (token, weight)."""
Chunks: TypeAlias = list[list[Entry]]


def tokenize(clip: Any, prompt: str) -> Tokens:
    """Tokens of a prompt, as the text encoder of an SD 1.5-shaped model sees them.

    Raises ValueError for a text encoder with other tokens than CLIP-L's.
    """
    return _tokens(_chunks(clip, prompt))


def encode(clip: Any, prompt: str) -> tuple[Tensor, Tensor | None]:
    """Embedding (N, D) and pooled output (1, P) of a prompt."""
    return _encode_chunks(clip, _chunks(clip, prompt))


def _chunks(clip: Any, prompt: str) -> Chunks:
    tokens = clip.tokenize(prompt)
    if set(tokens) != {ENCODER}:
        raise ValueError(
            f"{NODE}: the clip input has the encoders "
            f"{', '.join(sorted(tokens))}; this version supports SD 1.5's single CLIP-L encoder. "
            "Connect the CLIP of an SD 1.5 checkpoint."
        )
    return tokens[ENCODER]


def _joined_chunks(clip: Any, phrases: tuple[str, ...]) -> Chunks:
    """The base prompt of several phrases, none of them cut by the border of a chunk."""
    start, *end_and_padding = _chunks(clip, "")[0]
    joiner = _words(_chunks(clip, JOINER))
    chunks: Chunks = [[]]
    for phrase in phrases:
        words = _words(_chunks(clip, phrase))
        for group in (joiner, words) if chunks[0] else (words,):
            if len(chunks[-1]) + len(group) > len(end_and_padding) - 1:
                chunks.append([])
            chunks[-1].extend(group)
    return [
        [start, *words, *end_and_padding[: len(end_and_padding) - len(words)]] for words in chunks
    ]


def _words(chunks: Chunks) -> list[Entry]:
    """The entries of all chunks between start and end of text."""
    ends = _tokens(chunks).ends
    return [entry for chunk, end in zip(chunks, ends, strict=True) for entry in chunk[1:end]]


def _tokens(chunks: Chunks) -> Tokens:
    ids = tuple(tuple(entry[0] for entry in chunk) for chunk in chunks)
    return Tokens(ids, tuple(_end_row(chunk) for chunk in ids))


def _end_row(chunk: tuple[Token, ...]) -> int:
    return next(
        row for row, token in enumerate(chunk) if isinstance(token, int) and token == END_OF_TEXT
    )


def _encode_chunks(clip: Any, chunks: Chunks) -> tuple[Tensor, Tensor | None]:
    cond, pooled = clip.encode_from_tokens({ENCODER: chunks}, return_pooled=True)
    return cond[0], pooled


def embed_side(
    clip: Any, edits: Edits, side: Side
) -> tuple[ObjectRestrictedEmbeddings, Tensor | None]:
    """Object-Restricted Embeddings of all source or all target phrases, and the base prompt's
    pooled output.

    Raises ValueError when there is no edit, a phrase yields no token or more than one chunk, or
    does not stand in the full prompt.
    """
    phrases = edits.sources if side == "source" else edits.targets
    full_prompt = edits.source_prompt if side == "source" else edits.target_prompt
    if not phrases:
        raise ValueError(f"{NODE}: the edits input is empty. Add at least one Edit Object.")
    words = [_phrase_tokens(clip, phrase, side) for phrase in phrases]
    chunks = _joined_chunks(clip, phrases) if full_prompt is None else _chunks(clip, full_prompt)
    tokens = _tokens(chunks)
    search: SpanSearch = spans_in_order if full_prompt is None else spans_anywhere
    if edits.settings.variant == "published code":
        search = spans_first
    spans = [
        _require_span(span, phrase, tokens, word, full_prompt or base_prompt(phrases), side)
        for span, phrase, word in zip(search(tokens, words), phrases, words, strict=True)
    ]
    base, pooled = _encode_chunks(clip, chunks)
    empty, _ = encode(clip, "")
    encoded = [
        Phrase(phrase, encode(clip, phrase)[0], len(word) + 1, span)
        for phrase, word, span in zip(phrases, words, spans, strict=True)
    ]
    ore = object_restricted_embeddings(Prompt(base, tokens.ends), encoded, empty, edits.settings)
    return ore, pooled


def _phrase_tokens(clip: Any, phrase: str, side: Side) -> tuple[Token, ...]:
    tokens = tokenize(clip, phrase)
    if len(tokens.chunks) > 1:
        raise ValueError(
            f'{NODE}: the {side} phrase "{phrase}" of the edits has {len(tokens.words)} tokens, '
            "more than the 75 of one chunk. Shorten it to the object and its attributes."
        )
    if not tokens.words:
        raise ValueError(
            f'{NODE}: the {side} phrase "{phrase}" of the edits yields no tokens. Write it in '
            "letters that the text encoder knows."
        )
    return tokens.words


def _require_span(
    span: Span | None,
    phrase: str,
    tokens: Tokens,
    words: tuple[Token, ...],
    prompt: str,
    side: Side,
) -> Span:
    if span is not None:
        return span
    unbroken = Tokens(((0, *tokens.words),), (len(tokens.words) + 1,))
    if len(occurrences(unbroken, words)) > len(occurrences(tokens, words)):
        raise ValueError(
            f'{NODE}: the {side} phrase "{phrase}" of the edits is cut by the border between two '
            f'chunks of 75 tokens in the {side}_prompt of Full Prompts, "{prompt}". Shorten the '
            "prompt, or move the phrase."
        )
    raise ValueError(
        f'{NODE}: the {side} phrase "{phrase}" of the edits does not stand in the {side}_prompt of '
        f'Full Prompts, "{prompt}". Use the same words in the edit and in the full prompt, once '
        "for every edit."
    )
