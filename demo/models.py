"""The demo model as ComfyUI's own classes: UNetModel in a ModelPatcher, CLIP, VAE.

ComfyUI is imported inside the functions only, so that the demo world itself needs no ComfyUI.
"""

from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from .autoencoder import DemoAutoencoder
from .captions import unknown_words
from .text_encoder import CLIP_CONFIG, CONTEXT_DIM, expand_table
from .weights import read_weights

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE

UNET_CONFIG: dict[str, Any] = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 64,
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 2, 2],
    "transformer_depth": [1, 1, 1],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "context_dim": CONTEXT_DIM,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "legacy": False,
}
_HEADS: dict[str, Any] = {"num_heads": -1, "num_head_channels": 32}
# Least squares from scaled latents to colours in [-1, 1], over 200 scenes of the training seeds.
PREVIEW_FACTORS = [
    [0.1477, 0.0557, -0.0619],
    [0.0119, -0.0184, 0.2212],
    [-0.1303, -0.0429, 0.0307],
    [0.0545, -0.1444, -0.0129],
]
PREVIEW_BIAS = [0.1376, 0.1113, 0.1134]
END_OF_TEXT = 49407  # in the vocabulary of CLIP


def load_demo_model(lcm_lora: bool = False) -> "tuple[ModelPatcher, CLIP, VAE]":
    """The demo model, ready for any ComfyUI node: (model, clip, vae); `lcm_lora` as `add_lcm`."""
    model = build_model(read_weights("unet"))
    return (
        add_lcm(model, read_weights("lcm")) if lcm_lora else model,
        build_clip(read_weights("text")),
        build_vae(read_weights("autoencoder")),
    )


def add_lcm(model: "ModelPatcher", lora: dict[str, Tensor]) -> "ModelPatcher":
    """The model with a latent consistency LoRA, by ComfyUI's own LoRA and "lcm" sampling nodes."""
    from comfy.sd import load_lora_for_models
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    distilled, _ = load_lora_for_models(model, None, lora, 1.0, 0.0)
    return ModelSamplingDiscrete().patch(distilled, "lcm", zsnr=False)[0]


def build_model(weights: dict[str, Tensor]) -> "ModelPatcher":
    """ComfyUI's MODEL for UNet weights."""
    import comfy.model_base
    import comfy.model_management as management
    from comfy.model_patcher import ModelPatcher

    load_device = management.get_torch_device()
    config = _model_config()
    dtype = management.unet_dtype(
        model_params=7_000_000, supported_dtypes=config.supported_inference_dtypes
    )
    config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, load_device))
    model = comfy.model_base.BaseModel(config, device=management.unet_offload_device())
    model.diffusion_model.load_state_dict(weights)
    return ModelPatcher(
        model, load_device=load_device, offload_device=management.unet_offload_device()
    )


def build_clip(weights: dict[str, Tensor]) -> "CLIP":
    """ComfyUI's CLIP for text encoder weights; all unknown words look the same to it."""
    import comfy.sd
    import comfy.sd1_clip
    import folder_paths
    from comfy.supported_models_base import ClipTarget

    weights = dict(weights)
    table = expand_table(weights.pop("token_ids"), weights.pop("table"))
    weights["text_model.embeddings.token_embedding.weight"] = table
    weights["text_projection.weight"] = torch.eye(CONTEXT_DIM)

    class DemoTokenizer(comfy.sd1_clip.SD1Tokenizer):
        """LimitedTokenizer (host/text/tokens.py) of the demo world."""

        clip_l: Any

        def unknown_words(self, tokenized: dict[str, list[list[tuple[Any, float]]]]) -> list[str]:
            tokens = [token for chunk in tokenized["l"] for token, _ in chunk]
            words = [token for token in tokens if not isinstance(token, Tensor)]
            return unknown_words(self.clip_l.tokenizer.decode(words, skip_special_tokens=True))

    clip = comfy.sd.CLIP(
        ClipTarget(DemoTokenizer, comfy.sd1_clip.SD1ClipModel),
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        model_options={"clip_l_model_config": CLIP_CONFIG},
    )
    clip.cond_stage_model.clip_l.transformer.load_state_dict(weights)
    return clip


