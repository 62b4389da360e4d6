"""Detectors and segmenters of the real classes, a few MB each, with random weights.

The tensors of the small GroundingDINO have the names of the original one, as groundingdino-py 0.4.0
lists them (tests/regions/groundingdino_swint_names.txt), and smaller shapes. Imported by tests as
`ale_edit.tests.tiny_grounding`.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

NAMES = Path(__file__).parent / "regions" / "groundingdino_swint_names.txt"
LAYERS = 2
BERT = {768: 64, 3072: 64}
SWIN = {
    **{96 * n: 16 * n for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)},
    **{169: 49, 49: 16},  # windows of 4 instead of 7
}
BIAS = {169: 49, 3: 1, 6: 2, 12: 4, 24: 8}
REST = {256: 32, 2048: 64, 1024: 32, 900: 20, 768: 64, 512: 64}
INPUT = {256: 32, 192: 32, 384: 64, 768: 128}
KEPT = re.compile(r".*(sampling_offsets|attention_weights)\.(weight|bias)")


def original_names() -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the original Swin-T model."""
    lines = NAMES.read_text(encoding="utf-8").splitlines()
    return {name: ast.literal_eval(shape) for name, shape in (line.split(" ", 1) for line in lines)}


def tiny_original(seed: int = 0) -> dict[str, Tensor]:
    """A small GroundingDINO under the original names, with "module." before them, as published."""
    generator = torch.Generator().manual_seed(seed)
    out: dict[str, Tensor] = {}
    for name, shape in original_names().items():
        layer = re.search(r"(?:layer|layers|blocks)\.(\d+)\.(?!blocks|downsample)", name)
        deep = layer and int(layer[1]) >= LAYERS and re.search(r"bert|transformer\.|blocks", name)
        box = re.match(r"(?:transformer\.decoder\.)?bbox_embed\.(\d+)", name)
        if (deep and "bbox" not in name and "ref_point" not in name) or (
            box and int(box[1]) >= LAYERS
        ):
            continue
        size = _small(name, shape)
        if name.endswith("relative_position_index"):
            out[name] = torch.zeros(size, dtype=torch.long)
        else:
            out[name] = torch.randn(size, generator=generator) * 0.1
    for name in list(out):
        if found := re.match(r"(?:transformer\.decoder\.)?bbox_embed\.\d+\.(.*)", name):
            out[name] = out[f"bbox_embed.0.{found[1]}"]
    out["bert.embeddings.position_ids"] = torch.arange(512)[None]
    out["label_enc.weight"] = torch.zeros(3, 32)
    return {f"module.{name}": tensor for name, tensor in out.items()}


def _small(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if name.endswith("relative_position_index"):
        return (16, 16)
    if KEPT.fullmatch(name):
        return (shape[0], *(REST[n] for n in shape[1:]))
    if name.endswith("word_embeddings.weight") or name.endswith("position_embeddings.weight"):
        return (shape[0], BERT[shape[1]])
    sizes = REST
    if name.startswith("bert."):
        sizes = BERT
    elif name.endswith("relative_position_bias_table"):
        sizes = BIAS
    elif name.startswith("backbone."):
        sizes = SWIN
    elif name.startswith("input_proj."):
        sizes = INPUT
    elif name.endswith("in_proj_weight") or name.endswith("in_proj_bias"):
        sizes = {768: 96, 256: 32}
    return tuple(sizes.get(n, n) for n in shape)


def tiny_sam(seed: int = 0, *, side: int = 128) -> Any:
    """segment-anything's own Sam, small, with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _sam(side // 16).eval()


def _sam(cells: int) -> Any:
    from functools import partial

    from segment_anything.modeling import (
        ImageEncoderViT,
        MaskDecoder,
        PromptEncoder,
        Sam,
        TwoWayTransformer,
    )

    side = 16 * cells
    transformer = TwoWayTransformer(depth=2, embedding_dim=32, mlp_dim=64, num_heads=8)
    model = Sam(
        ImageEncoderViT(
            depth=3,
            embed_dim=32,
            img_size=side,
            norm_layer=cast(Any, partial(torch.nn.LayerNorm, eps=1e-6)),
            num_heads=2,
            patch_size=16,
            use_rel_pos=True,
            global_attn_indexes=(1,),
            window_size=3,
            out_chans=32,
        ),
        PromptEncoder(
            embed_dim=32,
            image_embedding_size=(cells, cells),
            input_image_size=(side, side),
            mask_in_chans=16,
        ),
        MaskDecoder(
            num_multimask_outputs=3,
            transformer=transformer,
            transformer_dim=32,
            iou_head_depth=3,
            iou_head_hidden_dim=24,
        ),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape) * 0.1
    return model
