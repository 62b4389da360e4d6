"""Picture files: written whole or not at all, named by their content, and their alpha channels."""

import io
import zlib
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from ale_edit.headless.pictures import (
    alpha_of,
    as_png,
    is_intact,
    keep_alpha,
    open_picture,
    open_whole,
    upload_name,
    write_whole,
)


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "file"
    write_whole(path, b"old")

    def full(_number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_an_equal_file_stays_untouched(tmp_path):
    path = tmp_path / "file"
    write_whole(path, b"same")
    before = path.stat().st_mtime_ns
    write_whole(path, b"same")
    assert path.stat().st_mtime_ns == before


def test_uploads_are_named_by_their_content():
    names = [upload_name(Image.new("RGB", (4, 4), c)) for c in ("red", "red", "blue")]
    assert names[0] == names[1] != names[2]
    assert upload_name(Image.new("RGB", (2, 8), "red")) != names[0]


def test_a_damaged_picture_is_never_taken_for_one():
    picture = Image.effect_noise((32, 32), 90)
    data = as_png(picture)
    assert open_whole(data).tobytes() == picture.tobytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    for wrong in (data[: len(data) // 2], bytes(flipped), b"", b"<html>"):
        assert not is_intact(wrong)
        with pytest.raises(ValueError, match=r"^damaged \("):
            open_whole(wrong)


def deep(kind: str, tmp_path: Any) -> tuple[Any, list[int]]:
    """A file of 16 bits a channel, and its pixels with 8."""
    values = [0, 255, 256, 32768, 65280, 65535]
    path = tmp_path / f"deep{'.tif' if kind == 'tiff' else '.png'}"
    if kind == "colour":  # which Pillow cannot write
        rows = b"".join(b"\0" + b"".join(v.to_bytes(2, "big") * 3 for v in values) for _ in "ab")
        path.write_bytes(png_of_16_bits(6, 2, rows))
        return path, [v >> 8 for v in values for _ in "rgb"] * 2
    picture = Image.frombytes("I;16", (6, 1), b"".join(v.to_bytes(2, "little") for v in values))
    picture.save(path)
    return path, [round(v / 257) for v in values]


def png_of_16_bits(width: int, height: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        end = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + end

    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    parts = (
        (b"IHDR", size + bytes([16, 2, 0, 0, 0])),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.parametrize("kind", ["grey", "tiff", "colour"])
def test_a_picture_of_16_bits_is_converted_and_that_is_told(tmp_path, kind):
    path, pixels = deep(kind, tmp_path)
    told: list[str] = []
    picture = open_picture(path, told.append)
    assert picture.mode in ("L", "RGB") and list(picture.tobytes()) == pixels
    assert told == [f"{path} has 16 bits per channel: converted to 8."]


def test_more_bits_than_16_are_refused(tmp_path):
    Image.new("F", (4, 4), 0.5).save(tmp_path / "float.tif")
    with pytest.raises(
        ValueError, match=r"float.tif has more than 16 bits per channel \(F\). Save"
    ):
        open_picture(tmp_path / "float.tif", pytest.fail)


def ramp(size: tuple[int, int]) -> Image.Image:
    """An alpha channel that tells every column and row apart."""
    width, height = size
    return Image.frombytes(
        "L", size, bytes((7 * x + 13 * y) % 256 for y in range(height) for x in range(width))
    )


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "RGB"])
def test_the_alpha_channel_of_a_picture_is_found(mode):
    alpha = Image.new("L", (4, 2), 255)
    alpha.putpixel((1, 1), 0)
    picture = Image.new("RGBA", (4, 2), (9, 9, 9, 255))
    picture.putalpha(alpha)
    if mode in ("P", "RGB"):  # one colour is transparent
        picture = Image.new("RGB", (4, 2), (9, 9, 9))
        picture.putpixel((1, 1), (1, 2, 3))
        picture = picture.convert(mode, palette=Image.Palette.ADAPTIVE) if mode == "P" else picture
        transparent = picture.getpixel((1, 1))
        picture.save(data := io.BytesIO(), "PNG", transparency=transparent)
        picture = Image.open(data)
    elif mode != "RGBA":
        picture = picture.convert(mode)
    found = alpha_of(picture)
    assert found is not None and found.tobytes() == alpha.tobytes()
    assert alpha_of(Image.new("RGBA", (4, 2), (1, 2, 3, 255))) is None


def restored(alpha: Image.Image, size: tuple[int, int]) -> Image.Image | None:
    data = keep_alpha(as_png(Image.new("RGB", size, "red")), alpha)
    return None if data is None else Image.open(io.BytesIO(data))


def test_an_edited_image_gets_the_alpha_channel_of_its_source():
    alpha = ramp((24, 16))
    same = restored(alpha, (24, 16))
    assert (
        same is not None
        and same.mode == "RGBA"
        and same.convert("RGB").getcolors() == [(24 * 16, (255, 0, 0))]
    )
    assert same.getchannel("A").tobytes() == alpha.tobytes()
    big = ramp((29, 23))  # ComfyUI's VAE cuts off 2 of 5 columns on the left, 3 of 7 rows above
    cut = restored(big, (24, 16))
    assert cut is not None
    assert cut.getchannel("A").tobytes() == big.crop((2, 3, 26, 19)).tobytes()
    half = restored(Image.new("L", (48, 32), 77), (24, 16))  # by a workflow of one's own
    assert half is not None and half.getchannel("A").getextrema() == (77, 77)
    assert restored(alpha, (48, 16)) is None  # another shape: a collage, for example


def test_an_edited_image_keeps_its_texts_and_an_alpha_channel_of_its_own():
    texts = PngImagePlugin.PngInfo()
    texts.add_text("prompt", "{}")
    Image.new("RGB", (4, 4)).save(data := io.BytesIO(), "PNG", pnginfo=texts)
    found = keep_alpha(data.getvalue(), ramp((4, 4)))
    assert found is not None and Image.open(io.BytesIO(found)).info["prompt"] == "{}"
    own = as_png(Image.new("RGBA", (4, 4), (1, 2, 3, 4)))
    assert keep_alpha(own, ramp((4, 4))) == own
