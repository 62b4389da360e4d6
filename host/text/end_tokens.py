"""End-token substitution by ComfyUI's CLIP."""

from __future__ import annotations

from typing import Any

from ...prompts.alignment import EncodedPrompt
from ...prompts.end_tokens import substitute_end_tokens
from ...prompts.spans import Tokens
from ..messages import NodeName, name_node
from .conditioning import carries_embeddings
from .embedding import Conditioning, encode_text
from .tokens import require_same_rows, rows_of, tokenize

NODE = NodeName("End Token Substitution")


def substitute_end_prompt(
    clip: Any, prompt: str, plain: str, conditioning: Conditioning | None = None
) -> Conditioning:
    """The conditioning of a prompt whose rows behind its words are those of `plain`, the prompt
    without its attributes. conditioning: of the prompt, where it is not CLIP Text Encode's.

    Raises ValueError when a text is empty, `plain` is longer, or the conditioning is not of this
    prompt and text encoder.
    """
    texts = {"prompt": prompt, "ets_prompt": plain}
    tokens = {name: _read_tokens(clip, name, text) for name, text in texts.items()}
    own = encode_text(clip, prompt) if conditioning is None else conditioning
    return substitute_rows(clip, own, prompt, tokens["prompt"], plain)


def substitute_rows(
    clip: Any, conditioning: Conditioning, prompt: str, tokens: Tokens, plain: str
) -> Conditioning:
    """The same for a prompt in tokens."""
    given = encode_text(clip, plain)
    plain_tokens = _read_tokens(clip, "ets_prompt", plain)
    rows = len(tokens.chunks) * len(tokens.chunks[0])
    out: Conditioning = []
    for number, (embedding, options) in enumerate(conditioning):
        if carries_embeddings({**options, "cross_attn": embedding}):
            raise ValueError(
                f"{NODE}: the conditioning input is of Object-Restricted Embeddings, which choose "
                "their end tokens themselves (end_of_text in Method Settings). Connect CLIP Text "
                "Encode."
            )
        other = given[min(number, len(given) - 1)][0]
        if embedding.shape[1] != rows or embedding.shape[-1] != other.shape[-1]:
            raise ValueError(
                f"{NODE}: the conditioning input has {embedding.shape[1]} rows of "
                f"{embedding.shape[-1]} channels, but clip gives {rows} of {other.shape[-1]} for "
                f'"{prompt}". Connect the conditioning of this prompt by this clip.'
            )
        with name_node(NODE):
            text = substitute_end_tokens(
                EncodedPrompt(prompt, tokens, embedding[0]),
                EncodedPrompt(plain, plain_tokens, other[0]),
            )
        out.append([text[None], dict(options)])
    return out


def _read_tokens(clip: Any, name: str, text: str) -> Tokens:
    tokenized = tokenize(clip, text)
    require_same_rows(tokenized, f'{name} ("{text}")')
    tokens = next(iter(rows_of(tokenized).values()))
    if not tokens.words:
        raise ValueError(f'{NODE}: {name} ("{text}") yields no tokens. Write words into it.')
    return tokens
