"""What is measured: UNets of every family with random weights, which change no time, and regions
and text for them. K objects, L positions, C channels, N tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_management as management
import comfy.supported_models
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...demo.models import UNET_CONFIG, build_model, new_unet
from ...editors.ale import ALESettings
from ...host.attention.rgb_cam import apply_rgb_cam
from ...host.attention.self_injection import apply_self_injection
from ...host.sampling.blending import apply_background_blending
from ...host.sampling.branch_guider import Branch, BranchGuider
from ...host.sampling.schedule import lcm_sigmas
from ...host.text.conditioning import make_conditioning
from ...prompts.edits import MethodSettings
from ...prompts.ore import BACKGROUND, ObjectRestrictedEmbeddings
from ...regions.regions import ImageRegions, make_regions

COUNTS = (1, 3, 10)  # of objects
TOKENS, POOLED = 77, 1280
WORDS = (2, 3, 4, 5)  # of the objects' phrases, in turn; ten of them fit one chunk of text
STEPS = ALESettings.steps
GUIDANCE = (ALESettings.source_guidance, ALESettings.target_guidance)
BOTH_GUIDED = (1.5, 2.0)  # every call holds all four rows of an image


@dataclass(frozen=True)
class UNetShape:
    """One UNet at one latent size."""

    unet: str
    size: int
    dtype: torch.dtype

    def __str__(self) -> str:
        return f"{self.unet}, {self.size}x{self.size}, {str(self.dtype).removeprefix('torch.')}"


_SD = {
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1] * 9 + [0] * 3,
}
_SDXL = {
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "use_linear_in_transformer": True,
    "context_dim": 2048,
    "num_classes": "sequential",
    "adm_in_channels": POOLED + 6 * 256,
}
LAYOUTS: dict[str, tuple[str, dict[str, Any]]] = {  # class of comfy.supported_models
    "SD 1.5": ("SD15", {**_SD, "context_dim": 768}),
    "SD 2": ("SD20", {**_SD, "context_dim": 1024, "use_linear_in_transformer": True}),
    "SDXL": ("SDXL", _SDXL),
    "SSD-1B": (
        "SSD1B",
        {
            **_SDXL,
            "transformer_depth": [0, 0, 2, 2, 4, 4],
            "transformer_depth_output": [0, 0, 0, 1, 1, 2, 10, 4, 4],
            "transformer_depth_middle": -1,
        },
    ),
}
UNETS: dict[str, Callable[[torch.dtype], ModelPatcher]] = {
    "demo": lambda _dtype: build_model(new_unet().state_dict()),
    "SD 1.5, 64 channels": lambda dtype: unet_model("SD 1.5", 64, dtype),
    "SD 1.5": lambda dtype: unet_model("SD 1.5", 320, dtype),
}
FAMILY_SIZES = {"SD 2": (32, 96), "SDXL": (64, 128), "SSD-1B": (64, 128)}
"""Latent size of each other family: with 64 channels on a CPU, with its own 320 on a GPU."""


def shapes(is_quick: bool) -> list[UNetShape]:
    """Those of the targets."""
    if is_quick:
        return [UNetShape("demo", 8, torch.float32)]
    if torch.cuda.is_available():
        return [UNetShape(unet, size, torch.float16) for unet in UNETS for size in (64, 96)]
    return [UNetShape(unet, size, torch.float32) for unet in list(UNETS)[:2] for size in (32, 64)]


def unet_model(family: str, channels: int, dtype: torch.dtype) -> ModelPatcher:
    """A MODEL of a family's layout with `channels` where it has 320."""
    name, layout = LAYOUTS[family]
    settings = {**UNET_CONFIG, **layout, "model_channels": channels}
    config = getattr(comfy.supported_models, name)(settings)
    config.set_inference_dtype(dtype, None)
    model = config.get_model({}, "")
    model.diffusion_model.eval().requires_grad_(False)
    for parameter in model.diffusion_model.parameters():
        parameter.data.normal_(std=0.02)
    return ModelPatcher(
        model,
        load_device=management.get_torch_device(),
        offload_device=management.unet_offload_device(),
    )


def embeddings(count: int, width: int) -> ObjectRestrictedEmbeddings:
    """Object-Restricted Embeddings of `count` objects, in random numbers."""
    owner, start = torch.full((TOKENS,), BACKGROUND), 1
    for i in range(count):
        end = start + WORDS[i % len(WORDS)]
        owner[start:end] = i
        start = end + 1  # "and"
    names = tuple(f"object {i}" for i in range(count))
    keys, values = torch.randn(TOKENS, width), torch.randn(count + 1, TOKENS, width)
    return ObjectRestrictedEmbeddings(keys, values, owner, names, MethodSettings())


def boxes(count: int, size: int) -> ImageRegions:
    """`count` separate objects on a latent of size x size, over half of it together."""
    image, columns = 8 * size, math.ceil(math.sqrt(count))
    side = image // columns
    masks = torch.zeros(count, image, image)
    for i in range(count):
        top, left = side * (i // columns) + side // 8, side * (i % columns) + side // 8
        masks[i, top : top + 3 * side // 4, left : left + 3 * side // 4] = 1
    return make_regions(list(masks), [f"object {i}" for i in range(count)], ALESettings.dilation)


def ale_model(model: ModelPatcher, count: int, size: int, schedule: float = 1.0) -> ModelPatcher:
    """A MODEL after the three model nodes of the main job."""
    regions = boxes(count, size)
    model = apply_self_injection(apply_rgb_cam(model, regions), schedule)
    return apply_background_blending(model, regions)


def guide(
    model: ModelPatcher,
    count: int = 1,
    guidance: tuple[float, float] = BOTH_GUIDED,
    guider_class: type[BranchGuider] = BranchGuider,
    *,
    reuses_source: bool = True,
) -> BranchGuider:
    width = model.model.model_config.unet_config["context_dim"]
    source, negative = (
        [[torch.randn(1, TOKENS, width), {"pooled_output": torch.randn(1, POOLED)}]]
        for _ in range(2)
    )
    target = make_conditioning(embeddings(count, width), torch.randn(1, POOLED))
    branches = (Branch("source", source, guidance[0]), Branch("target", target, guidance[1]))
    return guider_class(model, branches, negative, reuses_source=reuses_source)


def sample(guider: BranchGuider, size: int, sampler: Any, steps: int = STEPS) -> Tensor:
    latent = torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(0))
    sigmas = lcm_sigmas(guider.model_patcher, steps, 1.0)
    zeros = torch.zeros_like(latent)
    return guider.sample(zeros, latent, sampler, sigmas, disable_pbar=True, seed=0)
