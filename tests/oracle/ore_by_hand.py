"""Object-Restricted Embeddings of the oracle (ALE-Edit, Algorithm 1), from token ids and
transformers' CLIP.

Row indices include the start token at 0. Written from the specification alone; shares no line with
the pack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

N = 77


@dataclass(frozen=True)
class TextEncoder:
    tokenizer: Any  # transformers' CLIPTokenizer
    model: Any  # transformers' CLIPTextModel

    def ids(self, text: str) -> list[int]:
        """Start token, words, one end token."""
        return list(self.tokenizer(text)["input_ids"])

    def encode(self, text: str) -> Tensor:
        """(77, D): the last hidden state behind the final layer norm, padded with end tokens."""
        ids = self.ids(text)
        padded = ids + [ids[-1]] * (N - len(ids))
        with torch.no_grad():
            return self.model(input_ids=torch.tensor([padded])).last_hidden_state[0]


@dataclass(frozen=True)
class Texts:
    """One side of the edit. plain: (77, D), the base prompt as it is. base: (77, D), e'_base.
    objects: K of (77, D), e'_Oi. rows: for each object the rows of its words in the base prompt."""

    plain: Tensor
    base: Tensor
    objects: list[Tensor]
    rows: list[list[int]]


def find(part: list[int], whole: list[int]) -> list[int]:
    """Indices of the first occurrence of a contiguous sublist."""
    for start in range(len(whole) - len(part) + 1):
        if whole[start : start + len(part)] == part:
            return list(range(start, start + len(part)))
    raise ValueError(f"{part} is not in {whole}")


def restrict(
    encoder: TextEncoder, phrases: Sequence[str], variant: str, prompt: str | None = None
) -> Texts:
    """Algorithm 1 for the base prompt 'phrase and phrase and ...', or for a given one."""
    prompt = prompt or " and ".join(phrases)
    base_ids = encoder.ids(prompt)
    end = len(base_ids) - 1
    plain = encoder.encode(prompt)
    alone = [encoder.encode(phrase) for phrase in phrases]
    rows = [find(encoder.ids(phrase)[1:-1], base_ids) for phrase in phrases]
    base = plain.clone()
    for e_o, own in zip(alone, rows, strict=True):
        if variant == "paper":
            base[own] = e_o[1 : len(own) + 1]
        else:
            base[own] = e_o[own]  # the published code's row bug
    objects = []
    for i, (e_o, own) in enumerate(zip(alone, rows, strict=True)):
        e = base.clone()
        if variant == "paper":
            for j, other in enumerate(rows):
                if j != i:
                    e[other] = 0
        else:
            e[1:end] = 0  # "and" too
            e[own] = e_o[1 : len(own) + 1]
        own_end = len(own) + 1
        e[end:] = e_o[own_end : own_end + N - end]
        objects.append(e)
    return Texts(plain, base, objects, rows)
