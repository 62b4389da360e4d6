"""Mask pictures: the channel that a mask is drawn in, its size, and what can be wrong with it."""

from collections.abc import Callable, Mapping
from pathlib import Path

from PIL import Image

from .pictures import has_alpha, open_picture

ONE_COLOUR = 16  # values that differ by no more are one colour: brushes leave a little noise
MIDDLE = 128  # from here on a mask, or an alpha channel, counts as set
WHOLE = (
    "marks the whole picture, and others are edited, too. Is it the right file? A mask is white on "
    "its object and black elsewhere"
)


def read_mask(
    path: Path, tell: Callable[[str], None], size: tuple[int, int] | None = None
) -> Image.Image:
    """A mask (L), white on the object; ValueError where it marks nothing or is no mask.

    size: of the image; a mask of the same shape is resized to it. tell: gets a sentence where the
    mask was resized or converted, and where it is drawn in the alpha channel.
    """
    mask = _read_drawing(open_picture(path, tell), path, tell)
    if size not in (None, mask.size):
        mask = _fit(mask, path, size, tell)
    _check(mask, path)
    return mask


def _read_drawing(picture: Image.Image, path: Path, tell: Callable[[str], None]) -> Image.Image:
    """What is drawn: in the colours, or in the alpha channel where they are all the same."""
    grey = picture.convert("L")
    if not has_alpha(picture):
        return grey
    picture = picture.convert("RGBA")
    alpha = picture.getchannel("A")
    low, high = _range(alpha.histogram())
    if not low < MIDDLE <= high:
        return grey
    seen = _halves(alpha)
    ranges = [_range(picture.getchannel(name).histogram(seen)) for name in "RGB"]
    if any(high - low > ONE_COLOUR for low, high in ranges):
        return grey
    is_black = max(high for _, high in ranges) <= ONE_COLOUR
    found = _invert(alpha) if is_black else alpha
    if _halves(found).tobytes() == _halves(grey).tobytes():
        return grey
    if is_black:
        tell(
            f"{path} is black, and drawn in its alpha channel. As in ComfyUI's mask editor, the "
            "object is taken to be where it is transparent."
        )
    else:
        tell(
            f"{path} has one colour, and is drawn in its alpha channel. The object is taken to be "
            "where it is opaque."
        )
    return found


def _halves(channel: Image.Image) -> Image.Image:
    return channel.point([255 * (value >= MIDDLE) for value in range(256)])


def _invert(channel: Image.Image) -> Image.Image:
    return channel.point([255 - value for value in range(256)])


def _range(histogram: list[int]) -> tuple[int, int]:
    used = [value for value, count in enumerate(histogram) if count]
    return used[0], used[-1]


def _fit(
    mask: Image.Image, path: Path, size: tuple[int, int], tell: Callable[[str], None]
) -> Image.Image:
    if abs(mask.width * size[1] / (mask.height * size[0]) - 1) > 0.05:
        raise ValueError(
            f"{path} is {mask.width}x{mask.height}, the image {size[0]}x{size[1]}: their "
            "shapes differ. Make the mask from the image that is edited, at its size."
        )
    tell(f"{path} is {mask.width}x{mask.height}: resized to {size[0]}x{size[1]}.")
    return mask.resize(size, Image.Resampling.NEAREST)


def _check(mask: Image.Image, path: Path) -> None:
    counts = mask.histogram()
    grey = sum(counts[32:224]) / (mask.width * mask.height)
    if grey > 0.25:
        raise ValueError(
            f"{path} is no mask: {grey:.0%} of it is grey. Make it white on the object, black "
            "elsewhere (a mask in the alpha channel must be saved as an image of its own)."
        )
    if not sum(counts[MIDDLE:]):
        raise ValueError(f"{path} is black all over. Paint the object white.")


def is_whole(mask: Image.Image) -> bool:
    """Whether a mask (L) marks the whole picture."""
    return not any(mask.histogram()[:MIDDLE])


def tell_of_whole_masks(masks: Mapping[Path, Image.Image], tell: Callable[[str], None]) -> None:
    """A sentence for each mask of several objects that marks the whole picture."""
    for path, mask in masks.items() if len(masks) > 1 else ():
        if is_whole(mask):
            tell(f"{path} {WHOLE}.")


def as_read_by(node: Mapping[str, object], mask: Image.Image) -> Image.Image:
    """A mask (L) as a picture from which a node loads just that.

    Load Image, and Load Image (as Mask) with its channel "alpha", take what is transparent as the
    object; the channels of colour, all three, hold the mask as well.
    """
    inputs = node["inputs"]
    is_alpha = isinstance(inputs, Mapping) and inputs.get("channel") == "alpha"
    if node["class_type"] == "LoadImage" or is_alpha:
        return Image.merge("RGBA", (mask, mask, mask, _invert(mask)))
    return mask.convert("RGB")
