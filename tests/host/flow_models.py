"""A tiny MODEL of every flow family with random weights, built by ComfyUI's own config classes, and
texts for it.

Latent channels and patches are the true ones. Imported by tests as
`ale_edit.tests.host.flow_models`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ale_edit.host.comfy_types import Conditioning
from ale_edit.tests.tiny import generator, randn
from ale_edit.tests.versions import CHROMA_CONFIG, FLUX2_CONFIG, FLUX_CONFIG

TEXT = 48
POOLED = 32

FLUX: dict[str, Any] = {
    **{"in_channels": 16, "out_channels": 16, "vec_in_dim": POOLED, "context_in_dim": TEXT},
    **{"hidden_size": 128, "mlp_ratio": 4.0, "num_heads": 4, "depth": 2, "depth_single_blocks": 2},
    **{"axes_dim": [4, 14, 14], "theta": 10000, "patch_size": 2, "qkv_bias": True},
    **{"guidance_embed": True, **FLUX_CONFIG},
}
FLUX2: dict[str, Any] = {
    **{**FLUX, "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "mlp_ratio": 3.0},
    **{"patch_size": 1, "axes_dim": [8] * 4, "theta": 2000, "qkv_bias": False},
    **{"global_modulation": True, "mlp_silu_act": True, "ops_bias": False},
    **{"default_ref_method": "index", "ref_index_scale": 10.0, **FLUX2_CONFIG},
}
CHROMA: dict[str, Any] = {
    **{"in_channels": 64, "out_channels": 64, "context_in_dim": TEXT, "hidden_size": 128},
    **{"mlp_ratio": 4.0, "num_heads": 4, "depth": 2, "depth_single_blocks": 2, "theta": 10000},
    **{"axes_dim": [4, 14, 14], "patch_size": 2, "qkv_bias": True, "in_dim": 64},
    **{"out_dim": 128, "hidden_dim": 64, "n_layers": 2, **CHROMA_CONFIG},
}
MMDIT: dict[str, Any] = {
    **{"input_size": None, "in_channels": 16, "depth": 2, "num_blocks": 2, "num_patches": 256},
    **{"adm_in_channels": POOLED, "pos_embed_max_size": 16, "qk_norm": "rms"},
    **{"x_block_self_attn_layers": [0], "pos_embed_scaling_factor": None},
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": TEXT, "out_features": 128},
    },
}
QWEN: dict[str, Any] = {
    **{"in_channels": 64, "out_channels": 16, "num_layers": 2, "attention_head_dim": 32},
    **{"num_attention_heads": 4, "joint_attention_dim": TEXT, "axes_dims_rope": (8, 12, 12)},
}
Z_IMAGE: dict[str, Any] = {
    **{"in_channels": 16, "dim": 256, "n_layers": 2, "n_refiner_layers": 1, "n_heads": 4},
    **{"n_kv_heads": 4, "multiple_of": 1, "ffn_dim_multiplier": 8 / 3, "qk_norm": True},
    **{"cap_feat_dim": TEXT, "axes_dims": [16, 24, 24], "axes_lens": [256, 32, 32]},
    **{"rope_theta": 256.0, "z_image_modulation": True, "time_scale": 1000.0},
    "pad_tokens_multiple": 32,
}
LUMINA2: dict[str, Any] = {
    **{**Z_IMAGE, "z_image_modulation": False, "time_scale": 1.0, "pad_tokens_multiple": None},
    **{"n_kv_heads": 2, "rope_theta": 10000.0},
}


@dataclass(frozen=True)
class FlowModel:
    """config: name of the class in comfy.supported_models. image_model: as its detection names it.
    pooled: whether its texts have a pooled output."""

    config: str
    layout: Mapping[str, Any]
    image_model: str | None = None
    pooled: bool = False

    def build(self) -> Any:
        """A new MODEL with seeded weights."""
        import comfy.model_patcher
        import comfy.supported_models

        named = {"image_model": self.image_model} if self.image_model else {}
        config = getattr(comfy.supported_models, self.config)({**named, **self.layout})
        config.set_inference_dtype(torch.float32, None)
        model = config.get_model({}, "")
        if self.config == "ZImage":  # diffusers' middle width is fixed
            model.diffusion_model.t_embedder = wide_time_embedder()
        randomise(model.diffusion_model)
        cpu = torch.device("cpu")
        return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def wide_time_embedder() -> Any:
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.mmdit import TimestepEmbedder

    return TimestepEmbedder(
        1024, output_size=256, dtype=torch.float32, operations=comfy.ops.manual_cast
    )


MODELS = {
    "SD 3.5": FlowModel("SD3", MMDIT, pooled=True),
    "Flux.1": FlowModel("Flux", FLUX, "flux", pooled=True),
    "Flux.1 schnell": FlowModel(
        "FluxSchnell", {**FLUX, "guidance_embed": False}, "flux", pooled=True
    ),
    "Flux.2": FlowModel("Flux2", FLUX2, "flux2"),
    "Chroma": FlowModel("Chroma", CHROMA, "chroma"),
    "Qwen-Image": FlowModel("QwenImage", QWEN, "qwen_image"),
    "Lumina 2": FlowModel("Lumina2", LUMINA2, "lumina2"),
    "Z-Image": FlowModel("ZImage", Z_IMAGE, "lumina2"),
}


def tiny_aura_flow() -> Any:
    """A transformer that samples by flow matching and is no known family."""
    import comfy.model_patcher
    import comfy.supported_models

    layout = {"cond_seq_dim": 32, "n_double_layers": 1, "n_layers": 1, "n_heads": 2, "dim": 64}
    config = comfy.supported_models.AuraFlow({**layout, "max_seq": 64})
    config.set_inference_dtype(torch.float32, None)
    cpu = torch.device("cpu")
    model = config.get_model({}, "")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Seeded weights that keep the variance from layer to layer; norms near the identity."""
    draws = generator(seed)
    table = getattr(module, "pos_embed", None)  # SD 3's positions come with the checkpoint
    if isinstance(table, Tensor):
        table.copy_(torch.randn(table.shape, generator=draws) * 0.5)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(False)
        noise = torch.randn(parameter.shape, generator=draws)
        if parameter.ndim < 2:
            parameter.data.copy_(noise * 0.1 + (0.0 if name.endswith("bias") else 1.0))
        else:
            parameter.data.copy_(noise / math.sqrt(parameter[0].numel()))


@cache
def flow_model(name: str) -> Any:
    """The MODEL of a family, made once; nodes and runs leave it as it is."""
    with torch.inference_mode(False):
        return MODELS[name].build()


def flow_text(
    name: str, seed: int, tokens: int = 20, guidance: float | None = None
) -> Conditioning:
    """As CLIP Text Encode gives it, for a family; with Flux Guidance's number if given."""
    pooled = randn(1, POOLED, seed=seed + 1) if MODELS[name].pooled else None
    options: dict[str, Any] = {"pooled_output": pooled}
    if guidance is not None:
        options["guidance"] = guidance
    return [[randn(1, tokens, TEXT, seed=seed), options]]


def flow_latent(name: str, batch: int = 1, height: int = 8, width: int = 8) -> Tensor:
    """Latents of the family's shape, as its VAE gives them."""
    latent_format = flow_model(name).get_model_object("latent_format")
    frames = [1] * (latent_format.latent_dimensions - 2)
    shape = (latent_format.latent_channels, *frames, height, width)
    return torch.cat([randn(1, *shape, seed=40 + j) for j in range(batch)])
