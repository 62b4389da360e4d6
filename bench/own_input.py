"""A person's own image and masks, opened and fitted to each other.

dev.py runs this as a check before it starts a server; the job takes its input from here.
"""

import argparse
from collections.abc import Callable, Sequence

from PIL import Image

from ..headless.pictures import fitted_mask, open_picture
from .options import demo_arguments, fail


def own_input(
    args: argparse.Namespace, tell: Callable[[str], None]
) -> tuple[Image.Image, list[Image.Image]]:
    """The image (RGB) and its masks (L, of its size); what was changed is told."""
    source = open_picture(args.image).convert("RGB")
    return source, [fitted_mask(mask, source.size, tell) for mask in args.mask]


def main(argv: Sequence[str]) -> int:
    try:
        own_input(demo_arguments(argv), tell=lambda _text: None)
    except ValueError as error:
        return fail("demo", error)
    return 0
