"""Checkpoint files of the true size, of random numbers: made in seconds, deleted by who asked."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ale_edit.tests.families import GAINS, OUTPUT_GAINS, POOLED
from ale_edit.tests.tiny import generator

COMMON: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "use_spatial_transformer": True,
    "legacy": False,
}
SD15_UNET = {
    **COMMON,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1] * 9 + [0] * 3,
    "transformer_depth_middle": 1,
    "num_heads": 8,
    "context_dim": 768,
}
SDXL_UNET = {
    **COMMON,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "use_linear_in_transformer": True,
    "num_head_channels": 64,
    "context_dim": 2048,
    "num_classes": "sequential",
    "adm_in_channels": POOLED + 6 * 256,
}
KL_VAE = {
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


class Numbers:
    """Normal numbers out of one pool, at ever new places of it: a billion in a second or two."""

    def __init__(self, seed: int, size: int = 2**22) -> None:
        self._pool = torch.randn(size, generator=generator(seed))
        self._start = 0

    def take(self, count: int) -> Tensor:
        self._start = (self._start + 1_000_003) % len(self._pool)
        turned = self._pool.roll(self._start)
        return turned.repeat(-(-count // len(turned)))[:count]


def filled(module: nn.Module, prefix: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights for a module on the meta device that keep the variance from layer to layer, as those
    of families.py, under the names of a checkpoint."""
    numbers, gains, state = Numbers(len(prefix)), {**GAINS, "out.2": OUTPUT_GAINS["EPS"]}, {}
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            continue
        drawn = numbers.take(tensor.numel()).reshape(tensor.shape)
        if tensor.ndim < 2:
            drawn = 0.1 * drawn + (1.0 if name.endswith("weight") else 0.0)
        else:
            gain = next((g for part, g in gains.items() if part in name), 1.0)
            drawn = drawn * gain / math.sqrt(tensor[0].numel())
        state[prefix + name] = drawn.to(dtype)
    return state


def unet_on_meta(config: dict[str, Any]) -> nn.Module:
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    return UNetModel(**config, device="meta", operations=comfy.ops.disable_weight_init)


def write_sd15(path: Path) -> None:
    """A whole checkpoint of SD 1.5's layout in fp16, 2.1 GB."""
    import comfy.ldm.models.autoencoder
    import comfy.sd1_clip

    half = torch.float16
    with torch.device("meta"):
        clip: Any = comfy.sd1_clip.SD1ClipModel(device="meta").clip_l
        vae = comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=KL_VAE, embed_dim=4)
    weights = filled(unet_on_meta(SD15_UNET), "model.diffusion_model.", half)
    weights |= filled(clip.transformer, "cond_stage_model.transformer.", half)
    weights |= filled(vae, "first_stage_model.", half)
    save_file(weights, path)


def write_sdxl_unet(path: Path) -> None:
    """A UNet of SDXL's layout in fp8, 2.6 GB."""
    save_file(filled(unet_on_meta(SDXL_UNET), "", torch.float8_e4m3fn), path)
