"""Mask pictures: the channel that a mask is drawn in, its size, and what can be wrong with it."""

from collections.abc import Callable, Mapping
from functools import reduce
from pathlib import Path

from PIL import Image, ImageChops

from .pictures import has_alpha, open_picture

ONE_COLOUR = 16  # values that differ by no more are one colour: brushes leave a little noise
MIDDLE = 128  # from here on a mask, or an alpha channel, counts as set
RIGHT_FILE = "Is it the right file? A mask is white on its object and black elsewhere"
WHOLE = f"covers the whole picture, and other objects are edited too. {RIGHT_FILE}"
WHOLE_ALONE = f"covers the whole picture. {RIGHT_FILE}"


def read_mask(
    path: Path, tell: Callable[[str], None], size: tuple[int, int] | None = None
) -> Image.Image:
    """A mask (L), white on the object; ValueError where it marks nothing or is not a mask.

    size: of the image; a mask of the same shape is resized to it. tell: gets a sentence where the
    mask was resized or converted, and where it is drawn in the alpha channel.
    """
    mask = _read_drawing(open_picture(path, tell), path, tell)
    if size not in (None, mask.size):
        mask = _fit(mask, path, size, tell)
    _check(mask, path)
    return mask


def _read_drawing(picture: Image.Image, path: Path, tell: Callable[[str], None]) -> Image.Image:
    """What is drawn: in the colours, or in the alpha channel where they are all the same.

    Raises ValueError where both channels are drawn in, and mark different things.
    """
    grey = picture.convert("L")
    if not has_alpha(picture):
        return grey
    picture = picture.convert("RGBA")
    alpha = picture.getchannel("A")
    low, high = _range(alpha.histogram())
    if low == high:
        return grey
    seen = _halves(alpha, min(MIDDLE, (low + high + 1) // 2))
    ranges = [_range(picture.getchannel(name).histogram(seen)) for name in "RGB"]
    spread = max(last - first for first, last in ranges)
    if high - low <= ONE_COLOUR and spread > 0:  # next to opaque, or next to transparent
        return grey
    drawn = alpha.point(
        [255 * min(max(v - low, 0), high - low) // (high - low) for v in range(256)]
    )
    is_black = max(last for _, last in ranges) <= ONE_COLOUR
    found = _invert(drawn) if is_black else drawn
    marked = _halves(grey).tobytes()
    if marked == _halves(found).tobytes():
        return grey
    if spread > ONE_COLOUR:
        if marked == _halves(_invert(found)).tobytes():  # as white on black, its colours say which
            return grey
        raise ValueError(
            f"{path} is not a mask: its colours and its alpha channel mark different things. Save "
            "the one that marks the object as an image of its own, white on the object and black "
            "elsewhere."
        )
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


def _halves(channel: Image.Image, middle: int = MIDDLE) -> Image.Image:
    return channel.point([255 * (value >= middle) for value in range(256)])


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
    return _resize(mask, size)


def _resize(mask: Image.Image, size: tuple[int, int]) -> Image.Image:
    """As the nodes resize a mask (regions/regions.py): the maximum of the pixels that fall
    together along an axis that shrinks, so that nothing is lost, nearest along one that grows."""
    for length in reversed(size):
        mask = _resize_rows(mask, length).transpose(Image.Transpose.TRANSPOSE)
    return mask


def _resize_rows(mask: Image.Image, height: int) -> Image.Image:
    rows = [mask.crop((0, y, mask.width, y + 1)) for y in range(mask.height)]
    resized = Image.new("L", (mask.width, height))
    for y in range(height):
        first, end = y * mask.height // height, -(-(y + 1) * mask.height // height)
        together = rows[first:end] if height < mask.height else rows[first : first + 1]
        resized.paste(reduce(ImageChops.lighter, together), (0, y))
    return resized


def _check(mask: Image.Image, path: Path) -> None:
    counts = mask.histogram()
    grey = sum(counts[32:224]) / (mask.width * mask.height)
    if grey > 0.25:
        raise ValueError(
            f"{path} is not a mask: {grey:.0%} of it is grey. Make it white on the object, black "
            "elsewhere (a mask in the alpha channel must be saved as an image of its own)."
        )
    if not sum(counts[MIDDLE:]):
        raise ValueError(f"{path} is black all over. Paint the object white.")


def is_whole(mask: Image.Image) -> bool:
    """Whether a mask (L) covers the whole picture."""
    return not any(mask.histogram()[:MIDDLE])


def tell_of_whole_masks(masks: Mapping[Path, Image.Image], tell: Callable[[str], None]) -> None:
    """A sentence for each mask that covers the whole picture."""
    for path, mask in masks.items():
        if is_whole(mask):
            tell(f"{path} {WHOLE if len(masks) > 1 else WHOLE_ALONE}.")


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
