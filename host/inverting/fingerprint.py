"""A name for a model that is the same in every process: from its weights and its weight patches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

SAMPLES = 16
"""Values of each tensor that are hashed, evenly spaced."""


def fingerprint_model(patcher: ModelPatcher) -> str:
    """A hash of the names, shapes and sampled values of a MODEL's weights, and of its weight
    patches (LoRAs) with their strengths.

    Two loads of one checkpoint in one precision have one fingerprint. Attention patches, such as
    those of this pack, don't count.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(_base_weights(patcher)):
        _add(digest, name, tensor)
    for name, patches in sorted(patcher.patches.items()):
        for strength, patch, model_strength, *_ in patches:
            digest.update(f"{name} {strength!r} {model_strength!r}".encode())
            for place, tensor in enumerate(_tensors(patch)):
                _add(digest, str(place), tensor)
    sampling = patcher.get_model_object("model_sampling")
    for name, tensor in sorted(sampling.state_dict().items()):
        _add(digest, name, tensor)
    digest.update(type(sampling).__mro__[1].__name__.encode())
    return digest.hexdigest()


def _base_weights(patcher: ModelPatcher) -> Iterator[tuple[str, Tensor]]:
    """The weights of the network as they were loaded, without patches that are applied now."""
    backup = getattr(patcher, "backup", {})
    for name, tensor in patcher.model.diffusion_model.state_dict().items():
        kept = backup.get(f"diffusion_model.{name}")
        yield name, tensor if kept is None else kept.weight


def _tensors(patch: Any) -> Iterator[Tensor]:
    """The tensors of a weight patch, in whichever form ComfyUI keeps it."""
    if isinstance(patch, Tensor):
        yield patch
    elif isinstance(patch, list | tuple):
        for part in patch:
            yield from _tensors(part)
    elif hasattr(patch, "weights"):  # a weight adapter
        yield from _tensors(patch.weights)


def _add(digest: Any, name: str, tensor: Tensor) -> None:
    digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
    if tensor.numel():
        flat = tensor.detach().reshape(-1)
        places = torch.linspace(0, flat.numel() - 1, min(SAMPLES, flat.numel())).long()
        values = flat[places.to(flat.device)].float().cpu()
        digest.update(values.contiguous().numpy().tobytes())
