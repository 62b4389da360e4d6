"""A person's own image and masks, opened and fitted to each other.

dev.py runs this as a check before it starts a server; the job takes its input from here.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageOps

from .options import demo_arguments, fail


def own_input(
    args: argparse.Namespace, tell: Callable[[str], None]
) -> tuple[Image.Image, list[Image.Image]]:
    """The image (RGB) and its masks (L, of its size); what was changed is told."""
    source = open_picture(args.image).convert("RGB")
    return source, [fitted_mask(mask, source.size, tell) for mask in args.mask]


def open_picture(path: Path) -> Image.Image:
    try:
        with Image.open(path) as picture:
            return ImageOps.exif_transpose(picture)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no image that can be read. Give a PNG or JPEG.") from error


def fitted_mask(path: Path, size: tuple[int, int], tell: Callable[[str], None]) -> Image.Image:
    mask = open_picture(path).convert("L")
    if mask.size != size:
        if abs(mask.width * size[1] / (mask.height * size[0]) - 1) > 0.05:
            raise ValueError(
                f"{path} is {mask.width}x{mask.height}, the image {size[0]}x{size[1]}: their "
                "shapes differ. Make the mask from the image that is edited, at its size."
            )
        tell(f"{path} is {mask.width}x{mask.height}: resized to {size[0]}x{size[1]}.")
        mask = mask.resize(size, Image.Resampling.NEAREST)
    return mask


def main(argv: Sequence[str]) -> int:
    try:
        own_input(demo_arguments(argv), tell=lambda _text: None)
    except ValueError as error:
        return fail("demo", error)
    return 0
