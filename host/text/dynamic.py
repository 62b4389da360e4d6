"""Prompts some of whose tokens have embeddings of their own, at the input of ComfyUI's CLIP.

Such embeddings travel as textual inversions do, as tensors in the lists of tokens, and gradients
flow back to them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..gradients import record_gradients
from .tokens import Tokenized

if TYPE_CHECKING:
    from comfy.sd import CLIP


def read_embeddings(clip: CLIP, tokenized: Tokenized, rows: Sequence[int]) -> Tensor:
    """(K, D) the input embeddings of the tokens at some rows; those of several text encoders stand
    side by side, in the order of `tokenized`."""
    return torch.cat(
        [
            torch.stack([_read(clip, name, chunks, row) for row in rows])
            for name, chunks in tokenized.items()
        ],
        1,
    )


def _read(clip: CLIP, name: str, chunks: Any, row: int) -> Tensor:
    chunk, place = divmod(row, len(chunks[0]))
    token = chunks[chunk][place][0]
    if isinstance(token, Tensor):  # a textual inversion
        return token.detach().float().cpu()
    table = _table(clip, name)
    given = torch.tensor([token], device=table.weight.device)
    return table(given, out_dtype=torch.float32)[0].detach().cpu()


def _table(clip: CLIP, name: str) -> Any:
    return getattr(clip.cond_stage_model, f"clip_{name}").transformer.get_input_embeddings()


def encode_with(clip: CLIP, tokenized: Tokenized, vectors: Mapping[int, Tensor]) -> Tensor:
    """(B, N, D) a prompt with other input embeddings at some rows, as CLIP Text Encode encodes it.

    vectors: (B, D) by row, as `read_embeddings` gives them. The text encoder must be loaded.
    """
    count = len(next(iter(vectors.values())))
    network: Any = clip.cond_stage_model
    network.reset_clip_options()
    if clip.layer_idx is not None:
        network.set_clip_options({"layer": clip.layer_idx})
    given: dict[str, list[list[tuple[Any, float]]]] = {}
    start = 0
    for name, chunks in tokenized.items():
        width = _table(clip, name).weight.shape[1]
        own = {row: vector[:, start : start + width] for row, vector in vectors.items()}
        given[name] = [
            [
                (own[c * len(chunk) + r][j] if c * len(chunk) + r in own else token, weight)
                for r, (token, weight) in enumerate(chunk)
            ]
            for j in range(count)
            for c, chunk in enumerate(chunks)
        ]
        start += width
    encoded = network.encode_token_weights(given)[0]
    return encoded.view(count, -1, encoded.shape[-1])


@contextmanager
def record_text_gradients(clip: CLIP) -> Iterator[None]:
    """Let autograd record calls of a text encoder.

    ComfyUI's layers add to their input in place, which a norm has kept for its gradient: norms are
    given copies.
    """
    network = clip.cond_stage_model
    norms = [module for module in network.modules() if isinstance(module, nn.LayerNorm)]
    hooks = [norm.register_forward_pre_hook(_copy_input) for norm in norms]
    try:
        with record_gradients(network):
            yield
    finally:
        for hook in hooks:
            hook.remove()


def _copy_input(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (args[0].clone(), *args[1:])
