"""Bad input of LEDITS++.

Imported by tests as `ale_edit.tests.nodes.bad_ledits`.
"""

from __future__ import annotations

from typing import Any

import torch

from ale_edit.tests.nodes.bad_editors import HATS, edit_by
from ale_edit.tests.nodes.bad_input import Case, World, listed
from ale_edit.tests.nodes.graph import one


def ledits(world: World, text: str = HATS, **inputs: Any) -> Any:
    return edit_by("ALELEDITS", world, **{"edits": listed(text), **inputs})


def with_target(target: str) -> Any:
    return one("ALEEditObject", source="wolf", target=target, mask=torch.ones(64, 64))


LEDITS_CASES = [
    Case(
        "more steps than time steps in LEDITS++",
        lambda w: ledits(w, steps=200, strength=0.1),
        "ALELEDITS",
        "do not fit at strength",
        ("LEDITS++: ", "200 steps", "strength 0.1", "between 2 and 99"),
    ),
    Case(
        "places that nobody knows",
        lambda w: ledits(w, places="other"),
        "ALELEDITS",
        "the places input is",
        ("LEDITS++: ", '"other"', "both, attention, guidance, everywhere"),
    ),
    Case(
        "a scale of a phrase that is the source of an edit",
        lambda w: ledits(w, "wolf -> goat\nmoon -> ball", scales="wolf: 3"),
        "ALELEDITS",
        "which is the target of no edit",
        ("LEDITS++: ", '"wolf"', "goat, ball"),
    ),
    Case(
        "a scale that is no number",
        lambda w: ledits(w, "wolf -> goat", scales="goat: much"),
        "ALELEDITS",
        "which is not a word with a factor",
        ("LEDITS++: ", "scales", '"goat: much"'),
    ),
    Case(
        "a target phrase without a word in LEDITS++",
        lambda w: ledits(w, edits=with_target("()")),
        "ALELEDITS",
        "yields no tokens",
        ("LEDITS++: ", "edits", '"()"'),
    ),
]
