"""Object-Restricted Embeddings assembled by hand from the outputs of ComfyUI's CLIPTextEncode.

Each text encoder's channels are assembled alone, by its own tokens and padding, row by row after
methods.md A.3; nothing of the pack is used. Imported as `ale_edit.tests.host.text_by_hand`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ale_edit.tests.tiny import (
    SDXL_WIDTHS,
    tiny_clip,
    tiny_refiner_clip,
    tiny_sd2_clip,
    tiny_sdxl_clip,
)

CLIPTextEncode: Any = import_module("nodes").CLIPTextEncode  # ComfyUI's, not the pack's folder
ROWS = 77
END = 49407
L, G = SDXL_WIDTHS["l"], SDXL_WIDTHS["g"]


@dataclass(frozen=True)
class Family:
    """build: makes a tiny CLIP. channels: where in a token each text encoder's numbers are."""

    build: Callable[..., Any]
    channels: Mapping[str, slice]


FAMILIES = {
    "SD 1.5": Family(tiny_clip, {"l": slice(None)}),
    "SD 2": Family(tiny_sd2_clip, {"h": slice(None)}),
    "SDXL": Family(tiny_sdxl_clip, {"l": slice(0, L), "g": slice(L, L + G)}),
    "SDXL refiner": Family(tiny_refiner_clip, {"g": slice(None)}),
}


@cache
def clip_of(family: str) -> Any:
    with torch.inference_mode():
        return FAMILIES[family].build()


def stock(clip: Any, text: str) -> tuple[Tensor, Tensor]:
    """Rows (N, D) and pooled vector (1, P) of a text, from the stock node."""
    (((rows, options),),) = CLIPTextEncode().encode(clip, text)
    return rows[0], options["pooled_output"]


def ids(clip: Any, text: str, encoder: str) -> list[list[Any]]:
    """Tokens of each chunk."""
    return [[entry[0] for entry in chunk] for chunk in clip.tokenize(text)[encoder]]


def words(clip: Any, text: str, encoder: str) -> list[Any]:
    """Tokens between start and end of text of a text of one chunk."""
    (chunk,) = ids(clip, text, encoder)
    return chunk[1 : chunk.index(END)]


def by_hand(
    clip: Any,
    family: str,
    phrases: Sequence[str],
    base: Sequence[str],
    variant: str = "paper",
    strategy: str = "ours",
    *,
    in_base: bool = False,
) -> Tensor:
    """(K+1, N, D): ORE_1 .. ORE_K and e'_base.

    phrases: in the order in which they stand in the base prompt, with the weights that they have
    there. base: the text of each chunk of the base prompt.
    """
    plain = torch.cat([stock(clip, text)[0] for text in base])
    alone = [stock(clip, phrase)[0] for phrase in phrases]
    empty, _ = stock(clip, "")
    out = plain.expand(len(phrases) + 1, *plain.shape).clone()
    for encoder, channels in FAMILIES[family].channels.items():
        chunks = [chunk for text in base for chunk in ids(clip, text, encoder)]
        spans = find(chunks, [words(clip, phrase, encoder) for phrase in phrases])
        for c, chunk in enumerate(chunks):
            rows = slice(c * ROWS, (c + 1) * ROWS)
            assembled = _chunk(
                plain[rows, channels],
                [e[:, channels] for e in alone],
                empty[:, channels],
                [(start, length) if c == where else None for where, start, length in spans],
                chunk.index(END),
                variant,
                strategy,
                in_base,
            )
            out[:, rows, channels] = torch.stack(assembled)
    return out


def find(chunks: list[list[Any]], parts: list[list[Any]]) -> list[tuple[int, int, int]]:
    """(chunk, first row, length) of each part, every one behind the one before."""
    found: list[tuple[int, int, int]] = []
    here = (0, 1)
    for part in parts:
        c, row = next(
            (c, row)
            for c, chunk in enumerate(chunks)
            for row in range(1, chunk.index(END))
            if (c, row) >= here and chunk[row : row + len(part)] == part
        )
        here = (c, row + len(part))
        found.append((c, row, len(part)))
    return found


def _chunk(
    base: Tensor,
    alone: list[Tensor],
    empty: Tensor,
    spans: list[tuple[int, int] | None],
    end: int,
    variant: str,
    strategy: str,
    in_base: bool,
) -> list[Tensor]:
    """ORE_1 .. ORE_K and e'_base of one chunk of one text encoder; spans[o]: first row and length
    of object o if the chunk holds it."""
    is_code = variant == "published code"
    substituted = base.clone()
    for e, span in zip(alone, spans, strict=True):
        if span:
            start, length = span
            for j in range(length):
                substituted[start + j] = e[start + j] if is_code else e[1 + j]
    made = []
    for o, (e, span) in enumerate(zip(alone, spans, strict=True)):
        out = substituted.clone()
        for other, place in enumerate(spans):
            if other != o and place:
                out[place[0] : place[0] + place[1]] = 0
        if is_code:
            out[1:end] = 0
        if span:
            start, length = span
            out[start : start + length] = e[1 : 1 + length]
            for j in range(ROWS - end):
                out[end + j] = {
                    "ours": e[1 + length + j],
                    "naive": base[end + j],
                    "zeros": torch.zeros_like(base[0]),
                    "bos": base[0],
                    "empty string": empty[1 + j],
                }[strategy]
        made.append(out)
    if in_base and strategy in ("zeros", "bos", "empty string"):
        for j in range(ROWS - end):
            substituted[end + j] = {
                "zeros": torch.zeros_like(base[0]),
                "bos": base[0],
                "empty string": empty[1 + j],
            }[strategy]
    return [*made, substituted]
