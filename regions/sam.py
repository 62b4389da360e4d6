"""Segment Anything 1 and 2: boxes to masks, with transformers' models and either kind of weights.

Kirillov et al.: Segment Anything, ICCV 2023, arXiv 2304.02643. Ravi et al.: SAM 2: Segment Anything
in Images and Videos, arXiv 2408.00714.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checkpoints import Config, Network, load_model, rename, require_all

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of pixels from 0 to 255
HEADS = 8  # of the mask decoder; a checkpoint's shapes do not say
VIDEO_ONLY = (
    "memory_",
    "temporal_",
    "mask_downsample",
    "object_pointer",
    "no_memory_pos",
    "no_object",
    "occlus",
)

# Original names to those of the published transformers checkpoints.
N = r"(\d+)"
_BLOCK, _LAYER = r"vision_encoder.layers.\1.", r"mask_decoder.transformer.layers.\1."
_UPSCALING = {"0": "upscale_conv1", "1": "upscale_layer_norm", "3": "upscale_conv2"}
_DOWNSCALING = {
    "0": "conv1",
    "1": "layer_norm1",
    "3": "conv2",
    "4": "layer_norm2",
    "6": "conv3",
}
_NECK = {"0": "conv1", "1": "layer_norm1", "2": "conv2", "3": "layer_norm2"}
_MLP = {"0": "proj_in", "1": "layers.0", "2": "proj_out"}
RULES = (
    (r"image_encoder\.patch_embed\.proj\.(.*)", r"vision_encoder.patch_embed.projection.\1"),
    (r"image_encoder\.pos_embed", "vision_encoder.pos_embed"),
    (rf"image_encoder\.blocks\.{N}\.(attn|mlp)\.(.*)", rf"{_BLOCK}\2.\3"),
    (rf"image_encoder\.blocks\.{N}\.norm([12])\.(.*)", rf"{_BLOCK}layer_norm\2.\3"),
    *(
        (rf"image_encoder\.neck\.{old}\.(.*)", rf"vision_encoder.neck.{new}.\1")
        for old, new in _NECK.items()
    ),
    (
        r"prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix",
        "shared_image_embedding.positional_embedding",
    ),
    (rf"prompt_encoder\.point_embeddings\.{N}\.weight", r"prompt_encoder.point_embed.\1.weight"),
    (r"prompt_encoder\.(no_mask_embed|not_a_point_embed)\.weight", r"prompt_encoder.\1.weight"),
    *(
        (rf"prompt_encoder\.mask_downscaling\.{old}\.(.*)", rf"prompt_encoder.mask_embed.{new}.\1")
        for old, new in _DOWNSCALING.items()
    ),
    (r"mask_decoder\.(iou_token|mask_tokens)\.weight", r"mask_decoder.\1.weight"),
    *(
        (rf"mask_decoder\.output_upscaling\.{old}\.(.*)", rf"mask_decoder.{new}.\1")
        for old, new in _UPSCALING.items()
    ),
    *(
        (
            rf"mask_decoder\.iou_prediction_head\.layers\.{old}\.(.*)",
            rf"mask_decoder.iou_prediction_head.{new}.\1",
        )
        for old, new in _MLP.items()
    ),
    *(
        (
            rf"mask_decoder\.output_hypernetworks_mlps\.{N}\.layers\.{old}\.(.*)",
            rf"mask_decoder.output_hypernetworks_mlps.\1.{new}.\2",
        )
        for old, new in _MLP.items()
    ),
    (
        rf"mask_decoder\.transformer\.layers\.{N}\.norm([1234])\.(.*)",
        rf"{_LAYER}layer_norm\2.\3",
    ),
    (
        rf"mask_decoder\.transformer\.layers\.{N}\.((?:self|cross)_attn.*|mlp)\.(\w+\.\w+)",
        rf"{_LAYER}\2.\3",
    ),
    (
        r"mask_decoder\.transformer\.norm_final_attn\.(.*)",
        r"mask_decoder.transformer.layer_norm_final_attn.\1",
    ),
    (
        r"mask_decoder\.transformer\.final_attn_token_to_image\.(.*)",
        r"mask_decoder.transformer.final_attn_token_to_image.\1",
    ),
)
UNUSED = re.compile(r"pixel_(mean|std)")


def is_original(weights: Mapping[str, Tensor]) -> bool:
    """Whether names are those of the original sam_vit_*.pth."""
    return {"image_encoder.pos_embed", "mask_decoder.iou_token.weight"} <= set(weights)


def load_original(weights: Mapping[str, Tensor], file: str) -> nn.Module:
    """transformers' SamModel with the weights of an original checkpoint; its sizes are those of the
    tensors.

    Raises UnfitFile that lists missing, unknown and misshapen tensors.
    """
    from transformers import SamModel

    new, unknown = rename(weights, RULES, (), UNUSED)
    if unknown:
        require_all((), unknown, (), file)
    try:
        config = config_of(weights)
    except KeyError as error:
        require_all([str(error.args[0])], (), (), file)
        raise
    shared = "shared_image_embedding.positional_embedding"
    if shared in new:
        new["prompt_encoder.shared_embedding.positional_embedding"] = new[shared]
    return load_model(SamModel, config, new, file)


def load_folder(folder: str, kind: str, weights: dict[str, Tensor], file: str) -> nn.Module:
    """transformers' model of a published folder. kind: the model_type of its config.json: "sam",
    "sam2" or "sam2_video".

    Raises UnfitFile as load_original does, ImportError where transformers is too old for SAM 2.
    """
    if kind == "sam":
        from transformers import SamConfig, SamModel

        config = SamConfig.from_pretrained(folder, local_files_only=True)
        return load_model(SamModel, config, weights, file)
    from transformers import Sam2Config, Sam2Model

    config = Sam2Config.from_pretrained(folder, local_files_only=True)
    image_only = {k: v for k, v in weights.items() if not k.startswith(VIDEO_ONLY)}
    return load_model(Sam2Model, config, image_only, file)


def config_of(weights: Mapping[str, Tensor]) -> Config:
    """The configuration that fits the tensors of an original checkpoint. KeyError names one that is
    missing."""
    from transformers import (
        SamConfig,
        SamMaskDecoderConfig,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )

    width, _, patch, _ = weights["image_encoder.patch_embed.proj.weight"].shape
    cells = weights["image_encoder.pos_embed"].shape[1]
    found = (re.match(rf"image_encoder\.blocks\.{N}\.", name) for name in weights)
    layers = len({match[1] for match in found if match})
    tables = [weights[f"image_encoder.blocks.{i}.attn.rel_pos_h"] for i in range(layers)]
    windows = [(len(table) + 1) // 2 for table in tables]
    inner = weights["mask_decoder.iou_token.weight"].shape[1]
    vision = SamVisionConfig(
        hidden_size=width,
        output_channels=weights["image_encoder.neck.0.weight"].shape[0],
        num_hidden_layers=layers,
        num_attention_heads=width // tables[0].shape[1],
        image_size=cells * patch,
        patch_size=patch,
        window_size=min(windows),
        global_attn_indexes=[i for i, window in enumerate(windows) if window == cells],
        mlp_dim=weights["image_encoder.blocks.0.mlp.lin1.weight"].shape[0],
        num_pos_feats=inner // 2,
    )
    prompt = SamPromptEncoderConfig(
        hidden_size=inner,
        image_size=cells * patch,
        patch_size=patch,
        mask_input_channels=weights["prompt_encoder.mask_downscaling.3.weight"].shape[0],
    )
    decoder = SamMaskDecoderConfig(
        hidden_size=inner,
        mlp_dim=weights["mask_decoder.transformer.layers.0.mlp.lin1.weight"].shape[0],
        num_attention_heads=HEADS,
        iou_head_hidden_dim=weights["mask_decoder.iou_prediction_head.layers.0.weight"].shape[0],
    )
    return SamConfig(
        vision_config=vision.to_dict(),
        prompt_encoder_config=prompt.to_dict(),
        mask_decoder_config=decoder.to_dict(),
    )


def is_sam2(model: Network) -> bool:
    """Whether a model is SAM 2."""
    return hasattr(model, "no_memory_embedding")


def side(model: Network) -> int:
    """Pixels of a side of the square that the model sees."""
    size = model.config.prompt_encoder_config.image_size
    return int(size if isinstance(size, int) else size[0])


def choose_size(model: Network, height: int, width: int) -> tuple[int, int]:
    """(height, width) to which an image is brought: SAM fits its longer side into the square, SAM 2
    fills the square."""
    if is_sam2(model):
        return side(model), side(model)
    scale = side(model) / max(height, width)
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def prepare(model: Network, image: Tensor) -> Tensor:
    """An image (H, W, 3) in [0, 1] as the model sees it: (1, 3, side, side), normalised, zeros
    where the image is shorter."""
    size = choose_size(model, *image.shape[:2])
    pixels = image.permute(2, 0, 1)[None].float()
    resized = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    whole = (resized * 255 - mean) / std
    return F.pad(whole, (0, side(model) - size[1], 0, side(model) - size[0]))


@torch.inference_mode()
def embed(model: Network, pixels: Tensor) -> list[Tensor]:
    """The image's features, fp32: one map for SAM, three for SAM 2, the coarsest last. The encoder
    computes in its weights' type."""
    weight = next(model.vision_encoder.parameters())
    pixels = pixels.to(weight.device, weight.dtype)
    if not is_sam2(model):
        return [model.vision_encoder(pixels, return_dict=True).last_hidden_state.float()]
    maps = model.vision_encoder(pixels, return_dict=True).fpn_hidden_states
    fine, middle, coarse = (feature.float() for feature in maps)
    decoder = model.mask_decoder
    return [
        decoder.conv_s0(fine),
        decoder.conv_s1(middle),
        coarse + model.no_memory_embedding.reshape(1, -1, 1, 1),
    ]


