"""End-token substitution by ComfyUI's CLIP."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ...prompts.alignment import EncodedPrompt
from ...prompts.end_tokens import substitute_end_tokens
from ..comfy_types import Conditioning
from ..messages import NodeName, name_node, speak_as
from .conditioning import carries_embeddings
from .embedding import encode_whole

if TYPE_CHECKING:
    from comfy.sd import CLIP

NODE = NodeName("End Token Substitution")
INPUT = "ets_prompt"


def substitute_ends(
    clip: CLIP, prompt: str, plain: str, conditioning: Conditioning | None = None
) -> Conditioning:
    """The conditioning of a prompt whose rows after its words are those of `plain`, the prompt
    without its attributes. conditioning: of the prompt, where it is not CLIP Text Encode's.

    Raises ValueError when a text is empty, `plain` is longer, or the conditioning is of another
    prompt or text encoder.
    """
    with speak_as(NODE):
        own, encoded = encode_whole(clip, prompt, "prompt")
    return substitute_rows(clip, own if conditioning is None else conditioning, encoded, plain)


def substitute_rows(
    clip: CLIP, conditioning: Conditioning, prompt: EncodedPrompt, plain: str
) -> Conditioning:
    """The same for a prompt in tokens."""
    with speak_as(str(NODE)):
        given, plain_prompt = encode_whole(clip, plain, INPUT)
    rows, width = prompt.embedding.shape
    out: Conditioning = []
    for number, (embedding, options) in enumerate(conditioning):
        if carries_embeddings({**options, "cross_attn": embedding}):
            raise ValueError(
                f"{NODE}: the conditioning input is of Object-Restricted Embeddings, which choose "
                "their end tokens themselves (end_of_text in Method Settings). Connect CLIP Text "
                "Encode."
            )
        if embedding.shape[1:] != (rows, width):
            raise ValueError(
                f"{NODE}: the conditioning input has {embedding.shape[1]} rows of "
                f"{embedding.shape[2]} channels, but the clip input gives {rows} of {width} for "
                f'"{prompt.text}". Connect the conditioning of this prompt by this clip.'
            )
        other = given[min(number, len(given) - 1)][0][0]
        with name_node(NODE):
            text = substitute_end_tokens(
                replace(prompt, embedding=embedding[0]), replace(plain_prompt, embedding=other)
            )
        out.append([text[None], dict(options)])
    return out
