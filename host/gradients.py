"""Gradients inside ComfyUI's inference mode, for every method that optimises something.

ComfyUI runs nodes, loaders too, under torch.inference_mode. Autograd saves no tensor that was made
there, so weights become ordinary tensors first, once for each model; that takes no more memory than
the largest of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import comfy.model_management
import torch
from comfy.ldm.modules.attention import BasicTransformerBlock, attention_pytorch
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .comfy_types import Cond, Options

if TYPE_CHECKING:
    from comfy.model_base import BaseModel

ROWS_OF_GRADIENTS = 4
"""Rows without gradients that take as much memory as one with them."""
GIB = 2**30


@contextmanager
def record_gradients(model: Any = None) -> Iterator[None]:
    """Let autograd record, and where a BaseModel is given, calls of it. Its weights themselves get
    no gradients.

    Tensors from outside go through `leaf` first.
    """
    with torch.inference_mode(False), torch.enable_grad():
        if model is not None:
            _make_ordinary(model)
        yield


def leaf(tensor: Tensor, *, requires_grad: bool = False) -> Tensor:
    """A copy of a tensor that autograd can save; to be called under `record_gradients`."""
    return tensor.detach().clone().requires_grad_(requires_grad)


def stop_if_interrupted() -> None:
    """Raises ComfyUI's own exception once the person has pressed Cancel."""
    comfy.model_management.throw_exception_if_processing_interrupted()


@contextmanager
def explain_memory(network: BaseModel, shape: Sequence[int]) -> Iterator[None]:
    """Says what gradients at latents (B, C, h, w) need where a card has too little memory for
    them."""
    try:
        yield
    except comfy.model_management.OOM_EXCEPTION as error:
        rows = [ROWS_OF_GRADIENTS * shape[0], *shape[1:]]
        needed = network.memory_required(rows) / GIB
        device = network.current_patcher.load_device
        whole = cast("float", comfy.model_management.get_total_memory(device)) / GIB
        raise ValueError(
            f"the gradients of latents of {shape[-2]}x{shape[-1]} cells (height x width) need "
            f"about {needed:.1f} GB beside the model; {device} has {whole:.1f} GB in all and too "
            "little left. Scale the image down, edit one image at a time, or start ComfyUI with "
            "--lowvram."
        ) from error


@contextmanager
def checkpoint_blocks(network: nn.Module) -> Iterator[None]:
    """Let autograd keep only the inputs of a UNet's blocks. What is inside one is computed again
    when its gradients are, which takes a third more time and a fraction of the memory.

    ComfyUI's own checkpoint asks for gradients of the weights, which get none here.
    """
    blocks = [m for m in network.modules() if isinstance(m, ResBlock | BasicTransformerBlock)]
    before = {block: vars(block).get("forward") for block in blocks}
    for block in blocks:
        block.forward = partial(_run_block, block.forward)
    try:
        yield
    finally:
        for block, forward in before.items():
            if forward is None:
                del block.forward
            else:
                block.forward = forward


def _run_block(run: Callable[..., Tensor], x: Tensor, *args: Any, **named: Any) -> Tensor:
    if not (torch.is_grad_enabled() and x.requires_grad):
        return run(x, *args, **named)
    if "transformer_options" in named:  # the UNet writes into it for each block
        named["transformer_options"] = dict(named["transformer_options"])
    out: Any = checkpoint(run, x, *args, use_reentrant=False, **named)
    return out


def use_differentiable_attention(options: Options) -> None:
    """Let calls with these transformer_options attend by PyTorch's own attention; some others that
    ComfyUI may have selected (SageAttention, FlashAttention) have no gradients."""
    options["optimized_attention_override"] = lambda selected, *args, **named: attention_pytorch(
        *args, **named
    )


def ordinary_entry(cond: Cond) -> Cond:
    """A conditioning entry whose tensors autograd can save."""
    own = {
        name: type(given)(leaf(given.cond)) if isinstance(given.cond, Tensor) else given
        for name, given in cond["model_conds"].items()
    }
    return {**cond, "model_conds": own}


def _make_ordinary(model: nn.Module) -> None:
    """Put ordinary tensors in the place of parameters and buffers made in inference mode."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_inference() or parameter.requires_grad:
                own = nn.Parameter(parameter.detach().clone(), requires_grad=False)
                setattr(module, name, own)
        for name, buffer in module.named_buffers(recurse=False):
            if buffer.is_inference():
                setattr(module, name, buffer.clone())