@torch.inference_mode()
def predict_masks(model: Network, features: list[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
    """For each of n boxes (in pixels of the prepared image) the mask that the model thinks best of
    its three, as logits (n, h, w) at a quarter of the side, and its score (n,); fp32."""
    device = next(model.mask_decoder.parameters()).device
    features = [feature.to(device) for feature in features]
    out = model(
        input_boxes=boxes[None].to(device),
        image_embeddings=features if is_sam2(model) else features[0],
        multimask_output=True,
    )
    scores, index = out.iou_scores[0].float().max(dim=-1)
    logits = out.pred_masks[0].float()
    return logits[torch.arange(len(index), device=device), index], scores


def scale_boxes(model: Network, boxes: Tensor, height: int, width: int) -> Tensor:
    """Boxes (n, 4) in pixels of an image, in pixels of the prepared one."""
    shown_height, shown_width = choose_size(model, height, width)
    return boxes * torch.tensor([shown_width / width, shown_height / height] * 2)


def full_mask(model: Network, logits: Tensor, height: int, width: int) -> Tensor:
    """One mask's logits (h, w) as a mask (height, width), bool, of the image."""
    logits = logits[None, None]
    if not is_sam2(model):
        size = choose_size(model, height, width)
        square = F.interpolate(logits, size=(side(model),) * 2, mode="bilinear")
        logits = square[..., : size[0], : size[1]]
    return F.interpolate(logits, size=(height, width), mode="bilinear")[0, 0] > 0
