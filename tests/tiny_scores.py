"""Small models of the scores: the real classes and file layouts with random weights.

Imported by tests as `ale_edit.tests.tiny_scores`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ale_edit.tests.tiny import fill

WIDTH = 32  # of CLIP's text states, its image states and the space of both
SIDE = 56
DINO_WIDTH = 128
TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "eos_token_id": 49407,
}
VISION = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "image_size": SIDE,
    "patch_size": 14,
}


def transformers_clip(seed: int = 0) -> Any:
    """transformers' CLIPModel, small, with CLIP's vocabulary."""
    from transformers import CLIPConfig, CLIPModel

    config: Any = CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=WIDTH)
    model = CLIPModel(config)
    fill(model, seed, std=0.2)
    return model.eval()


def clip_folder(path: Path, seed: int = 0) -> Any:
    """A folder of CLIP as Hugging Face publishes it; the model in it."""
    model = transformers_clip(seed)
    model.save_pretrained(path)
    return model


def comfyui_clip(model: Any, layers: int = 2) -> Any:
    """ComfyUI's CLIP with the text half of a transformers_clip."""
    import comfy.sd
    import comfy.sd1_clip
    from comfy.supported_models_base import ClipTarget

    config = {**TEXT, "num_hidden_layers": layers, "projection_dim": WIDTH}
    target = ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
    options = {"clip_l_model_config": config, "dtype": torch.float32}
    clip = comfy.sd.CLIP(target, model_options=options)
    weights = {k: v for k, v in model.state_dict().items() if k.startswith("text_")}
    clip.cond_stage_model.load_sd(weights)
    return clip


def comfyui_vision(model: Any, path: Path) -> Any:
    """ComfyUI's CLIP_VISION with the image half of a transformers_clip."""
    from comfy.clip_vision import ClipVisionModel

    config = {**VISION, "model_type": "clip_vision_model", "num_channels": 3}
    config |= {"hidden_act": "quick_gelu", "projection_dim": WIDTH}
    path.write_text(json.dumps(config), encoding="utf-8")
    vision = ClipVisionModel(str(path))
    vision.model.float()  # on a CPU ComfyUI computes in fp16, 0.1 % off
    vision.load_sd({k: v for k, v in model.state_dict().items() if k.startswith("vis")})
    return vision


def transformers_vit(seed: int = 0, side: int = 224) -> Any:
    """transformers' ViT, 3 blocks of two heads and patches of 8 pixels, as DINO's."""
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        hidden_size=DINO_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=2 * DINO_WIDTH,
        image_size=side,
        patch_size=8,
        layer_norm_eps=1e-6,
    )
    model = ViTModel(config, add_pooling_layer=False)
    fill(model, seed, std=0.1)
    return model.eval()


def published_vit(model: Any, folder: Path) -> dict[str, Tensor]:
    """The weights of a transformers_vit by the names that transformers publishes."""
    from safetensors.torch import load_file

    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def squeezenet(path: Path) -> Path:
    """A backbone of LPIPS with random weights, as torchvision publishes it."""
    from torchvision.models import squeezenet1_1

    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(squeezenet1_1(weights=None).state_dict(), path)
    return path


def last_keys(model: Any, pixels: Tensor) -> Tensor:
    """Keys (N, C) of a transformers_vit's last block, by a hook on its projection."""
    kept: list[Tensor] = []
    layers = cast("Any", model).layers if hasattr(model, "layers") else model.encoder.layer
    attention = layers[-1].attention
    key = attention.k_proj if hasattr(attention, "k_proj") else attention.attention.key
    hook = key.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    with torch.no_grad():
        model(pixels, interpolate_pos_encoding=True)
    hook.remove()
    return kept[0][0]
