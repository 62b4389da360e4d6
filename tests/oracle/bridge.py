"""The same tiny random UNet and text encoder in ComfyUI's classes and in those of diffusers and
transformers.

ComfyUI's modules hold the weights; the others load them under their own names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from ale_edit.tests.tiny import CLIP_CONFIG, generator, tiny_clip, tiny_model

from .ore_by_hand import TextEncoder

# How strongly a layer speaks. The text's values and the attention's scores are raised, so that the
# random network depends clearly on words, masks and injection; the output is lowered, so that p
# stays of order 1 from the largest sigma on.
GAINS = {
    "attn2.to_v": 2.0,
    "attn2.to_out": 2.0,
    "attn2.to_q": 2.0,
    "attn1.to_q": 3.0,
    "out.2": 0.06,
}


def randomise(module: nn.Module, seed: int) -> None:
    """Seeded weights that keep the variance from layer to layer; norms near the identity."""
    draws = generator(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=draws)
        if parameter.ndim < 2:
            parameter.data.copy_(noise * 0.1 + (1.0 if name.endswith("weight") else 0.0))
        else:
            gain = next((g for part, g in GAINS.items() if part in name), 1.0)
            parameter.data.copy_(noise * gain / math.sqrt(parameter[0].numel()))


def comfy_model(seed: int = 0) -> Any:
    """MODEL: SD 1.5's UNet class with a transformer at every level."""
    model = tiny_model()
    randomise(model.model.diffusion_model, seed)
    return model


def comfy_clip(seed: int = 1) -> Any:
    """CLIP: SD 1.5's text encoder class with the real vocabulary."""
    clip = tiny_clip()
    transformer = clip.cond_stage_model.clip_l.transformer
    randomise(transformer, seed)
    transformer.text_model.embeddings.token_embedding.weight.data.mul_(math.sqrt(32))
    return clip


def diffusers_unet(model: Any) -> Any:
    """UNet2DConditionModel with the weights of a ComfyUI MODEL of SD 1.5, SD 2 or SDXL."""
    import comfy.utils
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    config = model.model.model_config.unet_config
    widths = tuple(config["model_channels"] * m for m in config["channel_mult"])
    per_level = config["num_res_blocks"][0]
    depths = config["transformer_depth"][::per_level]
    kinds = ["CrossAttn" if depth else "" for depth in depths]
    head = config["num_head_channels"]
    beside_text: dict[str, Any] = {}
    if config["adm_in_channels"]:
        beside_text = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": config["adm_in_channels"],
        }
    unet = UNet2DConditionModel(
        sample_size=32,
        in_channels=config["in_channels"],
        block_out_channels=widths,
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in kinds[::-1]),
        layers_per_block=per_level,
        transformer_layers_per_block=tuple(max(depth, 1) for depth in depths),
        use_linear_projection=config["use_linear_in_transformer"],
        cross_attention_dim=config["context_dim"],
        # diffusers' name for the number of heads
        attention_head_dim=tuple(w // head if head > 0 else config["num_heads"] for w in widths),
        **beside_text,
    ).eval()
    names = comfy.utils.unet_to_diffusers(config)
    weights, expected = model.model.diffusion_model.state_dict(), unet.state_dict()
    loaded = {theirs: weights[ours] for theirs, ours in names.items() if theirs in expected}
    assert len(loaded) == len(weights)
    unet.load_state_dict(loaded)
    return unet.requires_grad_(False)


def transformers_text_encoder(
    clip: Any, sizes: Mapping[str, int] = MappingProxyType(CLIP_CONFIG)
) -> TextEncoder:
    """CLIPTextModel with the weights of a ComfyUI CLIP; the tokenizer of ComfyUI's vocabulary."""
    import comfy
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    config = CLIPTextConfig.from_dict({**sizes, "vocab_size": 49408, "hidden_act": "quick_gelu"})
    model = CLIPTextModel(config).eval()
    weights = clip.cond_stage_model.clip_l.transformer.text_model.state_dict()
    prefix = "text_model." if any(n.startswith("text_model.") for n in model.state_dict()) else ""
    model.load_state_dict({prefix + name: weight for name, weight in weights.items()})
    folder = Path(next(iter(comfy.__path__))) / "sd1_tokenizer"
    return TextEncoder(CLIPTokenizer.from_pretrained(folder), model.requires_grad_(False))
