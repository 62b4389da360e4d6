"""A small MODEL of every UNet family, built by ComfyUI's own config classes, and texts for it.

Each class decides what its checkpoints decide: heads and their width, linear or convolutional
projections, the kind of prediction, the noise schedule, inpainting channels, the vector that
stands beside the text. Only widths and depths are small; ComfyUI's detection asks for the true ones
(test_detection.py and test_full_size.py go through it).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ale_edit.host.comfy_types import Conditioning
from ale_edit.prompts.edits import MethodSettings
from ale_edit.prompts.ore import BACKGROUND, ObjectRestrictedEmbeddings
from ale_edit.tests.tiny import WIDTH, generator, randn

CHANNELS = 64  # one attention head of SD 2's and SDXL's width
POOLED = 1280  # of SDXL's second text encoder
TOKENS = 77

# How strongly a layer speaks. Attention to text and the scores are raised, so that the random
# network depends clearly on words, masks and injection; what else is added to the image's features
# is lowered, so that rounding errors do not grow on their way through many layers.
GAINS = {
    "attn1.to_q": 2.0,
    "attn1.to_out": 0.5,
    "attn2.to_q": 2.0,
    "attn2.to_v": 2.0,
    "ff.net.2": 0.3,
    "out_layers.3": 0.5,
}
OUTPUT_GAINS = {"EPS": 0.06}  # times the largest sigma: an image of order 1
OUTPUT_GAIN = 0.5  # of the others


def randomise(module: nn.Module, seed: int, output_gain: float) -> None:
    """Seeded weights that keep the variance from layer to layer; norms near the identity."""
    draws, gains = generator(seed), {**GAINS, "out.2": output_gain}
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(False)
        noise = torch.randn(parameter.shape, generator=draws)
        if parameter.ndim < 2:
            parameter.data.copy_(noise * 0.1 + (1.0 if name.endswith("weight") else 0.0))
        else:
            gain = next((g for part, g in gains.items() if part in name), 1.0)
            parameter.data.copy_(noise * gain / math.sqrt(parameter[0].numel()))


# -- families --------------------------------------------------------------------------------------

SD1 = {
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "use_linear_in_transformer": False,
}
SD2 = {**SD1, "use_linear_in_transformer": True}
SDXL = {
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 2, 2],
    "transformer_depth": [0, 2, 3],
    "transformer_depth_output": [0, 0, 2, 2, 3, 3],
    "transformer_depth_middle": 3,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": POOLED + 6 * 256,
}
REFINER = {
    **SDXL,
    "num_res_blocks": [1, 1, 1, 1],
    "channel_mult": [1, 1, 2, 2],
    "transformer_depth": [0, 2, 2, 0],
    "transformer_depth_output": [0, 0, 2, 2, 2, 2, 0, 0],
    "transformer_depth_middle": 2,
    "adm_in_channels": POOLED + 5 * 256,
}
# The true depths of these: without a transformer in the middle, without a middle, uneven upwards.
SSD1B = {
    **SDXL,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 1, 1],
    "transformer_depth": [0, 0, 2, 2, 4, 4],
    "transformer_depth_output": [0, 0, 0, 1, 1, 2, 10, 4, 4],
    "transformer_depth_middle": -1,
}
VEGA = {
    **SSD1B,
    "transformer_depth": [0, 0, 1, 1, 2, 2],
    "transformer_depth_output": [0, 0, 0, 1, 1, 1, 2, 2, 2],
}
KOALA = {
    **SDXL,
    "channel_mult": [1, 1, 1],
    "transformer_depth": [0, 2, 5],
    "transformer_depth_output": [0, 0, 2, 2, 5, 5],
    "transformer_depth_middle": -2,
}
IN_9 = {"in_channels": 9}  # latent, mask, masked image
V = "output_blocks.11.1.transformer_blocks.0.norm1.bias"
IS_V = {V: torch.tensor([-1.0, 1.0])}  # by whose spread ComfyUI tells the two kinds of SD 2


@dataclass(frozen=True)
class Family:
    """config: name of the class in comfy.supported_models. marks: entries of the checkpoint that
    the class reads. sampling: what the node ModelSamplingDiscrete is set to, if it is used."""

    config: str
    layout: Mapping[str, Any]
    marks: Mapping[str, Tensor] = field(default_factory=dict)
    sampling: str | None = None

    def model(self, dtype: torch.dtype = torch.float32, cast: torch.dtype | None = None) -> Any:
        """A new MODEL with seeded weights of `dtype`; cast: the type it computes in, if another."""
        import comfy.model_patcher
        import comfy.supported_models
        from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

        config = getattr(comfy.supported_models, self.config)(
            {
                "image_size": 32,
                "in_channels": 4,
                "out_channels": 4,
                "model_channels": CHANNELS,
                "use_spatial_transformer": True,
                "context_dim": WIDTH,
                "legacy": False,
                "adm_in_channels": None,
                "use_temporal_attention": False,
                **self.layout,
            }
        )
        config.set_inference_dtype(dtype, cast)
        model = config.get_model({**self.marks}, "")
        gain = OUTPUT_GAINS.get(model.model_type.name, OUTPUT_GAIN)
        randomise(model.diffusion_model, seed=0, output_gain=gain)
        cpu = torch.device("cpu")
        patcher = comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)
        if self.sampling is None:
            return patcher
        return ModelSamplingDiscrete().patch(patcher, self.sampling, False)[0]


FAMILIES = {
    "SD 1.5": Family("SD15", SD1),
    "SD 1.5, LCM": Family("SD15", SD1, sampling="lcm"),
    "SD 1.5 inpainting": Family("SD15", {**SD1, **IN_9}),
    "SD 2": Family("SD20", SD2),
    "SD 2, v": Family("SD20", SD2, IS_V),
    "SD 2 unCLIP": Family(
        "SD21UnclipL", {**SD2, "num_classes": "sequential", "adm_in_channels": 1536}, IS_V
    ),
    "SDXL": Family("SDXL", SDXL),
    "SDXL, LCM": Family("SDXL", SDXL, sampling="lcm"),
    "SDXL, v, zero SNR": Family(
        "SDXL", SDXL, {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
    ),
    "SDXL inpainting": Family("SDXL", {**SDXL, **IN_9}),
    "SDXL refiner": Family("SDXLRefiner", REFINER),
    "SSD-1B": Family("SSD1B", SSD1B),
    "Segmind Vega": Family("Segmind_Vega", VEGA),
    "KOALA": Family("KOALA_700M", KOALA),
}
CONTINUOUS = {  # no table of noise levels
    "CosXL": Family("SDXL", SDXL, {"edm_vpred.sigma_max": torch.tensor(120.0)}),
    "Playground 2.5": Family("SDXL", SDXL, {"edm_mean": torch.zeros(4), "edm_std": torch.ones(4)}),
}
REFUSED = {  # UNets with cross-attention that do not make one image from text
    "SVD": Family(
        "SVD_img2vid",
        {
            **SD2,
            "in_channels": 8,
            "num_classes": "sequential",
            "adm_in_channels": 768,
            "use_temporal_attention": True,
            "use_temporal_resblock": True,
            "extra_ff_mix_layer": True,
            "use_spatial_context": True,
            "merge_strategy": "learned_with_images",
            "video_kernel_size": [3, 1, 1],
        },
    ),
    "x4 upscaler": Family(
        "SD_X4Upscaler",
        {
            **SD2,
            "in_channels": 7,
            "num_res_blocks": [1] * 4,
            "channel_mult": [1] * 4,
            "transformer_depth": [1] * 4,
            "transformer_depth_output": [1] * 8,
        },
    ),
    "SD 0.9 XS": Family("SD20", {**SD2, "disable_self_attentions": [True, False]}),
}


@cache
def family_model(name: str) -> Any:
    """The MODEL of a family, made once; nodes and runs leave it as it is."""
    with torch.inference_mode(False):
        return {**FAMILIES, **CONTINUOUS, **REFUSED}[name].model()


# -- texts -----------------------------------------------------------------------------------------

WORDS = ((1, 4), (5, 7), (8, 11))  # rows of the objects' phrases


def random_ore(
    count: int, seed: int, width: int = WIDTH, **settings: Any
) -> ObjectRestrictedEmbeddings:
    """Object-Restricted Embeddings of `count` objects in random numbers; without `ore` every value
    is the plain text, as Object-Restricted Embeddings makes it."""
    chosen = MethodSettings(**settings)
    owner = torch.full((TOKENS,), BACKGROUND)
    for i, (start, stop) in enumerate(WORDS[:count]):
        owner[start:stop] = i
    keys = randn(TOKENS, width, seed=seed)
    values = randn(count + 1, TOKENS, width, seed=seed + 1)
    if not chosen.ore:
        values = keys.expand(count + 1, -1, -1).clone()
    names = tuple(f"object {i}" for i in range(count))
    return ObjectRestrictedEmbeddings(keys, values, owner, names, chosen)


def conditioning(seed: int, width: int = WIDTH, **settings: Any) -> Conditioning:
    """As Object-Restricted Embeddings gives it for two objects, with SDXL's pooled vector."""
    from ale_edit.host.text.conditioning import make_conditioning

    return make_conditioning(random_ore(2, seed, width, **settings), pooled(seed))


def plain_conditioning(seed: int, width: int = WIDTH) -> Conditioning:
    """As CLIPTextEncode gives it."""
    return [[randn(1, TOKENS, width, seed=seed), {"pooled_output": pooled(seed)}]]


def pooled(seed: int) -> Tensor:
    return randn(1, POOLED, seed=seed + 2)
