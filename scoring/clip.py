"""CLIP (A. Radford et al., 2021, arXiv 2103.00020) by transformers' classes: pictures and words as
vectors of one space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
START_OF_TEXT, END_OF_TEXT = 49406, 49407
VOCABULARY = 49408
UNUSED = (".position_ids",)  # tables that a model makes by itself


def load_clip(folder: str, weights: Mapping[str, Tensor]) -> nn.Module:
    """transformers' CLIPModel of a published folder, in fp32.

    Raises ValueError where a tensor is missing, unknown, of another shape, or the vocabulary is not
    CLIP's own.
    """
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig.from_pretrained(folder, local_files_only=True)
    words = config.text_config.vocab_size  # type: ignore[union-attr]
    if words != VOCABULARY:
        raise ValueError(f"it has {words} tokens, not CLIP's {VOCABULARY}")
    model = CLIPModel(config)
    known = {name: w.float() for name, w in weights.items() if not name.endswith(UNUSED)}
    missing, unknown = model.load_state_dict(known, strict=False)
    missing = [name for name in missing if not name.endswith(UNUSED)]
    for said, names in (("lacks", missing), ("also holds", unknown)):
        if names:
            raise ValueError(f"it {said} {', '.join(sorted(names)[:3])} ({len(names)} in all)")
    return model.eval().requires_grad_(False)


def side_of(model: Any) -> int:
    """Pixels a side that the image encoder sees."""
    return int(model.config.vision_config.image_size)


def crop(images: Tensor, side: int) -> Tensor:
    """The middle (B, 3, side, side), 8 bits a channel, of images (B, H, W, 3) in [0, 1], after the
    shorter side was resized, as by CLIP's image processor: with Pillow, whose bicubic filter no
    other library repeats to the last bit."""
    pixels = (images.detach().cpu() * 255).round().to(torch.uint8)
    height, width = pixels.shape[1:3]
    short = min(height, width)
    size = (side * width // short, side * height // short)
    if size != (width, height):
        resized = (
            Image.fromarray(i.numpy()).resize(size, Image.Resampling.BICUBIC) for i in pixels
        )
        pixels = torch.from_numpy(np.stack([np.asarray(picture) for picture in resized]))
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return pixels[:, top : top + side, left : left + side].movedim(-1, 1)


@torch.no_grad()
def image_vectors(model: Any, pixels: Tensor) -> Tensor:
    """Vectors (B, D) of pixels (B, 3, side, side) in 8 bits."""
    weight = model.visual_projection.weight
    mean, std = (torch.tensor(v, device=weight.device)[:, None, None] for v in (MEAN, STD))
    scaled = (pixels.to(weight.device).float() / 255 - mean) / std
    pooled = model.vision_model(pixel_values=scaled.to(weight.dtype)).pooler_output
    return model.visual_projection(pooled).float()


@torch.no_grad()
def text_vectors(model: Any, tokens: Sequence[Sequence[int]]) -> Tensor:
    """Vectors (T, D) of texts in tokens, each from start to end of text."""
    weight = model.text_projection.weight
    longest = max(map(len, tokens))
    rows = [[*row, *[END_OF_TEXT] * (longest - len(row))] for row in tokens]
    pooled = model.text_model(torch.tensor(rows, device=weight.device)).pooler_output
    return model.text_projection(pooled).float()


def cosines(images: Tensor, texts: Tensor) -> Tensor:
    """Cosines (B, T) of vectors of images (B, D) and of texts (T, D)."""
    return F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T


def cut_short(tokens: Sequence[int], limit: int = 77) -> list[int]:
    """Tokens from start to end of text, at most `limit`; the words after that are left out, as in
    CLIPScore."""
    return list(tokens) if len(tokens) <= limit else [*tokens[: limit - 1], END_OF_TEXT]
