"""A picture of the regions: the image with one colour, outline and label per object."""

from __future__ import annotations

import colorsys
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .regions import Regions, dilate, resize_masks

FILL = 0.45
GREY = 0.35

Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""
GOLDEN_RATIO = 0.6180339887


def object_color(index: int) -> tuple[float, float, float]:
    """An RGB colour in [0, 1] per object; neighbouring indices differ clearly in hue."""
    return colorsys.hsv_to_rgb((0.02 + index * GOLDEN_RATIO) % 1.0, 0.85, 1.0)


def preview_image(image: Tensor | None, regions: Regions) -> Tensor:
    """preview_regions of the first of a batch of images (B, H, W, 3 or 4), or of plain grey: (1, H,
    W, 3)."""
    if image is None:
        canvas = torch.full((*regions.raw.shape[-2:], 3), GREY)
    else:
        canvas = image[0, ..., :3].cpu().float()
    if canvas.shape[:2] != regions.raw.shape[-2:]:
        size = tuple(canvas.shape[:2])
        regions = replace(
            regions,
            raw=resize_masks(regions.raw, *size),
            dilated=resize_masks(regions.dilated, *size),
        )
    return preview_regions(canvas, regions)[None]


def preview_regions(image: Tensor, regions: Regions) -> Tensor:
    """image (H, W, 3) in [0, 1], the size of the masks, with the regions painted over it: (H, W,
    3).

    The raw mask is filled, the edge of the dilated mask is drawn as a line, and the label names the
    object.
    """
    out = image.clone()
    height = image.shape[0]
    line = max(1, height // 256)
    edges = dilate(regions.dilated, line) - regions.dilated
    for i, mask in enumerate(regions.raw):
        color = torch.tensor(object_color(i))
        out = torch.lerp(out, color.expand_as(out), FILL * mask[..., None])
        out = torch.where(edges[i][..., None] > 0, color, out)
    return _with_labels(out, regions)


def _with_labels(image: Tensor, regions: Regions) -> Tensor:
    height, width = image.shape[:2]
    picture = Image.fromarray((image.clamp(0, 1) * 255).round().to(torch.uint8).numpy())
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(10, height // 24))
    margin = max(2, height // 200)
    taken: list[Box] = []
    for i, name in enumerate(regions.names):
        text = f"{i + 1} {name}"
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        size = (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin)
        x, y, *corner = box = _label_box(regions.raw[i], size, taken)
        taken.append(box)
        color = tuple(int(255 * channel) for channel in object_color(i))
        draw.rectangle((x, y, *corner), fill=(20, 20, 20), outline=color)
        draw.text((x + margin - left, y + margin - top), text, font=font, fill=(255, 255, 255))
    return torch.from_numpy(np.asarray(picture).astype(np.float32) / 255)


def _label_box(mask: Tensor, size: tuple[int, int], taken: list[Box]) -> Box:
    """Where a label of (width, height) pixels goes: above its object, else below it, else on it,
    the first place that covers no earlier label; inside the image."""
    height, width = mask.shape
    rows, columns = mask.nonzero(as_tuple=True)
    top, bottom = int(rows.min()), int(rows.max()) + 1
    x = min(max(int(columns.float().mean()) - size[0] // 2, 0), max(width - size[0], 0))
    boxes = []
    for y in (top - size[1], bottom, (top + bottom - size[1]) // 2):
        y = min(max(y, 0), max(height - size[1], 0))
        boxes.append((x, y, x + size[0], y + size[1]))
    return next((box for box in boxes if not any(_do_meet(box, b) for b in taken)), boxes[-1])


def _do_meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
