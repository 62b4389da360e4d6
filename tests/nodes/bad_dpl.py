"""Bad input of DPL.

Imported by tests as `ale_edit.tests.nodes.bad_dpl`.
"""

from __future__ import annotations

from typing import Any

import torch

from ale_edit.tests.nodes.bad_editors import edit_by
from ale_edit.tests.nodes.bad_input import Case, World, listed
from ale_edit.tests.nodes.graph import one

HATS = "wolf with hat -> goat with hat"


def dpl(world: World, text: str = HATS, prompts: Any = ("", ""), **inputs: Any) -> Any:
    source, target = prompts
    given = inputs.pop("edits", None) or listed(text)
    given = one("ALEFullPrompts", edits=given, source_prompt=source, target_prompt=target)
    usual = {"updates": 1, "null_updates": 1}
    return edit_by("ALEDPL", world, edits=given, **{**usual, **inputs})


def masked(pixel: int) -> Any:
    """An edit whose mask has so many pixels a side, beside those that nearest sampling reads."""
    mask = torch.zeros(64, 64)
    mask[1 : pixel + 1, 1 : pixel + 1] = 1
    return one("ALEEditObject", source="wolf", target="goat", mask=mask)


def case(name: str, cause: Any, said: str, *parts: str) -> Case:
    return Case(name, cause, "ALEDPL", said, ("DPL: ", *parts))


LONG = "very " * 80

DPL_CASES = [
    case(
        "a noun in another number",
        lambda w: dpl(w, nouns="wolves"),
        "of nouns does not occur in the source prompt",
        '"wolves"',
        '"wolf with hat"',
    ),
    case(
        "more nouns than the prompt has tokens",
        lambda w: dpl(w, nouns="wolf, hat, with, moon, star"),
        "of nouns does not occur in the source prompt",
        '"moon"',
    ),
    case(
        "a phrase without a noun",
        lambda w: dpl(w, "! -> goat"),
        "has no noun that could be learned",
        '"!"',
    ),
    case(
        "a noun beyond the first chunk",
        lambda w: dpl(w, "wolf -> goat", (f"{LONG} wolf", f"{LONG} goat")),
        "comes after the first 75 tokens",
        '"wolf"',
    ),
    case(
        "a noun without a mask where masks are needed",
        lambda w: dpl(
            w,
            edits=masked(40),
            prompts=("wolf and moon", "goat and moon"),
            nouns="wolf moon",
            priors="masks",
        ),
        "it has no mask",
        '"moon"',
        "(wolf)",
    ),
    case(
        "masks for priors that are not there",
        lambda w: dpl(w, priors="masks"),
        "has no region",
        f'"{HATS}"',
    ),
    case(
        "a mask that is smaller than a cell of the maps in DPL",
        lambda w: dpl(w, edits=masked(3), priors="masks"),
        "has no cell of the",
        '"wolf"',
    ),
    case(
        "adjectives that are not there",
        lambda w: dpl(w, adjective_binding=True),
        "adjective_binding finds no word before a noun",
        "(wolf with hat)",
    ),
    case(
        "a source that is the target in DPL",
        lambda w: dpl(w, "wolf -> wolf"),
        "the target prompt is the source prompt",
        '"wolf"',
    ),
    case(
        "other words than in the whole prompt in DPL",
        lambda w: dpl(w, "wolf -> goat", ("a bear", "a goat")),
        "does not occur in the source prompt",
        '"wolf"',
        '"a bear"',
    ),
    case(
        "priors that nobody published",
        lambda w: dpl(w, priors="boxes"),
        "the priors input is",
        '"boxes"',
        "clusters, masks",
    ),
    case(
        "a schedule that nobody published",
        lambda w: dpl(w, schedule="free"),
        "the schedule input is",
        '"free"',
        "paper, cheap",
    ),
]
