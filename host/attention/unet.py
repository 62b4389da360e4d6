"""The attention layers of ComfyUI's UNet, by the block keys that its patches use."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from torch.nn import Module

if TYPE_CHECKING:
    from comfy.ldm.modules.attention import CrossAttention
    from comfy.model_patcher import ModelPatcher

LayerKey: TypeAlias = tuple[str, int, int]
"""("input" | "middle" | "output", block number, transformer index)."""


def cross_attention_layers(diffusion_model: Module) -> dict[LayerKey, CrossAttention]:
    """Every attn2 module of a UNet, in the order in which they run; empty for other architectures
    (Flux, SD3, ...)."""
    return _modules(diffusion_model, "attn2")


def self_attention_layers(diffusion_model: Module) -> dict[LayerKey, CrossAttention]:
    """Every attn1 module of a UNet, in the order in which they run."""
    return _modules(diffusion_model, "attn1")


def feature_modules(diffusion_model: Module) -> dict[LayerKey, Module]:
    """By self-attention layer, the first of its block, the module that gives the output of the
    residual path of the ResBlock before it: the path's last convolution."""
    found: dict[LayerKey, Module] = {}
    for name, number, block in _blocks(diffusion_model):
        path: Any = None
        for module in block.children():
            path = getattr(module, "out_layers", path)
            if hasattr(module, "transformer_blocks") and path is not None:
                found.setdefault((name, number, 0), path[-1])
    return found


def layer_stages(layers: Sequence[LayerKey]) -> dict[LayerKey, int]:
    """The position of each layer's block among the blocks of its part."""
    blocks: dict[str, list[int]] = {}
    for name, number, _ in layers:
        numbers = blocks.setdefault(name, [])
        if number not in numbers:
            numbers.append(number)
    return {layer: blocks[layer[0]].index(layer[1]) for layer in layers}


def _modules(diffusion_model: Module, name: str) -> dict[LayerKey, CrossAttention]:
    return {
        key: getattr(transformer, name)
        for key, transformer in _transformers(diffusion_model)
        if getattr(transformer, name, None) is not None
    }


def _transformers(diffusion_model: Module) -> Iterator[tuple[LayerKey, Module]]:
    for name, number, block in _blocks(diffusion_model):
        for module in block.modules():
            for index, transformer in enumerate(getattr(module, "transformer_blocks", ())):
                yield (name, number, index), transformer


def _blocks(diffusion_model: Module) -> Iterator[tuple[str, int, Module]]:
    for number, block in enumerate(getattr(diffusion_model, "input_blocks", ())):
        yield "input", number, block
    middle = getattr(diffusion_model, "middle_block", None)
    if isinstance(middle, Module):
        yield "middle", 0, middle
    for number, block in enumerate(getattr(diffusion_model, "output_blocks", ())):
        yield "output", number, block


def require_cross_attention(model: ModelPatcher, node: str) -> None:
    """Raises ValueError when the model input of `node` is not a UNet that makes one image at a time
    from text: with self-attention and cross-attention in every transformer."""
    diffusion_model = model.get_model_object("diffusion_model")
    if reason := find_misfit(diffusion_model):
        raise ValueError(
            f"{node}: the model input is a {type(model.model).__name__} "
            f"({type(diffusion_model).__name__}), {reason}. Connect a checkpoint of SD 1.5, SD 2 "
            "or SDXL."
        )


def find_misfit(diffusion_model: Module) -> str | None:
    """Why a network is not a UNet that makes one image at a time from text; None where it is."""
    if not cross_attention_layers(diffusion_model):
        return "which has no UNet cross-attention layers"
    if any(hasattr(module, "time_stack") for module in diffusion_model.modules()):
        return "a video model, whose cross-attention reads images instead of text"
    if any(getattr(t, "disable_self_attn", False) for _, t in _transformers(diffusion_model)):
        return "which has no self-attention in some of its layers"
    return None