def build_vae(weights: dict[str, Tensor]) -> "VAE":
    """ComfyUI's VAE around the demo autoencoder."""
    import comfy.sd
    import comfy.taesd.taesd

    # VAE's constructor knows a fixed list of architectures; a TAESD sets all its fields.
    stand_in = comfy.taesd.taesd.TAESD(latent_channels=4).state_dict()
    vae = cast("Any", comfy.sd.VAE(sd=stand_in))
    autoencoder = DemoAutoencoder()
    autoencoder.load_state_dict(weights)
    vae.first_stage_model = autoencoder.eval().requires_grad_(False).to(vae.vae_dtype)
    patcher = vae.patcher
    vae.patcher = type(patcher)(
        vae.first_stage_model,
        load_device=patcher.load_device,
        offload_device=patcher.offload_device,
    )
    vae.size = None
    vae.model_size()
    return vae


def new_unet() -> nn.Module:
    """An untrained UNetModel with torch's own layers (ComfyUI's skip initialisation)."""
    from comfy.ldm.modules.diffusionmodules.openaimodel import (
        ResBlock,
        SpatialTransformer,
        UNetModel,
    )

    unet = UNetModel(**UNET_CONFIG, **_HEADS, operations=cast("Any", _TorchLayers))
    last_layers: list[Any] = [unet.out[-1]]
    for module in unet.modules():
        if isinstance(module, ResBlock):
            last_layers.append(module.out_layers[-1])
        elif isinstance(module, SpatialTransformer):
            last_layers.append(module.proj_out)
    for layer in last_layers:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return unet


def new_text_model() -> nn.Module:
    """An untrained CLIPTextModel_ with torch's own layers."""
    from comfy.clip_model import CLIPTextModel_

    config = {
        **CLIP_CONFIG,
        "hidden_act": "quick_gelu",
        "max_position_embeddings": 77,
        "eos_token_id": END_OF_TEXT,
    }
    model = CLIPTextModel_(config, torch.float32, "cpu", _TorchLayers)
    nn.init.normal_(model.embeddings.position_embedding.weight, std=0.1)
    return model


def tokenize(text: str) -> list[int]:
    """Token ids of a text by ComfyUI's SD 1 tokenizer, without BOS and end-of-text."""
    return _tokenizer()(text)["input_ids"][1:-1]


@lru_cache(maxsize=1)
def _tokenizer():
    import comfy.sd1_clip

    return comfy.sd1_clip.SDTokenizer().tokenizer


def _model_config():
    import comfy.latent_formats
    from comfy.supported_models import SD15

    class DemoLatent(comfy.latent_formats.SD15):
        """SD 1.5's scale, and the demo autoencoder's own colours in live previews."""

        def __init__(self):
            super().__init__()
            self.latent_rgb_factors = PREVIEW_FACTORS
            self.latent_rgb_factors_bias = PREVIEW_BIAS
            self.taesd_decoder_name = None

    class DemoSD15(SD15):
        """SD 1.5's latent scale, schedule and eps-prediction on a small UNet."""

        unet_config = {}
        latent_format = DemoLatent
        unet_extra_config = _HEADS

    return DemoSD15(UNET_CONFIG)


class _TorchLayers:
    """Layer classes as ComfyUI's models ask for them, with torch's initialisation."""

    Linear = nn.Linear
    LayerNorm = nn.LayerNorm
    GroupNorm = nn.GroupNorm
    Conv2d = nn.Conv2d
    Embedding = nn.Embedding

    @staticmethod
    def conv_nd(dims: int, *args: Any, **kwargs: Any) -> nn.Conv2d:
        return nn.Conv2d(*args, **kwargs)
