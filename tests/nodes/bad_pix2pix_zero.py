"""Bad input of pix2pix-zero.

Imported by tests as `ale_edit.tests.nodes.bad_pix2pix_zero`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ale_edit.tests.nodes.bad_editors import edit_by, inverted
from ale_edit.tests.nodes.bad_input import Case, World, listed

LONG = "a wolf " * 40


def edit(world: World, text: str = "wolf -> goat", **inputs: Any) -> Any:
    return edit_by("ALEPix2PixZero", world, edits=listed(text), **inputs)


def case(name: str, cause: Any, said: str, *parts: str) -> Case:
    return Case(name, cause, "ALEPix2PixZero", said, ("pix2pix-zero: ", *parts))


PIX2PIX_ZERO_CASES = [
    case(
        "sentences about the source alone",
        lambda w: edit(w, source_sentences="a wolf"),
        "Write both, or leave both empty",
        "there are source_sentences",
        "target_sentences is empty",
    ),
    case(
        "sentences about the target alone",
        lambda w: edit(w, source_sentences=" \n", target_sentences="a goat\nthe goat"),
        "Write both, or leave both empty",
        "there are target_sentences",
        "source_sentences is empty",
    ),
    case(
        "a source that is the target of pix2pix-zero",
        lambda w: edit(w, "wolf -> wolf\nmoon -> moon"),
        "has the same source and target phrase",
        "(wolf, moon)",
    ),
    case(
        "a sentence of more than a chunk",
        lambda w: edit(w, source_sentences="a wolf", target_sentences=f"a goat\n{LONG}"),
        "more than the 75 of one chunk",
        "80 tokens",
        'the sentence "a wolf a wolf',
    ),
    case(
        "a sentence without words",
        lambda w: edit(w, source_sentences="a wolf\n()", target_sentences="a goat"),
        "yields no tokens",
        'the sentence ("()")',
    ),
    case(
        "null-text inversion for pix2pix-zero",
        lambda w: edit(w, inversion=replace(inverted("wolf"), method="null-text")),
        "which this editor cannot start from",
        "by null-text",
        "DDIM, direct, edit-friendly, regularised",
    ),
    case(
        "an inversion of another prompt in pix2pix-zero",
        lambda w: edit(w, inversion=inverted("a lamp")),
        "the inversion was made with",
        '"a lamp"',
        '"wolf"',
    ),
]
