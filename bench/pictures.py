"""Pictures that people look at: images side by side, and where the edited objects are."""

from collections.abc import Sequence

from PIL import Image, ImageChops, ImageColor, ImageDraw, ImageFilter, ImageFont

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


def regions_view(
    picture: Image.Image, masks: Sequence[Image.Image], colors: Sequence[str]
) -> Image.Image:
    """A picture with each mask tinted in its color, outlined, and numbered from 1."""
    scale = max(1, -(-256 // min(picture.size)))
    size = (picture.width * scale, picture.height * scale)
    view = picture.convert("L").convert("RGB").resize(size, Image.Resampling.BICUBIC)
    font = ImageFont.load_default(size=max(16, size[1] // 14))
    for number, mask in enumerate(masks, 1):
        color = Image.new("RGB", size, ImageColor.getrgb(colors[(number - 1) % len(colors)]))
        inside = mask.convert("L").resize(size, Image.Resampling.NEAREST)
        inside = inside.point([255 * (v > 127) for v in range(256)])
        edge = ImageChops.subtract(inside, inside.filter(ImageFilter.MinFilter(5)))
        view.paste(color, mask=inside.point([v * 45 // 100 for v in range(256)]))
        view.paste(color, mask=edge)
        if box := inside.getbbox():
            place = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
            ImageDraw.Draw(view).text(
                place, str(number), "white", font, "mm", stroke_width=2, stroke_fill="black"
            )
    return view


def _filter(image: Image.Image) -> Image.Resampling:
    return Image.Resampling.LANCZOS if image.height < _PANEL else Image.Resampling.BICUBIC
