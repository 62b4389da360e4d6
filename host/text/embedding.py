"""ComfyUI's CLIP -> token spans -> Object-Restricted Embeddings as CONDITIONING.

Only public calls of CLIP encode (tokenize, encode_from_tokens_scheduled), so clip skip, LoRA, hooks
and weights act as everywhere.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ...prompts.alignment import EncodedPrompt, Word
from ...prompts.edits import JOINER, Edits, MethodSettings, Side, base_prompt
from ...prompts.ore import Phrase, Prompt, restrict_embeddings
from ...prompts.spans import (
    Span,
    SpanSearch,
    Token,
    Tokens,
    find_first_spans,
    find_spans_anywhere,
    find_spans_in_order,
    occurrences,
)
from ..abilities import require_abilities
from ..comfy_types import Conditioning
from ..messages import tell
from .conditioning import make_conditioning
from .tokens import (
    NODE,
    Tokenized,
    WordTokens,
    capacity,
    ids,
    inner_rows,
    join,
    one_chunk,
    require_clip,
    require_rows,
    require_same_rows,
    require_vectors_fit,
    rows_of,
    tokenize,
    unknown_words,
    weights_of,
    words_of,
)

if TYPE_CHECKING:
    from comfy.sd import CLIP

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _TokenizedSide:
    """One side of the edits in tokens. phrases: of the objects that this side has. base: the full
    prompt, or else the phrases joined."""

    side: Side
    phrases: tuple[str, ...]
    full_prompt: str | None
    words: list[WordTokens]
    base: Tokenized

    def phrase(self, i: int) -> str:
        return f'the {self.side} phrase "{self.phrases[i]}" of the edits'

    @property
    def prompt(self) -> str:
        if self.full_prompt is None:
            return f'the {self.side} prompt ("{base_prompt(self.phrases)}")'
        return f'the {self.side}_prompt of Full Prompts ("{self.full_prompt}")'

    def words_at(self, span: Span) -> WordTokens:
        return {name: chunks[span.chunk][span.rows] for name, chunks in self.base.items()}


def embed_edits(clip: CLIP, edits: Edits) -> tuple[Conditioning, Conditioning]:
    """Object-Restricted Embeddings of source and target (see `embed_side`), with a notice of the
    words that the text encoder says it does not know."""
    source, target = embed_side(clip, edits, "source"), embed_side(clip, edits, "target")
    tell_unknown_words(clip, edits)
    return source, target


def tell_unknown_words(clip: CLIP, edits: Edits) -> None:
    """Give a notice of the words that the text encoder says it does not know."""
    prompts = [text for text in (edits.source_prompt, edits.target_prompt) if text is not None]
    if words := unknown_words(clip, [*edits.sources, *edits.targets, *prompts]):
        tell(
            f"{NODE}: this text encoder does not know {', '.join(words)} and cannot tell such "
            "words apart. Write the edits in words that it knows (see the help page of its "
            "loader), or load another checkpoint."
        )


def encode_prompt(clip: CLIP, edits: Edits, side: Side) -> tuple[Conditioning, EncodedPrompt]:
    """The base prompt of one side as CLIP Text Encode gives it, and its rows in tokens.

    Raises ValueError as `embed_side`.
    """
    text = _tokenize_side(clip, edits, side, tokenize(clip, ""))
    conditioning = _encode(clip, text.base)
    require_rows(conditioning[0][0], text.base)
    encoder, tokens = next(iter(rows_of(text.base).items()))
    tokens = replace(tokens, inner=inner_rows(clip, text.base[encoder]))
    return conditioning, EncodedPrompt(edits.prompt(side), tokens, conditioning[0][0][0])


def tokenize_prompt(clip: CLIP, edits: Edits, side: Side) -> Tokenized:
    """The base prompt of one side in tokens, as `encode_prompt` encodes it."""
    return _tokenize_side(clip, edits, side, tokenize(clip, "")).base


def encode_text(clip: CLIP, text: str) -> Conditioning:
    """A text as CLIP Text Encode gives it.

    Raises ValueError without a CLIP.
    """
    require_clip(clip)
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def encode_whole(clip: CLIP, text: str, name: str) -> tuple[Conditioning, EncodedPrompt]:
    """A text as CLIP Text Encode gives it, and its rows in tokens. name: of the input.

    Raises ValueError when it yields no tokens, and for a CLIP whose rows cannot be told apart by
    its tokens.
    """
    tokenized = tokenize(clip, text)
    require_same_rows(tokenized, f'{name} ("{text}")')
    conditioning = _encode(clip, tokenized)
    require_rows(conditioning[0][0], tokenized)
    encoder, tokens = next(iter(rows_of(tokenized).items()))
    if not tokens.words:
        raise ValueError(f'{NODE}: {name} ("{text}") yields no tokens. Write words into it.')
    tokens = replace(tokens, inner=inner_rows(clip, tokenized[encoder]))
    return conditioning, EncodedPrompt(text, tokens, conditioning[0][0][0])


def read_word(clip: CLIP, word: str) -> Word:
    """A word in the tokens of the first text encoder."""
    return Word(word, ids(next(iter(words_of(tokenize(clip, word)).values()))))


def embed_side(clip: CLIP, edits: Edits, side: Side) -> Conditioning:
    """Object-Restricted Embeddings of all source or all target phrases, as CONDITIONING.

    It has one entry, or with a CLIP on a schedule of hooks one for each part of the schedule.
    Raises ValueError when there is no edit, an edit adds or removes an object, a phrase yields no
    token or more than one chunk or does not stand in the full prompt, and for a CLIP whose rows
    cannot be told apart by its tokens.
    """
    require_abilities(edits, NODE)
    empty = tokenize(clip, "")
    text = _tokenize_side(clip, edits, side, empty)
    spans = _find_spans(clip, text, edits.settings)
    nothing = _encode(clip, empty)
    require_vectors_fit(text.base, nothing[0][0].shape[-1], text.prompt)
    base = _encode(clip, text.base)
    require_rows(base[0][0], text.base)
    alone = [_encode(clip, one_chunk(text.words_at(span), empty)) for span in spans]
    speaker = base
    if edits.settings.pooled == "empty":
        speaker = nothing
    elif edits.settings.pooled == "source" and side == "target":
        speaker = _encode(clip, _tokenize_side(clip, edits, "source", empty).base)
    ends = next(iter(rows_of(text.base).values())).ends
    conditioning: list[Sequence[Any]] = []
    for (plain, options), (nil, _), (_, speaking), *own in zip(
        base, nothing, speaker, *alone, strict=True
    ):
        objects = [
            Phrase(phrase, entry[0][0], span.stop - span.start + 1, span)
            for phrase, entry, span in zip(text.phrases, own, spans, strict=True)
        ]
        ore = restrict_embeddings(Prompt(plain[0], ends), objects, nil[0], edits.settings)
        conditioning += make_conditioning(ore, speaking.get("pooled_output"), options)
    return conditioning


def _encode(clip: CLIP, tokenized: Tokenized) -> Conditioning:
    """As CLIP Text Encode."""
    return clip.encode_from_tokens_scheduled(tokenized)


def _tokenize_side(clip: CLIP, edits: Edits, side: Side, empty: Tokenized) -> _TokenizedSide:
    is_source = side == "source"
    if not edits.items:
        raise ValueError(f"{NODE}: the edits input is empty. Add at least one Edit Object.")
    phrases = tuple(filter(None, edits.sources if is_source else edits.targets))
    full_prompt = edits.source_prompt if is_source else edits.target_prompt
    words = [_tokenize_phrase(clip, phrase, side, capacity(empty)) for phrase in phrases]
    if full_prompt is None:
        base = join(words, words_of(tokenize(clip, JOINER)), empty)
    else:
        base = tokenize(clip, full_prompt)
    text = _TokenizedSide(side, phrases, full_prompt, words, base)
    require_same_rows(base, text.prompt)
    return text


def _tokenize_phrase(clip: CLIP, phrase: str, side: Side, most: int) -> WordTokens:
    tokenized = tokenize(clip, phrase)
    name = f'the {side} phrase "{phrase}" of the edits'
    require_same_rows(tokenized, name)
    words = words_of(tokenized)
    count = len(next(iter(words.values())))
    if count > most:
        raise ValueError(
            f"{NODE}: {name} has {count} tokens, more than the {most} of one chunk. Shorten it to "
            "the object and its attributes."
        )
    if not count:
        raise ValueError(
            f"{NODE}: {name} yields no tokens. Write it in letters that the text encoder knows; a "
            "textual inversion needs its file among ComfyUI's embeddings."
        )
    return words


def _find_spans(clip: CLIP, text: _TokenizedSide, settings: MethodSettings) -> list[Span]:
    """Where each phrase stands in the base prompt; the same for all text encoders."""
    search: SpanSearch = find_spans_in_order if text.full_prompt is None else find_spans_anywhere
    if settings.variant == "published code":
        search = find_first_spans
    found: list[list[Span]] = []
    for encoder, tokens in rows_of(text.base).items():
        if text.full_prompt is not None:
            tokens = replace(tokens, inner=inner_rows(clip, text.base[encoder]))
        parts = [ids(words[encoder]) for words in text.words]
        spans = search(tokens, parts)
        found.append([_require_span(span, i, text, tokens, parts) for i, span in enumerate(spans)])
    if any(spans != found[0] for spans in found):
        raise ValueError(
            f"{NODE}: the text encoders {', '.join(text.base)} have the {text.side} phrases of the "
            "edits at different places. Use textual inversions with the same number of vectors "
            "for each text encoder."
        )
    if text.full_prompt is not None:
        _warn_of_weights(text, found[0])
    return found[0]


def _require_span(
    span: Span | None, i: int, text: _TokenizedSide, tokens: Tokens, parts: list[tuple[Token, ...]]
) -> Span:
    if span is not None:
        return span
    unbroken = Tokens(((0, *tokens.words),), (len(tokens.words) + 1,))
    in_chunks = occurrences(replace(tokens, inner=frozenset()), parts[i])
    if len(occurrences(unbroken, parts[i])) > len(in_chunks):
        raise ValueError(
            f"{NODE}: {text.phrase(i)} is split across two chunks of "
            f"{len(tokens.chunks[0]) - 2} tokens in {text.prompt}. Shorten the prompt, or move the "
            "phrase."
        )
    is_inside = text.phrases[i].lower() in (text.full_prompt or "").lower()
    if is_inside and not occurrences(tokens, parts[i]):
        raise ValueError(
            f"{NODE}: {text.phrase(i)} only occurs as part of other words, or joined to "
            f"punctuation, in {text.prompt}. Write it there as separate words, with spaces "
            "around it."
        )
    raise ValueError(
        f"{NODE}: {text.phrase(i)} does not occur in {text.prompt}. Use the same words in the edit "
        "and in the full prompt, once for every edit."
    )


def _warn_of_weights(text: _TokenizedSide, spans: list[Span]) -> None:
    """With a full prompt its own weights count, not those of the phrases."""
    for i, (words, span) in enumerate(zip(text.words, spans, strict=True)):
        own, used = weights_of(words), weights_of(text.words_at(span))
        if own != used and any(weight != 1 for weight in own):
            logger.warning(
                "%s: the weights in %s are not used, because %s has its own. Write them there.",
                *(str(NODE), text.phrase(i), text.prompt),
            )
