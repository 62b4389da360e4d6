"""Mask pictures as editors save them: the object is found in the channel that it is drawn in."""

from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from ale_edit.headless.edits import MASKED
from ale_edit.headless.masks import as_read_by, read_mask, tell_of_whole_masks
from ale_edit.headless.workflow import Workflow
from ale_edit.regions.regions import resize_masks

SIZE, BOX = (20, 10), (4, 2, 11, 7)


def drawn(inside: int = 255, outside: int = 0) -> Image.Image:
    """The object, inside BOX."""
    mask = Image.new("L", SIZE, outside)
    ImageDraw.Draw(mask).rectangle(BOX, fill=inside)
    return mask


def with_channel(colour: str | Image.Image, alpha: Image.Image) -> Image.Image:
    picture = Image.new("RGB", SIZE, colour) if isinstance(colour, str) else colour.convert("RGB")
    picture.putalpha(alpha)
    return picture


def noisy() -> Image.Image:
    """As a brush leaves it: nearly white; and anything where it is not seen."""
    picture = Image.effect_noise(SIZE, 90).convert("RGB")
    ImageDraw.Draw(picture).rectangle(BOX, fill=(255, 254, 250))
    picture.putpixel((BOX[0], BOX[1]), (246, 255, 255))
    return picture


def palette() -> Image.Image:
    """One colour, transparent outside the object, in a palette."""
    picture = Image.new("P", SIZE, 0)
    picture.putpalette([255, 255, 255, 255, 255, 255])
    ImageDraw.Draw(picture).rectangle(BOX, fill=1)
    picture.info["transparency"] = bytes([0, 255])
    return picture


def lift(value: int) -> int:
    """The noise around 128, between 240 and 255."""
    return min(max(value + 120, 240), 255)


OPAQUE, CLEAR = drawn(), drawn(0, 255)
COLOURS = {
    "grey": drawn(),
    "in two values": drawn().convert("1"),
    "in colours": drawn().convert("RGB"),
    "in colours, and opaque": with_channel(drawn(), Image.new("L", SIZE, 255)),
    "in colours, and half transparent": with_channel(drawn(), Image.new("L", SIZE, 60)),
    "in colours, with another alpha": with_channel(drawn(), drawn(255, 200)),
    "white on nothing": with_channel(drawn(), OPAQUE),
    "in colours, with the inverse alpha": with_channel(drawn(), drawn(200, 255)),
    "in colours, nearly opaque": with_channel(drawn(), Image.effect_noise(SIZE, 4).point(lift)),
    "hidden": with_channel(drawn(), CLEAR),
}
ALPHAS = {
    "white, opaque on the object": (with_channel("white", OPAQUE), "where it is opaque"),
    "red, opaque on the object": (with_channel("red", OPAQUE), "where it is opaque"),
    "red on black that is not seen": (
        with_channel(Image.merge("RGB", (OPAQUE, drawn(0), drawn(0))), OPAQUE),
        "where it is opaque",
    ),
    "grey and alpha": (
        Image.merge("LA", (Image.new("L", SIZE, 255), OPAQUE)),
        "where it is opaque",
    ),
    "a brush's noise": (with_channel(noisy(), OPAQUE), "where it is opaque"),
    "a palette": (palette(), "where it is opaque"),
    "faint on the object": (with_channel("white", drawn(127)), "where it is opaque"),
    "1 on the object": (with_channel("white", drawn(1)), "where it is opaque"),
    "faint outside": (with_channel("white", drawn(255, 200)), "where it is opaque"),
    "black and faint outside": (with_channel("black", drawn(200, 255)), "where it is transparent"),
    "ComfyUI's mask editor": (with_channel("black", CLEAR), "where it is transparent"),
}


