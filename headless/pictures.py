"""Picture files: read with clear errors, fitted to each other, written whole or not at all."""

import hashlib
import io
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from PIL import Image, ImageOps

from .client import ComfyClient
from .errors import ServerGone

UPLOADS = "ale-edit"  # subfolder of the server's inputs
EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB")


def open_picture(path: Path) -> Image.Image:
    """A picture, turned as its EXIF says; ValueError where there is none that can be read."""
    try:
        with Image.open(path) as picture:
            turned = ImageOps.exif_transpose(picture)
    except FileNotFoundError:
        raise ValueError(f"There is no file {path}.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no image that can be read. Give a PNG or JPEG.") from error
    if turned.mode not in EIGHT_BITS:
        raise ValueError(f"{path} has more than 8 bits a channel ({turned.mode}). Save it with 8.")
    return turned


def fitted_mask(path: Path, size: tuple[int, int], tell: Callable[[str], None]) -> Image.Image:
    """A mask (L) of the image's size; one of the same shape is resized, and that is told."""
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


def check_mask(mask: Image.Image, path: Path) -> None:
    """ValueError for a mask (L) that marks nothing, or that looks like a photograph."""
    counts = mask.histogram()
    grey = sum(counts[32:224]) / (mask.width * mask.height)
    if grey > 0.25:
        raise ValueError(
            f"{path} is no mask: {grey:.0%} of it is grey. Make it white on the object, black "
            "elsewhere (a mask in the alpha channel must be saved as an image of its own)."
        )
    if not sum(counts[128:]):
        raise ValueError(f"{path} is black all over. Paint the object white.")


def as_png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def upload_name(picture: Image.Image) -> str:
    """A name made of its content, so that no two pictures share one."""
    content = f"{picture.mode}{picture.size}".encode() + picture.tobytes()
    return f"{UPLOADS}/{hashlib.sha256(content).hexdigest()[:24]}.png"


def uploaded_as(picture: Image.Image) -> str:
    """The name that `upload` gives a picture."""
    return upload_name(picture.convert("RGB"))


async def upload(client: ComfyClient, picture: Image.Image) -> str:
    """Upload as PNG, and return the name that Load Image takes."""
    folder, file = uploaded_as(picture).rsplit("/", 1)
    return await client.upload_image(as_png(picture.convert("RGB")), file, folder)


def undamaged(data: bytes) -> Image.Image:
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
        undamaged(data)
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


def reencoded(data: bytes) -> bytes:
    """The bytes of a picture as PNG."""
    with Image.open(io.BytesIO(data)) as picture:
        return as_png(picture.convert("RGB"))
