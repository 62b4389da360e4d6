"""Picture files: read with clear errors, written whole or not at all, and their alpha channels."""

import hashlib
import io
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from PIL import Image, ImageOps, PngImagePlugin

from .client import ComfyClient
from .errors import ServerGone

UPLOADS = "ale-edit"  # subfolder of the server's inputs
CROP = 8  # ComfyUI's VAE drops fewer pixels than this from a side
EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB")


def open_picture(path: Path, tell: Callable[[str], None]) -> Image.Image:
    """A picture of 8 bits a channel, turned as its EXIF says; ValueError where none can be read.

    tell: gets a sentence where it had 16 bits.
    """
    try:
        with Image.open(path) as picture:
            is_deep = _is_deep(picture)
            turned = ImageOps.exif_transpose(picture)
    except FileNotFoundError:
        raise ValueError(f"There is no file {path}. Correct the path.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is not a readable image. Give a PNG or JPEG.") from error
    if is_deep:
        tell(f"{path} has 16 bits per channel: converted to 8.")
    if is_deep and turned.mode not in EIGHT_BITS:  # grey; colours are converted as they are read
        turned = turned.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")
    if turned.mode not in EIGHT_BITS:
        raise ValueError(
            f"{path} has more than 16 bits per channel ({turned.mode}). Save it with 8 or 16."
        )
    return turned


def _is_deep(picture: Image.Image) -> bool:
    """Whether a picture, of which nothing is read yet, has 16 bits a channel."""
    is_grey = picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format == "PNG")
    return is_grey or any(";16" in str(tile[3]) for tile in getattr(picture, "tile", ()))


def has_alpha(picture: Image.Image) -> bool:
    return "A" in picture.getbands() or "transparency" in picture.info


def alpha_of(picture: Image.Image) -> Image.Image | None:
    """The alpha channel of a picture; None where all of it is opaque."""
    if not has_alpha(picture):
        return None
    alpha = picture.convert("RGBA").getchannel("A")
    return alpha if any(alpha.histogram()[:255]) else None


def keep_alpha(image: bytes, alpha: Image.Image) -> bytes | None:
    """The PNG of an edited image with the alpha channel of its source; None where their shapes
    differ. An image that has its own keeps that."""
    picture = open_whole(image)
    if has_alpha(picture):
        return image
    excess = [have - want for have, want in zip(alpha.size, picture.size, strict=True)]
    if all(0 <= pixels < CROP for pixels in excess):
        alpha = crop_centre(alpha, picture.size)
    elif abs(alpha.width * picture.height / (alpha.height * picture.width) - 1) > 0.05:
        return None
    else:
        alpha = alpha.resize(picture.size, Image.Resampling.BILINEAR)
    texts = PngImagePlugin.PngInfo()
    for name, text in picture.info.items():
        if isinstance(text, str):  # ComfyUI writes the workflow there
            texts.add_text(str(name), text)
    picture = picture.convert("RGB")
    picture.putalpha(alpha)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=texts)
    return buffer.getvalue()


def crop_centre(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The centre of a picture, as ComfyUI's VAE crops it to a multiple of 8."""
    left, top = ((have - want) // 2 for have, want in zip(picture.size, size, strict=True))
    return picture.crop((left, top, left + size[0], top + size[1]))


def as_png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def upload_name(picture: Image.Image) -> str:
    """A name made of its content, so that no two pictures share one."""
    content = f"{picture.mode}{picture.size}".encode() + picture.tobytes()
    return f"{UPLOADS}/{hashlib.sha256(content).hexdigest()[:24]}.png"


def name_of_upload(picture: Image.Image) -> str:
    """The name that `upload` gives a picture."""
    return upload_name(picture.convert("RGB"))


async def upload(client: ComfyClient, picture: Image.Image) -> str:
    """Upload as PNG, and return the name that Load Image takes."""
    folder, file = name_of_upload(picture).rsplit("/", 1)
    return await client.upload_image(as_png(picture.convert("RGB")), file, folder)


def open_whole(data: bytes) -> Image.Image:
    """The picture that these bytes are; ValueError if any part of it is damaged."""
    try:
        with Image.open(io.BytesIO(data)) as checked:
            checked.verify()  # of a PNG the checksum of every chunk
        picture = Image.open(io.BytesIO(data))
        picture.load()
    except Exception as error:  # Pillow raises half a dozen kinds for a damaged file
        raise ValueError(f"damaged ({error})") from error
    return picture


def is_intact(data: bytes) -> bool:
    """Whether these bytes are a picture, whole and undamaged."""
    try:
        open_whole(data)
    except ValueError:
        return False
    return True


def check_sent(data: bytes, server: str) -> None:
    """ServerGone where the image that a server sent is damaged: it is made again, elsewhere."""
    if not is_intact(data):
        raise ServerGone(f"The image that {server} sent is damaged.")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; one with this content already stays as it is."""
    if path.is_file() and path.read_bytes() == data:
        return
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise OSError(error.errno, f"{path} was not written: {error.strerror or error}") from error


def encode_again(data: bytes) -> bytes:
    """The bytes of a picture as PNG."""
    with Image.open(io.BytesIO(data)) as picture:
        return as_png(picture.convert("RGBA" if has_alpha(picture) else "RGB"))
