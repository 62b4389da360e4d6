"""Checkpoint and LoRA files as people have them, of random numbers and with a short UNet.

The checkpoint has all that ComfyUI's detection asks of SD 1.5: its UNet's width and text width,
CLIP-L and the KL autoencoder at their full size, fp16; only the UNet's depth is small. The LoRA has
the names of LCM-LoRA's file and one pair of matrices for each weight that it changes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ale_edit.tests.tiny import UNET_CONFIG, generator

SHORT_UNET = {
    **UNET_CONFIG,
    "model_channels": 320,
    "num_heads": 8,
    "context_dim": 768,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 1],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
}
RANK = 4


def write_checkpoint(path: Path) -> None:
    """About 500 MB, in a few seconds."""
    import comfy.ldm.models.autoencoder
    import comfy.sd1_clip

    vae = {
        "double_z": True,
        "z_channels": 4,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 128,
        "ch_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    with torch.device("meta"):
        unet = short_unet()
        clip = comfy.sd1_clip.SD1ClipModel(device="meta", dtype=torch.float16)
        autoencoder = comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=vae, embed_dim=4)
    weights = _filled(unet, "model.diffusion_model.", seed=0)
    encoder: Any = clip.clip_l
    weights |= _filled(encoder.transformer, "cond_stage_model.transformer.", seed=1)
    weights |= _filled(autoencoder, "first_stage_model.", seed=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)


def write_lora(path: Path) -> None:
    """A low-rank change of every weight of the UNet that has a place in a LoRA file."""
    import comfy.utils

    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in short_unet().state_dict().items()}
    draws, weights = generator(3), {}
    for name, place in comfy.utils.unet_to_diffusers(SHORT_UNET).items():
        shape = shapes.get(place, ())
        if len(shape) < 2:
            continue
        key = "lora_unet_" + name.removesuffix(".weight").replace(".", "_")
        weights[f"{key}.lora_down.weight"] = _random((RANK, *shape[1:]), draws)
        weights[f"{key}.lora_up.weight"] = _random((shape[0], RANK, *[1] * len(shape[2:])), draws)
        weights[f"{key}.alpha"] = torch.tensor(float(RANK))
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(weights, path)


def short_unet() -> nn.Module:
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    return UNetModel(
        **SHORT_UNET, device="meta", dtype=torch.float16, operations=comfy.ops.disable_weight_init
    )


def _filled(module: nn.Module, prefix: str, seed: int) -> dict[str, Tensor]:
    draws = generator(seed)
    return {
        prefix + name: _random(tuple(tensor.shape), draws, is_scale=name.endswith("weight"))
        for name, tensor in module.state_dict().items()
        if tensor.is_floating_point()
    }


def _random(shape: tuple[int, ...], draws: torch.Generator, is_scale: bool = False) -> Tensor:
    """Normal numbers that keep the variance; small ones for biases, near 1 for scales."""
    if len(shape) < 2:
        return (torch.randn(shape, generator=draws) * 0.02 + is_scale).to(torch.float16)
    fan_in = int(torch.tensor(shape[1:]).prod())
    return (torch.randn(shape, generator=draws) / fan_in**0.5).to(torch.float16)
