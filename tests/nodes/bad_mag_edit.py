"""Bad input of MAG-Edit.

Imported by tests as `ale_edit.tests.nodes.bad_mag_edit`.
"""

from __future__ import annotations

from typing import Any

import torch

from ale_edit.tests.nodes.bad_editors import edit_by
from ale_edit.tests.nodes.bad_input import Case, World, listed
from ale_edit.tests.nodes.graph import one

MAG = "MAG-Edit: "


def masked(source: str = "wolf with hat", target: str = "goat with hat", pixel: int = 64) -> Any:
    """An edit whose mask has so many pixels a side."""
    mask = torch.zeros(64, 64)
    mask[:pixel, :pixel] = 1
    if pixel < 8:
        mask = mask.roll((1, 1), (0, 1))  # beside the pixel that nearest sampling reads
    return one("ALEEditObject", source=source, target=target, mask=mask)


def regions_of_speck(size: int, place: int) -> Any:
    """Regions of one object of 3x3 pixels, at another size than the picture."""
    mask = torch.zeros(1, size, size)
    mask[:, place : place + 3, place : place + 3] = 1
    return one("ALERegions", edits=listed("wolf -> goat"), masks=mask, dilation=0.0)


def mag(world: World, edits: Any = None, prompts: Any = ("", ""), **inputs: Any) -> Any:
    source, target = prompts
    given = masked() if edits is None else edits
    given = one("ALEFullPrompts", edits=given, source_prompt=source, target_prompt=target)
    usual = {"iterations": 1, "inversion_method": "DDIM"}
    return edit_by("ALEMAGEdit", world, edits=given, **{**usual, **inputs})


def case(name: str, cause: Any, said: str, *parts: str) -> Case:
    return Case(name, cause, "ALEMAGEdit", said, (MAG, *parts))


MAG_EDIT_CASES = [
    case(
        "no mask for MAG-Edit",
        lambda w: mag(w, listed("wolf -> goat")),
        "has no region",
        '"wolf -> goat"',
    ),
    case(
        "a mask that is smaller than a cell of the maps",
        lambda w: mag(w, masked(pixel=3)),
        "has no cell of the",
        '"goat with hat"',
        "8x8",
    ),
    case(
        "a mask that is large enough for its own size but not for the image",
        lambda w: mag(w, listed("wolf -> goat"), regions=regions_of_speck(256, 16)),
        "has no cell of the",
        '"goat"',
        "8x8",
    ),
    case(
        "a source that is the target",
        lambda w: mag(w, masked("wolf", "wolf")),
        "has no word that the source prompt",
        '"wolf"',
    ),
    case(
        "a word to optimise that is in no prompt",
        lambda w: mag(w, edit_words="goat, sky"),
        "of edit_words does not occur in the target prompt",
        '"sky"',
        '"goat with hat"',
    ),
    case(
        "a word to optimise in another number",
        lambda w: mag(w, edit_words="goats"),
        "of edit_words does not occur in the target prompt",
        '"goats"',
    ),
    case(
        "a word to optimise that belongs to no object",
        lambda w: mag(
            w, masked("wolf", "goat"), ("a wolf with hat", "a goat with coat"), edit_words="coat"
        ),
        "of edit_words is in no target phrase",
        '"coat"',
        "(goat)",
    ),
    case(
        "a word to optimise that keeps its place",
        lambda w: mag(w, edit_words="hat"),
        "of edit_words is in both prompts",
        '"hat"',
        "cross_share",
    ),
    case(
        "a word to avoid that the target prompt has alone",
        lambda w: mag(w, negative_words="goat"),
        "of negative_words does not occur in the source prompt",
        '"goat"',
        '"wolf with hat"',
    ),
    case(
        "a phrase that the whole prompt does not have",
        lambda w: mag(w, masked("wolf", "goat"), ("a wolf with hat", "a sheep with hat")),
        "does not occur in the target prompt",
        '"goat"',
        '"a sheep with hat"',
    ),
    case(
        "an empty prompt in MAG-Edit",
        lambda w: mag(w, prompts=("()", "goat with hat")),
        "prompt is empty",
        "source prompt",
    ),
    case(
        "a constraint that nobody published",
        lambda w: mag(w, constraint="other"),
        "the constraint input is",
        '"other"',
        "token ratio, spatial ratio",
    ),
]
