"""GroundingDINO: text and image to boxes, with transformers' model and either kind of weights.

Liu et al.: Grounding DINO: Marrying DINO with Grounded Pre-Training for Open-Set Object Detection,
ECCV 2024, arXiv 2303.05499.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .bert_tokens import PhraseTokens
from .checkpoints import Config, Network, load_model, rename, require_all, strip_prefix
from .detection import Detections

SHORT_SIDE, LONG_SIDE = 800, 1333
NARROWEST = 64  # a narrower picture has fewer cells than the model has queries
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HEADS = 8  # of the transformer; a checkpoint's shapes do not say
HEAD_WIDTH_TEXT = 64  # BERT's, whatever its size

# Original names to those of the published transformers checkpoints.
N = r"(\d+)"
REST = r"(weight|bias)"
_SWIN = rf"backbone\.0\.layers\.{N}\.blocks\.{N}\."
_BLOCK = r"model.backbone.conv_encoder.model.encoder.layers.\1.blocks.\2."
_ENCODER = rf"transformer\.encoder\.layers\.{N}\."
_TEXT = rf"transformer\.encoder\.text_layers\.{N}\."
_FUSION = rf"transformer\.encoder\.fusion_layers\.{N}\."
_DECODER = rf"transformer\.decoder\.layers\.{N}\."
RULES = (
    (r"bert\.(.*)", r"model.text_backbone.\1"),
    (r"feat_map\.(.*)", r"model.text_projection.\1"),
    (r"input_proj\.(.*)", r"model.input_proj_vision.\1"),
    (r"bbox_embed\.(.*)", r"bbox_embed.\1"),
    (r"transformer\.level_embed", "model.level_embed"),
    (r"transformer\.tgt_embed\.weight", "model.query_position_embeddings.weight"),
    (r"transformer\.(enc_output|enc_output_norm)\.(.*)", r"model.\1.\2"),
    (r"transformer\.enc_out_bbox_embed\.(.*)", r"model.encoder_output_bbox_embed.\1"),
    (r"transformer\.decoder\.norm\.(.*)", r"model.decoder.layer_norm.\1"),
    (r"transformer\.decoder\.ref_point_head\.(.*)", r"model.decoder.reference_points_head.\1"),
    *(
        (rf"{_ENCODER}{old}\.(.*)", rf"model.encoder.layers.\1.deformable_layer.{new}.\2")
        for old, new in (
            ("self_attn", "self_attn"),
            ("norm1", "self_attn_layer_norm"),
            ("norm2", "final_layer_norm"),
            ("linear1", "fc1"),
            ("linear2", "fc2"),
        )
    ),
    *(
        (rf"{_TEXT}{old}\.{REST}", rf"model.encoder.layers.\1.text_enhancer_layer.{new}.\2")
        for old, new in (
            (r"self_attn\.out_proj", "self_attn.out_proj"),
            ("norm1", "layer_norm_before"),
            ("norm2", "layer_norm_after"),
            ("linear1", "fc1"),
            ("linear2", "fc2"),
        )
    ),
    *(
        (rf"{_FUSION}{old}(\..*)?", rf"model.encoder.layers.\1.fusion_layer.{new}\2")
        for old, new in (
            ("gamma_v", "vision_param"),
            ("gamma_l", "text_param"),
            ("layer_norm_v", "layer_norm_vision"),
            ("layer_norm_l", "layer_norm_text"),
            (r"attn\.v_proj", "attn.vision_proj"),
            (r"attn\.l_proj", "attn.text_proj"),
            (r"attn\.values_v_proj", "attn.values_vision_proj"),
            (r"attn\.values_l_proj", "attn.values_text_proj"),
            (r"attn\.out_v_proj", "attn.out_vision_proj"),
            (r"attn\.out_l_proj", "attn.out_text_proj"),
        )
    ),
    *(
        (rf"{_DECODER}{old}\.(.*)", rf"model.decoder.layers.\1.{new}.\2")
        for old, new in (
            ("cross_attn", "encoder_attn"),
            ("norm1", "encoder_attn_layer_norm"),
            (r"ca_text\.out_proj", "encoder_attn_text.out_proj"),
            ("catext_norm", "encoder_attn_text_layer_norm"),
            (r"self_attn\.out_proj", "self_attn.out_proj"),
            ("norm2", "self_attn_layer_norm"),
            ("linear1", "fc1"),
            ("linear2", "fc2"),
            ("norm3", "final_layer_norm"),
        )
    ),
    (
        r"backbone\.0\.patch_embed\.proj\.(.*)",
        r"model.backbone.conv_encoder.model.embeddings.patch_embeddings.projection.\1",
    ),
    (
        r"backbone\.0\.patch_embed\.norm\.(.*)",
        r"model.backbone.conv_encoder.model.embeddings.norm.\1",
    ),
    (
        rf"backbone\.0\.layers\.{N}\.downsample\.(.*)",
        r"model.backbone.conv_encoder.model.encoder.layers.\1.downsample.\2",
    ),
    *(
        (
            rf"backbone\.0\.norm{i}\.(.*)",
            rf"model.backbone.conv_encoder.model.hidden_states_norms.stage{i + 1}.\1",
        )
        for i in (1, 2, 3)
    ),
    *(
        (rf"{_SWIN}{old}(\..*)?", rf"{_BLOCK}{new}\3")
        for old, new in (
            ("norm1", "layernorm_before"),
            ("norm2", "layernorm_after"),
            (
                r"attn\.relative_position_bias_table",
                "attention.self.relative_position_bias_table",
            ),
            (r"attn\.relative_position_index", "attention.self.relative_position_index"),
            (r"attn\.proj", "attention.output.dense"),
            (r"mlp\.fc1", "intermediate.dense"),
            (r"mlp\.fc2", "output.dense"),
        )
    ),
)
FUSED = (
    (
        rf"{_SWIN}attn\.qkv\.{REST}",
        tuple(rf"{_BLOCK}attention.self.{part}.\3" for part in ("query", "key", "value")),
    ),
    *(
        (
            rf"{old}\.in_proj_{REST}",
            tuple(rf"model.{new}.{part}.\2" for part in ("query", "key", "value")),
        )
        for old, new in (
            (rf"{_TEXT}self_attn", r"encoder.layers.\1.text_enhancer_layer.self_attn"),
            (rf"{_DECODER}self_attn", r"decoder.layers.\1.self_attn"),
            (rf"{_DECODER}ca_text", r"decoder.layers.\1.encoder_attn_text"),
        )
    ),
)
# Training's label embedding, and tables that are computed or repeated.
UNUSED = re.compile(
    r"label_enc\.weight|bert\.pooler\..*|bert\.embeddings\.position_ids"
    r"|transformer\.decoder\.(bbox_embed|class_embed)\..*"
)


def is_original(weights: Mapping[str, Tensor]) -> bool:
    """Whether names are those of the original GroundingDINO checkpoints."""
    return {"transformer.level_embed", "feat_map.weight"} <= set(strip_prefix(weights, "module."))


def load_original(weights: Mapping[str, Tensor], file: str) -> nn.Module:
    """transformers' model with the weights of an original checkpoint; its sizes are those of the
    tensors.

    Raises UnfitFile that lists missing, unknown and misshapen tensors.
    """
    from transformers import GroundingDinoForObjectDetection

    weights = strip_prefix(weights, "module.")
    new, unknown = rename(weights, RULES, FUSED, UNUSED)
    if unknown:
        require_all((), unknown, (), file)
    try:
        config = config_of(weights)
    except KeyError as error:
        require_all([str(error.args[0])], (), (), file)
        raise
    new |= {f"model.decoder.{k}": v for k, v in new.items() if k.startswith("bbox_embed.")}
    return load_model(GroundingDinoForObjectDetection, config, new, file)


def load_folder(config_folder: str, weights: dict[str, Tensor], file: str) -> nn.Module:
    """transformers' model with the weights and configuration of a published folder.

    Raises UnfitFile as load_original does.
    """
    from transformers import GroundingDinoConfig, GroundingDinoForObjectDetection

    config = GroundingDinoConfig.from_pretrained(config_folder, local_files_only=True)
    config.disable_custom_kernels = True
    return load_model(GroundingDinoForObjectDetection, config, weights, file)


def config_of(weights: Mapping[str, Tensor]) -> Config:
    """The configuration that fits the tensors of an original checkpoint. KeyError names one that is
    missing."""
    from transformers import BertConfig, GroundingDinoConfig, SwinConfig

    swin = "backbone.0.layers."
    bias = ".attn.relative_position_bias_table"
    depths = [
        _count(weights, rf"{re.escape(swin)}{stage}\.blocks\.{N}\..*")
        for stage in range(_count(weights, rf"{re.escape(swin)}{N}\..*"))
    ]
    tables = [weights[f"{swin}{stage}.blocks.0{bias}"] for stage in range(len(depths))]
    embed_dim = weights["backbone.0.patch_embed.proj.weight"].shape[0]
    sizes: dict[str, Config] = {
        "embed_dim": embed_dim,
        "depths": depths,
        "num_heads": [table.shape[1] for table in tables],
        "window_size": (math.isqrt(tables[0].shape[0]) + 1) // 2,
        "image_size": 384 if embed_dim >= 128 else 224,
        "out_features": ["stage2", "stage3", "stage4"],
    }
    words = weights["bert.embeddings.word_embeddings.weight"]
    text = BertConfig(
        vocab_size=words.shape[0],
        hidden_size=words.shape[1],
        num_attention_heads=words.shape[1] // HEAD_WIDTH_TEXT,
        num_hidden_layers=_count(weights, rf"bert\.encoder\.layer\.{N}\..*"),
        intermediate_size=weights["bert.encoder.layer.0.intermediate.dense.weight"].shape[0],
        max_position_embeddings=weights["bert.embeddings.position_embeddings.weight"].shape[0],
    )
    levels, width = weights["transformer.level_embed"].shape
    return GroundingDinoConfig(
        backbone_config=SwinConfig(**sizes),
        text_config=text,
        d_model=width,
        num_feature_levels=levels,
        num_queries=weights["transformer.tgt_embed.weight"].shape[0],
        encoder_layers=_count(weights, rf"{_ENCODER}.*"),
        decoder_layers=_count(weights, rf"{_DECODER}.*"),
        encoder_ffn_dim=weights["transformer.encoder.layers.0.linear1.weight"].shape[0],
        decoder_ffn_dim=weights["transformer.decoder.layers.0.linear1.weight"].shape[0],
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_n_points=_points(weights, "transformer.encoder.layers.0.self_attn", levels),
        decoder_n_points=_points(weights, "transformer.decoder.layers.0.cross_attn", levels),
        disable_custom_kernels=True,
    )


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    """How many different numbers stand at the pattern's group."""
    return len({found[1] for name in weights if (found := re.fullmatch(pattern, name))})


