"""Pictures that people look at: images side by side, each under its label."""

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_PANEL = 384  # least height of a panel in pixels
_GAP = 12
_LABEL = 34


def side_by_side(panels: Sequence[tuple[str, Image.Image]]) -> Image.Image:
    """Panels of one height in a row, each enlarged to a readable size and labelled."""
    height = max(_PANEL, max(image.height for _, image in panels))
    scaled = [
        (label, image.resize((round(image.width * height / image.height), height), _filter(image)))
        for label, image in panels
    ]
    width = sum(image.width for _, image in scaled) + _GAP * (len(scaled) + 1)
    sheet = Image.new("RGB", (width, height + _LABEL + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=20)
    left = _GAP
    for label, image in scaled:
        draw.text((left, _LABEL / 2), label, fill="black", font=font, anchor="lm")
        sheet.paste(image, (left, _LABEL))
        left += image.width + _GAP
    return sheet


def _filter(image: Image.Image) -> Image.Resampling:
    return Image.Resampling.LANCZOS if image.height < _PANEL else Image.Resampling.BICUBIC
