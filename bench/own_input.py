"""A person's own image and masks, opened and fitted to each other.

dev.py runs this as a check before it starts a server; the job takes its input from here.
"""

import argparse
from collections.abc import Callable, Sequence

from PIL import Image

from ..headless.masks import read_mask, tell_of_whole_masks
from ..headless.pictures import open_picture
from .options import demo_arguments, fail


def own_input(
    args: argparse.Namespace, tell: Callable[[str], None]
) -> tuple[Image.Image, list[Image.Image]]:
    """The image (RGB) and its masks (L, of its size); what was changed is reported."""
    source = open_picture(args.image, tell).convert("RGB")
    masks = [read_mask(path, tell, source.size) for path in args.mask]
    tell_of_whole_masks(dict(zip(args.mask, masks, strict=True)), tell)
    return source, masks


def main(argv: Sequence[str]) -> int:
    try:
        own_input(demo_arguments(argv), tell=lambda _text: None)
    except ValueError as error:
        return fail("demo", error)
    return 0