def read(tmp_path: Path, picture: Image.Image) -> tuple[list[int], list[str]]:
    """The pixels as 0 or 1, and what was told."""
    told: list[str] = []
    picture.save(tmp_path / "m.png")
    mask = read_mask(tmp_path / "m.png", told.append)
    assert mask.mode == "L" and mask.size == SIZE
    return [value // 128 for value in mask.tobytes()], told


OBJECT = [value // 255 for value in drawn().tobytes()]


@pytest.mark.parametrize("picture", COLOURS.values(), ids=COLOURS)
def test_a_mask_that_is_drawn_in_its_colours_is_read_there(tmp_path, picture):
    assert read(tmp_path, picture) == (OBJECT, [])


@pytest.mark.parametrize(("picture", "where"), ALPHAS.values(), ids=ALPHAS)
def test_a_mask_of_one_colour_is_read_in_its_alpha_channel_and_that_is_told(
    tmp_path, picture, where
):
    found, told = read(tmp_path, picture)
    assert found == OBJECT and len(told) == 1
    assert "drawn in its alpha channel" in told[0] and told[0].endswith(f"to be {where}.")


def halves(left: int, right: int) -> Image.Image:
    """A picture of two greys, whose border runs through BOX."""
    picture = Image.new("L", SIZE, left)
    ImageDraw.Draw(picture).rectangle((8, 0, *SIZE), fill=right)
    return picture


PICTURES = {
    "a photograph": Image.effect_noise(SIZE, 40),
    "a bright one": halves(220, 251),
    "black and white": halves(0, 255),
}


@pytest.mark.parametrize("picture", PICTURES.values(), ids=PICTURES)
@pytest.mark.parametrize("alpha", [OPAQUE, CLEAR, drawn(127), drawn(255, 200)])
def test_a_picture_with_a_mask_in_its_alpha_channel_is_refused_with_the_cure(
    tmp_path, picture, alpha
):
    """Whether the object is what is cut out or what is left, nobody knows."""
    with pytest.raises(ValueError, match="m.png is not a mask: .* image of its own"):
        read(tmp_path, with_channel(picture, alpha))


@pytest.mark.parametrize("alpha", [0, 255])
def test_a_mask_that_marks_nothing_is_refused_whatever_its_alpha(tmp_path, alpha):
    with pytest.raises(ValueError, match="m.png is black all over. Paint the object white."):
        read(tmp_path, with_channel("black", Image.new("L", SIZE, alpha)))


def test_a_mask_of_16_bits_is_read_and_that_is_told(tmp_path):
    deep = drawn().convert("I").point(lambda value: value * 257).convert("I;16")
    found, told = read(tmp_path, deep)
    assert found == OBJECT and told == [
        f"{tmp_path / 'm.png'} has 16 bits per channel: converted to 8."
    ]


def test_of_several_masks_one_that_marks_everything_is_told():
    told: list[str] = []
    whole = Image.new("L", SIZE, 255)
    tell_of_whole_masks({Path("all.png"): whole, Path("m.png"): drawn(255, 127)}, told.append)
    assert len(told) == 1 and told[0].startswith("all.png covers the whole picture, and other")


def test_a_single_mask_that_marks_everything_is_told_too():
    told: list[str] = []
    tell_of_whole_masks({Path("all.png"): Image.new("L", SIZE, 255)}, told.append)
    assert len(told) == 1 and told[0].startswith(
        "all.png covers the whole picture. Is it the right"
    )
    tell_of_whole_masks({Path("m.png"): drawn()}, pytest.fail)


def with_box(side: int, box: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", (side, side))
    mask.paste(255, box)
    return mask


@pytest.mark.parametrize("size", [(49, 51), (51, 49), (49, 49), (25, 25), (17, 17), (3, 3)])
def test_a_line_of_one_pixel_survives_wherever_it_is(tmp_path, size):
    """Of 50x50, for images of that shape, whichever axis shrinks."""
    for number in range(50):
        for box in ((0, number, 50, number + 1), (number, 0, number + 1, 50)):
            with_box(50, box).save(tmp_path / "m.png", compress_level=0)
            fitted = read_mask(tmp_path / "m.png", [].append, size)
            assert fitted.size == size and fitted.getbbox() is not None


def test_a_mask_that_grows_keeps_its_shape(tmp_path):
    drawn().save(tmp_path / "m.png")
    fitted = read_mask(tmp_path / "m.png", [].append, (60, 30))
    assert fitted.getbbox() == (3 * BOX[0], 3 * BOX[1], 3 * BOX[2] + 3, 3 * BOX[3] + 3)


@pytest.mark.parametrize("size", [(98, 102), (60, 61), (200, 196), (100, 103), (97, 100), (13, 13)])
def test_a_mask_is_resized_as_the_nodes_resize_it(tmp_path, size):
    drawing = Image.effect_noise((100, 100), 90).point([255 * (v > 190) for v in range(256)])
    drawing.save(tmp_path / "m.png")
    fitted = read_mask(tmp_path / "m.png", [].append, size)
    pixels = torch.tensor(list(drawing.tobytes()), dtype=torch.float32).view(1, 100, 100) / 255
    expected = resize_masks(pixels, size[1], size[0])
    assert fitted.tobytes() == bytes(expected.mul(255).byte().flatten().tolist())


LOADERS = [
    ("LoadImageMask", {"channel": channel}) for channel in ("red", "green", "blue", "alpha")
] + [("LoadImage", {})]


@pytest.mark.parametrize(("kind", "inputs"), LOADERS)
def test_a_mask_is_uploaded_as_the_workflow_s_node_reads_it(kind, inputs):
    """As ComfyUI's nodes.py has it: the channel, and of alpha what is transparent; LoadImage's mask
    is that of alpha."""
    picture = as_read_by({"class_type": kind, "inputs": inputs}, drawn())
    channel = inputs.get("channel", "alpha")[0].upper()
    read = picture.convert("RGBA").getchannel(channel)
    if channel == "A":
        read = read.point([255 - value for value in range(256)])
    assert read.tobytes() == drawn().tobytes()
    assert picture.getchannel("R").tobytes() == drawn().tobytes()


def test_the_pack_s_own_workflow_reads_red():
    for number in (1, 2):
        node = Workflow.load(MASKED).inputs(f"Mask {number}")
        assert node["channel"] == "red"
