"""ComfyUI's attention functions, with a layer's heads and precision."""

from __future__ import annotations

from collections.abc import Callable

from comfy.ldm.modules import attention as comfy_attention
from torch import Tensor

from ...attention.control import Attend
from ..comfy_types import Options


def choose_attention(options: Options) -> Attend:
    """The attention that ComfyUI selected."""
    return _bind_layer(comfy_attention.optimized_attention, options)


def choose_attention_of_parts(q: Tensor, options: Options) -> Attend:
    """The same for several small calls: PyTorch's own where the selected one is slow to start."""
    if is_slow_to_start(q):
        return _bind_layer(comfy_attention.attention_pytorch, options)
    return choose_attention(options)


def is_slow_to_start(q: Tensor) -> bool:
    """Whether ComfyUI selected sub-quadratic attention, as it does on a CPU.

    It saves memory that a few tokens do not need; PyTorch's own starts in a quarter of its time.
    """
    selected = comfy_attention.optimized_attention
    return q.device.type == "cpu" and selected is comfy_attention.attention_sub_quad


def _bind_layer(function: Callable[..., Tensor], options: Options) -> Attend:
    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        return function(
            q,
            k,
            v,
            options["n_heads"],
            attn_precision=options["attn_precision"],
            transformer_options=options,
            **({} if bias is None else {"mask": bias}),
        )

    return attend
