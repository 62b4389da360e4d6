"""Pictures side by side on one sheet, each with its label and its scores below it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

PAPER, INK, FAINT = (255, 255, 255), (20, 20, 20), (90, 90, 90)
LONGEST_SIDE = 16384  # ComfyUI's own limit of an image


@dataclass(frozen=True, eq=False)
class SheetCell:
    """image (H, W, 3) in [0, 1]; label and scores may be empty."""

    image: Tensor
    label: str = ""
    scores: str = ""


def columns_of(count: int, columns: int) -> int:
    """How many columns; 0 chooses: up to five pictures in one row, else nearly a square."""
    if columns:
        return min(columns, count)
    return count if count <= 5 else ceil(sqrt(count))


def sheet(entries: Sequence[SheetCell], columns: int, height: int) -> Tensor:
    """All pictures in rows of `columns` cells of one size: (H, W, 3) in [0, 1].

    height: of each cell in pixels; its width is that of the widest picture at this height. Every
    picture keeps its shape. Raises ValueError when the sheet gets larger than LONGEST_SIDE.
    """
    if not entries:
        raise ValueError("there is no picture")
    columns = columns_of(len(entries), columns)
    rows = ceil(len(entries) / columns)
    width = max(round(height * e.image.shape[1] / e.image.shape[0]) for e in entries)
    gap = max(4, height // 40)
    letters = max(11, height // 20)
    font, line = ImageFont.load_default(size=letters), int(letters * 1.4)
    below = gap + line * max(_lines(entry) for entry in entries)
    size = (gap + columns * (width + gap), gap + rows * (height + below))
    if max(size) > LONGEST_SIDE:
        raise ValueError(
            f"{len(entries)} pictures in {columns} columns of {width}x{height} pixels make a sheet "
            f"of {size[0]}x{size[1]} (width x height), ComfyUI's limit is {LONGEST_SIDE} a side"
        )
    paper = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(paper)
    for i, entry in enumerate(entries):
        row, column = divmod(i, columns)
        x, y = gap + column * (width + gap), gap + row * (height + below)
        picture = fit(entry.image, height, width)
        at = (x + (width - picture.width) // 2, y + (height - picture.height) // 2)
        paper.paste(picture, at)
        texts = [(t, c) for t, c in ((entry.label, INK), (entry.scores, FAINT)) if t]
        for j, (text, color) in enumerate(texts):
            text = shorten(text, draw, font, width)
            draw.text((x, y + height + gap // 2 + j * line), text, font=font, fill=color)
    return torch.from_numpy(np.asarray(paper).astype(np.float32) / 255)


def sheet_each(images: Tensor, pictures: Tensor, labels: Sequence[str], height: int) -> Tensor:
    """For each image (B, H, W, 3) a sheet with the image itself and its own pictures (B, N, H, W,
    3) of N labels: (B, H', W', 3)."""
    return torch.stack(
        [
            sheet([SheetCell(image), *map(SheetCell, own, labels)], 0, height)
            for image, own in zip(images, pictures, strict=True)
        ]
    )


def _lines(entry: SheetCell) -> int:
    return bool(entry.label) + bool(entry.scores)


def fit(image: Tensor, height: int, width: int) -> Image.Image:
    """The image as large as fits into a cell, its shape kept; small ones are magnified pixel by
    pixel."""
    factor = min(height / image.shape[0], width / image.shape[1])
    size = tuple(max(1, round(n * factor)) for n in image.shape[:2])
    pixels = image.detach().cpu().float().movedim(-1, 0)[None]
    if factor > 1:
        pixels = F.interpolate(pixels, size, mode="nearest-exact")
    elif size != tuple(image.shape[:2]):
        pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True)
    array = (pixels[0].movedim(0, -1).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return Image.fromarray(array)


def shorten(
    text: str,
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    width: int,
) -> str:
    """The text, its end cut off where it is wider than `width` pixels."""
    if draw.textlength(text, font=font) <= width:
        return text

    def length(kept: int) -> float:
        return draw.textlength(f"{text[:kept]}...", font=font)

    kept = bisect_right(range(len(text)), width, key=length) - 1
    return f"{text[: max(kept, 1)].rstrip()}..."
