"""Tiny real things for tests: ComfyUI's own model classes with seeded random weights.

Tests import this module through the pack's bootstrap: `from ale_edit.tests.tiny import tiny_model`.
ComfyUI is imported inside the functions, so that the pure tests need none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ale_edit.prompts.edits import Edits, MethodSettings, make_edit
from ale_edit.regions.regions import ImageRegions, make_regions

WIDTH = 32  # channels of a text token
UNET_CONFIG = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1, 1],
    "channel_mult": [1, 2, 2],
    "num_heads": 4,
    "num_head_channels": -1,
    "use_spatial_transformer": True,
    "transformer_depth": [1, 1, 1],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1],
    "transformer_depth_middle": 1,
    "context_dim": WIDTH,
    "use_linear_in_transformer": False,
    "legacy": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
}
CLIP_CONFIG = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "projection_dim": WIDTH,
}
SDXL_WIDTHS = {"l": 24, "g": 40}
PAIRS = (("wolf", "brown-colored goat"), ("yellow moon", "soccer ball"))


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed))


def fill(module: nn.Module, seed: int, std: float = 0.08) -> None:
    """Seeded random weights (ComfyUI's layers leave theirs uninitialised); norm scales near 1."""
    draws = generator(seed)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(False)
        mean = 1.0 if parameter.ndim == 1 and name.endswith("weight") else 0.0
        drawn = torch.randn(parameter.shape, generator=draws) * std + mean
        parameter.data.copy_(drawn)


def tiny_model(seed: int = 0, dtype: torch.dtype = torch.float32, width: int = WIDTH) -> Any:
    """A MODEL: SD 1.5's UNet classes, 32 channels, three levels, in a ModelPatcher."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models

    config = comfy.supported_models.SD15({**UNET_CONFIG, "context_dim": width, "dtype": dtype})
    config.set_inference_dtype(dtype, None)
    model = comfy.model_base.BaseModel(config, model_type=comfy.model_base.ModelType.EPS)
    model.diffusion_model.eval()
    fill(model.diffusion_model, seed)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def tiny_controlnet(seed: int = 4, width: int = WIDTH) -> Any:
    """A CONTROL_NET for tiny_model, or for one that reads another width of text; its zero
    convolutions are not zero."""
    import comfy.cldm.cldm
    import comfy.controlnet

    config = {**UNET_CONFIG, "hint_channels": 3, "context_dim": width, "dtype": torch.float32}
    for name in ("out_channels", "transformer_depth_output", "use_temporal_attention"):
        config.pop(name)
    net = comfy.cldm.cldm.ControlNet(**config)
    fill(net, seed)
    return comfy.controlnet.ControlNet(net.eval(), load_device=torch.device("cpu"))


def tiny_clip(seed: int = 1, width: int = WIDTH, embedding_directory: str | None = None) -> Any:
    """A CLIP: SD 1.5's text encoder classes, small, with the real tokenizer."""
    import comfy.sd1_clip

    classes = (comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
    return _clip(classes, {"l": width}, seed, embedding_directory)


def tiny_sd2_clip(seed: int = 1, embedding_directory: str | None = None) -> Any:
    """A CLIP of SD 2: OpenCLIP-H's classes (padding 0, last layer but one, final norm)."""
    import comfy.text_encoders.sd2_clip as sd2_clip

    classes = (sd2_clip.SD2Tokenizer, sd2_clip.SD2ClipModel)
    return _clip(classes, {"h": WIDTH}, seed, embedding_directory)


def tiny_sdxl_clip(seed: int = 1, embedding_directory: str | None = None) -> Any:
    """A CLIP of SDXL: CLIP-L and OpenCLIP-G side by side, of different widths."""
    import comfy.sdxl_clip

    classes = (comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel)
    return _clip(classes, SDXL_WIDTHS, seed, embedding_directory)


def tiny_refiner_clip(seed: int = 1, embedding_directory: str | None = None) -> Any:
    """A CLIP of SDXL's refiner: OpenCLIP-G alone, with the tokenizer of both, as it is loaded."""
    import comfy.sdxl_clip

    classes = (comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLRefinerClipModel)
    return _clip(classes, {"g": SDXL_WIDTHS["g"]}, seed, embedding_directory)


def _clip(
    classes: tuple[Any, Any], widths: Mapping[str, int], seed: int, embedding_directory: str | None
) -> Any:
    import comfy.sd
    from comfy.supported_models_base import ClipTarget

    layers = 2 if set(widths) == {"l"} else 4  # the others read the last layer but one
    configs = {
        f"clip_{name}_model_config": {
            **CLIP_CONFIG,
            "hidden_size": width,
            "projection_dim": width,
            "num_hidden_layers": layers,
        }
        for name, width in widths.items()
    }
    clip = comfy.sd.CLIP(
        ClipTarget(*classes),
        embedding_directory=embedding_directory,
        model_options={**configs, "dtype": torch.float32},
    )
    fill(clip.cond_stage_model, seed, std=0.3)
    return clip


def tiny_vae(seed: int = 2) -> Any:
    """A VAE: ComfyUI's TAESD with random weights."""
    import comfy.sd
    import comfy.taesd.taesd

    taesd = comfy.taesd.taesd.TAESD(latent_channels=4)
    fill(taesd, seed, std=0.05)
    return comfy.sd.VAE(sd=taesd.state_dict())


def empty_models(folder: Path, names: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The models folder of ComfyUI for one test, instead of this machine's: `names`, all empty."""
    import folder_paths

    others = folder_paths.folder_names_and_paths.items()
    kept = {name: paths for name, paths in others if name not in names}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", kept)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    monkeypatch.setattr(folder_paths, "models_dir", str(folder))
    for name in names:
        (folder / name).mkdir(parents=True)
    return folder


def edits_of(
    pairs: Sequence[tuple[str, str]] = PAIRS,
    masks: Sequence[Tensor | None] | None = None,
    source_prompt: str | None = None,
    target_prompt: str | None = None,
    **settings: Any,
) -> Edits:
    chosen = masks if masks is not None else [None] * len(pairs)
    items = tuple(make_edit(*pair, mask) for pair, mask in zip(pairs, chosen, strict=True))
    return Edits(items, source_prompt, target_prompt, MethodSettings(**settings))


def box_mask(height: int, width: int, *, top: int, left: int, bottom: int, right: int) -> Tensor:
    """(height, width): 1 on rows [top, bottom) and columns [left, right)."""
    mask = torch.zeros(height, width)
    mask[top:bottom, left:right] = 1
    return mask


def two_boxes(height: int = 64, width: int = 64) -> list[Tensor]:
    """Two disjoint masks; nearest sampling loses the first on the coarsest grid, 2 x 2."""
    h, w = height // 8, width // 8
    return [
        box_mask(height, width, top=h, left=h, bottom=4 * h, right=3 * w),
        box_mask(height, width, top=4 * h, left=4 * w, bottom=8 * h, right=7 * w),
    ]


def two_regions(height: int = 64, width: int = 64, dilation: float = 0.0) -> ImageRegions:
    return make_regions(two_boxes(height, width), [source for source, _ in PAIRS], dilation)


def source_latent(batch: int = 1, height: int = 8, width: int = 8, seed: int = 3) -> Tensor:
    """(batch, 4, height, width) as a VAE gives it; item j is item 0 at seed + j."""
    return torch.cat([5 * randn(1, 4, height, width, seed=seed + j) for j in range(batch)])
