"""ComfyUI's CLIP -> token spans -> Object-Restricted Embeddings.

Only public calls of CLIP are used (tokenize, encode_from_tokens), so clip skip, LoRA and weights
act as everywhere.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from ..prompts.edits import Edits, base_prompt
from ..prompts.ore import ObjectRestrictedEmbeddings, Phrase, Prompt, object_restricted_embeddings
from ..prompts.spans import (
    Span,
    SpanSearch,
    Token,
    Tokens,
    spans_anywhere,
    spans_first,
    spans_in_order,
)

START_OF_TEXT = 49406
END_OF_TEXT = 49407

Side = Literal["source", "target"]


def tokenize(clip: Any, prompt: str) -> Tokens:
    """Tokens of a prompt, as the text encoder of an SD 1.5-shaped model sees them.

    Raises ValueError for a text encoder with other tokens than CLIP-L's.
    """
    tokens = clip.tokenize(prompt)
    if set(tokens) != {"l"}:
        raise ValueError(
            "Object-Restricted Embeddings: the CLIP input has the encoders "
            f"{', '.join(sorted(tokens))}; this version supports SD 1.5's single CLIP-L encoder. "
            "Connect the CLIP of an SD 1.5 checkpoint."
        )
    chunks = tuple(tuple(entry[0] for entry in chunk) for chunk in tokens["l"])
    return Tokens(chunks, tuple(_end_row(chunk) for chunk in chunks))


def _end_row(chunk: tuple[Token, ...]) -> int:
    return next(
        row for row, token in enumerate(chunk) if isinstance(token, int) and token == END_OF_TEXT
    )


def encode(clip: Any, prompt: str) -> tuple[Tensor, Tensor | None]:
    """Embedding (N, D) and pooled output (1, P) of a prompt."""
    cond, pooled = clip.encode_from_tokens(clip.tokenize(prompt), return_pooled=True)
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
        raise ValueError(
            "Object-Restricted Embeddings: the input edits is empty. Add at least one Edit Object."
        )
    prompt = full_prompt if full_prompt is not None else base_prompt(phrases)
    tokens = tokenize(clip, prompt)
    words = [_phrase_tokens(clip, phrase, side) for phrase in phrases]
    search: SpanSearch = spans_in_order if full_prompt is None else spans_anywhere
    if edits.settings.variant == "published code":
        search = spans_first
    spans = [
        _require_span(span, phrase, prompt, side)
        for span, phrase in zip(search(tokens, words), phrases, strict=True)
    ]
    base, pooled = encode(clip, prompt)
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
            f'The {side} phrase "{phrase}" has {len(tokens.words)} tokens, more than the 75 of '
            "one chunk. Shorten it to the object and its attributes."
        )
    if not tokens.words:
        raise ValueError(
            f'The {side} phrase "{phrase}" yields no tokens. Write it in letters that the text '
            "encoder knows."
        )
    return tokens.words


def _require_span(span: Span | None, phrase: str, prompt: str, side: Side) -> Span:
    if span is None:
        raise ValueError(
            f'The {side} phrase "{phrase}" does not stand in the {side} prompt "{prompt}". '
            "Use the same words in the edit and in the full prompt, once for every edit."
        )
    return span
