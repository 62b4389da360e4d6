"""A picture of the regions: the image with one colour, outline and label per object."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .regions import ImageRegions, Regions, resize_masks

FILL = 0.45
GREY = 0.35
DARK = (20, 20, 20)
SHOWN_HEIGHT = 512

# Chosen greedily from a grid of vivid colours: each is the farthest in OKLab from those before it.
COLORS = (
    *("#ff3c2d", "#00ff00", "#1e3cff", "#1e7800", "#78c3ff", "#e100ff", "#ffc34b", "#874b87"),
    *("#ff87d2", "#78b40f", "#87ffd2", "#0087c3", "#a56900", "#8700e1", "#9678ff", "#e11e96"),
)
ROUND_SHADE = 0.7

Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""


def object_color(index: int) -> tuple[float, float, float]:
    """An RGB colour in [0, 1] per object; after the last of COLORS they come again, darker."""
    turn, position = divmod(index, len(COLORS))
    code = COLORS[position].removeprefix("#")
    red, green, blue = (ROUND_SHADE**turn * value / 255 for value in bytes.fromhex(code))
    return red, green, blue


def text_color(background: tuple[float, float, float]) -> tuple[int, int, int]:
    """Black or white, whichever has more contrast on an RGB colour in [0, 1].

    Relative luminance and contrast ratio of WCAG 2.1; the better of the two has a ratio of at least
    4.5.
    """
    red, green, blue = (
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in background
    )
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    is_light = (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05)
    return (0, 0, 0) if is_light else (255, 255, 255)


def preview_image(image: Tensor | None, regions: Regions, magnified: int = 1) -> Tensor:
    """preview_regions of a batch of images (B, H, W, 3 or 4), or of plain grey, n times as large as
    the image: (B, n H, n W, 3), or of the first image where one set of regions serves all."""
    shown = [
        _preview(None if image is None else image[j, ..., :3].cpu().float(), one, magnified)
        for j, one in enumerate(regions.images)
    ]
    return torch.stack(shown)


def _preview(canvas: Tensor | None, regions: ImageRegions, magnified: int) -> Tensor:
    if canvas is None:
        canvas = torch.full((*regions.raw.shape[-2:], 3), GREY)
    if magnified > 1:
        canvas = canvas.repeat_interleave(magnified, 0).repeat_interleave(magnified, 1)
    if canvas.shape[:2] != regions.raw.shape[-2:]:
        size = tuple(canvas.shape[:2])
        regions = replace(
            regions,
            raw=resize_masks(regions.raw, *size),
            dilated=resize_masks(regions.dilated, *size),
        )
    return preview_regions(canvas, regions)


def preview_batch(image: Tensor | None, regions: Regions) -> tuple[Tensor, Tensor]:
    """preview_image at the size of the image, and the same for the screen: a small image is
    magnified there by a whole number, so that its labels can be read."""
    preview = preview_image(image, regions)
    magnified = SHOWN_HEIGHT // preview.shape[1]
    shown = preview if magnified < 2 else preview_image(image, regions, magnified)
    return preview, shown


def preview_regions(image: Tensor, regions: ImageRegions) -> Tensor:
    """image (H, W, 3 or 1) in [0, 1], the size of the masks, with the regions painted over it: (H,
    W, 3).

    The raw mask is filled, the edge of the dilated mask is drawn as a line in the object's colour
    with a dark line around it, and the label names the object.
    """
    out = image.expand(-1, -1, 3).clone()
    line = max(1, image.shape[0] // 256)
    inside = regions.dilated > 0
    lines = _widen(inside, line)
    casings = _widen(lines, max(1, line // 2))
    for i, mask in enumerate(regions.raw):
        color = torch.tensor(object_color(i))
        out = torch.lerp(out, color.expand_as(out), FILL * mask[..., None])
    for i in range(len(regions.names)):
        out[casings[i] & ~lines[i]] = torch.tensor(DARK) / 255
        out[lines[i] & ~inside[i]] = torch.tensor(object_color(i))
    return _draw_labels(out, regions)


def _widen(masks: Tensor, radius: int) -> Tensor:
    """Bool masks (K, H, W) grown by a square, in steps that each double its reach."""
    for axis in (1, 2):
        reach = 0
        while reach < radius:
            step = min(reach + 1, radius - reach)
            rest = max(masks.shape[axis] - step, 0)
            grown = masks.clone()
            grown.narrow(axis, masks.shape[axis] - rest, rest).logical_or_(
                masks.narrow(axis, 0, rest)
            )
            grown.narrow(axis, 0, rest).logical_or_(
                masks.narrow(axis, masks.shape[axis] - rest, rest)
            )
            masks = grown
            reach += step
    return masks


def _draw_labels(image: Tensor, regions: ImageRegions) -> Tensor:
    height, width = image.shape[:2]
    picture = Image.fromarray((image.clamp(0, 1) * 255).round().to(torch.uint8).numpy())
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=max(10, height // 28))
    margin = max(2, height // 150)
    objects = regions.raw.sum(dim=0)
    taken: list[Box] = []
    for i, name in enumerate(regions.names):
        label = " ".join(f"{i + 1} {name}".split())  # a font measures no line end
        text = _shorten(label, draw, font, width - 2 * margin)
        left, _, right, _ = draw.textbbox((0, 0), text, font=font)
        _, top, _, bottom = draw.textbbox((0, 0), "Agp", font=font)  # one height for all labels
        size = (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin)
        x, y, *corner = box = _label_box(regions.raw[i], objects - regions.raw[i], size, taken)
        taken.append(box)
        color = object_color(i)
        fill = tuple(round(255 * channel) for channel in color)
        draw.rectangle((x, y, corner[0] - 1, corner[1] - 1), fill=fill, outline=DARK)
        draw.text((x + margin - left, y + margin - top), text, font=font, fill=text_color(color))
    return torch.from_numpy(np.asarray(picture).astype(np.float32) / 255)


def _shorten(
    text: str,
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    width: int,
) -> str:
    """A label that fits into `width` pixels, its end cut off where it must be."""
    if draw.textlength(text, font=font) <= width:
        return text

    def length(kept: int) -> float:
        return draw.textlength(f"{text[:kept]}...", font=font)

    kept = bisect_right(range(len(text)), width, key=length) - 1
    return f"{text[: max(kept, 1)].rstrip()}..."


def _label_box(mask: Tensor, others: Tensor, size: tuple[int, int], taken: list[Box]) -> Box:
    """Where a label of (width, height) pixels goes inside the image: above its object, below it,
    beside or on it; the first place that covers least of earlier labels, then of other objects."""
    height, width = mask.shape
    rows, columns = (axis.nonzero() for axis in (mask.amax(dim=1), mask.amax(dim=0)))
    top, bottom = int(rows.min()), int(rows.max()) + 1
    left, right = int(columns.min()), int(columns.max()) + 1
    middle_x, middle_y = (left + right - size[0]) // 2, (top + bottom - size[1]) // 2
    corners = [(middle_x, top - size[1]), (middle_x, bottom)]
    corners += [(right, middle_y), (left - size[0], middle_y), (middle_x, middle_y)]
    boxes = []
    for x, y in corners:
        x = min(max(x, 0), max(width - size[0], 0))
        y = min(max(y, 0), max(height - size[1], 0))
        boxes.append((x, y, x + size[0], y + size[1]))
    return min(boxes, key=lambda box: (_count_covered(box, taken), _measure_cover(box, others)))


def _count_covered(box: Box, taken: list[Box]) -> int:
    """Pixels of a box that lie on earlier labels."""
    return sum(
        max(0, min(box[2], b[2]) - max(box[0], b[0]))
        * max(0, min(box[3], b[3]) - max(box[1], b[1]))
        for b in taken
    )


def _measure_cover(box: Box, masks: Tensor) -> float:
    """Pixels of a box that lie on objects."""
    left, top, right, bottom = box
    return float(masks[top:bottom, left:right].sum())