def _points(weights: Mapping[str, Tensor], layer: str, levels: int) -> int:
    return weights[f"{layer}.attention_weights.weight"].shape[0] // (HEADS * levels)


def prepare(image: Tensor) -> Tensor:
    """An image (H, W, 3) in [0, 1] as the model sees it: (1, 3, h, w), the shorter side 800 pixels,
    the longer one at most 1333, normalised; a very long one gets a grey margin, right or below."""
    height, width = choose_size(*image.shape[:2])
    pixels = image.permute(2, 0, 1)[None].float()
    resized = F.interpolate(pixels, size=(height, width), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    margins = (0, max(NARROWEST - width, 0), 0, max(NARROWEST - height, 0))
    return F.pad((resized - mean) / std, margins)


def choose_size(height: int, width: int) -> tuple[int, int]:
    """The size to which an image is brought, as the original code rounds it; at least one pixel,
    and never more than twice LONG_SIDE."""
    short, long = sorted((height, width))
    size = SHORT_SIDE
    if long / short * size > LONG_SIDE:
        size = max(round(LONG_SIDE * short / long), 1)
    if height <= width:
        return size, min(int(size * width / height), 2 * LONG_SIDE)
    return min(int(size * height / width), 2 * LONG_SIDE), size


@torch.inference_mode()
def detect(model: Network, tokens: PhraseTokens, image: Tensor, pixels: Tensor) -> Detections:
    """One pass of the model, on its device. image: the one that boxes are pixels of; pixels: the
    same, prepared."""
    device = model.device
    ids = tokens.ids.to(device)
    out = model(
        pixel_values=pixels.to(device),
        pixel_mask=torch.ones(1, *pixels.shape[-2:], dtype=torch.long, device=device),
        input_ids=ids,
        token_type_ids=torch.zeros_like(ids),
        attention_mask=torch.ones_like(ids),
    )
    probabilities = out.logits[0, :, : ids.shape[1]].float().sigmoid().cpu()
    shown = choose_size(*image.shape[:2])
    margins = torch.tensor([pixels.shape[3] / shown[1], pixels.shape[2] / shown[0]] * 2)
    boxes = pixel_boxes(out.pred_boxes[0].float().cpu() * margins, *image.shape[:2])
    is_box = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1)
    scores, heads = (
        (probabilities[:, None] * part).amax(dim=-1) for part in (tokens.words, tokens.heads)
    )
    return Detections(boxes[is_box], scores[is_box], heads[is_box])


def pixel_boxes(boxes: Tensor, height: int, width: int) -> Tensor:
    """Boxes (Q, 4) given by centre and size in fractions of the image, as left, top, right, bottom
    in pixels, cut off at the image's border."""
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    size = torch.tensor([width, height], dtype=boxes.dtype)
    corners = torch.cat([centre - half, centre + half], dim=1) * size.repeat(2)
    return torch.minimum(corners.clamp(min=0), size.repeat(2))
