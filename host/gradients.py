"""Gradients inside ComfyUI's inference mode, for every method that optimises something.

ComfyUI runs nodes, loaders too, under torch.inference_mode. Autograd saves no tensor that was made
there, so weights become ordinary tensors first, once for each model; that takes no more memory than
the largest of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import torch
from torch import Tensor, nn


@contextmanager
def record_gradients(model: Any) -> Iterator[None]:
    """Let autograd record calls of a BaseModel. Its weights themselves get no gradients.

    Tensors from outside go through `leaf` first.
    """
    with torch.inference_mode(False), torch.enable_grad():
        _make_ordinary(model)
        yield


def leaf(tensor: Tensor, *, requires_grad: bool = False) -> Tensor:
    """A copy of a tensor that autograd can save; to be called under `record_gradients`."""
    return tensor.detach().clone().requires_grad_(requires_grad)


def stop_if_interrupted() -> None:
    """Raises ComfyUI's own exception once the person has pressed Cancel."""
    comfy.model_management.throw_exception_if_processing_interrupted()


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
