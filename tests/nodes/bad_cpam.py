"""Bad input of CPAM.

Imported by tests as `ale_edit.tests.nodes.bad_cpam`.
"""

from __future__ import annotations

from typing import Any

import torch

from ale_edit.prompts.edits import set_variant
from ale_edit.tests.nodes.bad_editors import HATS, edit_by, masked
from ale_edit.tests.nodes.bad_input import Case, World, boxes, listed, regions
from ale_edit.tests.nodes.bad_mag_edit import regions_of_speck
from ale_edit.tests.nodes.graph import one


def cpam(world: World, **inputs: Any) -> Any:
    return edit_by("ALECPAM", world, **inputs)


def tiny_mask() -> Any:
    """An edit whose mask is a few pixels between the first pixels of two cells."""
    mask = torch.zeros(64, 64)
    mask[18:21, 19:22] = 1
    return one("ALEEditObject", source="wolf", target="goat", mask=mask)


def masked_all() -> torch.Tensor:
    return torch.ones(64, 64)


def in_other_prompt() -> Any:
    return one("ALEFullPrompts", edits=masked(), source_prompt="", target_prompt="a small cat")


def one_sided(source: str = "", target: str = "") -> Any:
    mask = torch.zeros(64, 64)
    mask[8:24, 8:24] = 1
    return one("ALEEditObject", source=source, target=target, mask=mask)


CPAM_CASES = [
    Case(
        "an object to remove from what the strategy background keeps",
        lambda w: cpam(w, strategy="background", edits=one_sided("wolf")),
        "ALECPAM",
        "Choose another strategy, or write both sides",
        ("CPAM: ", "strategy background keeps", 'cannot remove "wolf"'),
    ),
    Case(
        "an object to add to what the strategy background keeps",
        lambda w: cpam(w, strategy="background", edits=one_sided(target="wolf")),
        "ALECPAM",
        "Choose another strategy, or write both sides",
        ("CPAM: ", "strategy background keeps", 'cannot add "wolf"'),
    ),
    Case(
        "an object to add where the strategy removes all",
        lambda w: cpam(w, strategy="remove", edits=one_sided(target="wolf")),
        "ALECPAM",
        "Choose another strategy, or write both sides",
        ("CPAM: ", "strategy remove removes", 'cannot add "wolf"'),
    ),
    Case(
        "an object to add without a mask in CPAM",
        lambda w: cpam(w, edits=listed("-> wolf")),
        "ALECPAM",
        "has no region",
        ("CPAM: ", '" -> wolf"', "Connect a mask to its Edit Object"),
    ),
    Case(
        "removal of the whole image by an edit without a target",
        lambda w: cpam(w, edits=one("ALEEditObject", source="wolf", target="", mask=masked_all())),
        "ALECPAM",
        "the masks cover the whole image",
        ("CPAM: ", "no background to fill them with"),
    ),
    Case(
        "an unknown strategy",
        lambda w: cpam(w, strategy="other"),
        "ALECPAM",
        "the strategy input is",
        ("CPAM: ", '"other"', "add, replace, replace (refined), pose / view, background, remove"),
    ),
    Case(
        "texts of objects that nobody knows",
        lambda w: cpam(w, object_texts="other"),
        "ALECPAM",
        "the object_texts input is",
        ("CPAM: ", '"other"', "whole prompt, each its own"),
    ),
    Case(
        "an object whose words the prompt does not have",
        lambda w: cpam(w, object_texts="each its own", edits=in_other_prompt()),
        "ALECPAM",
        "does not occur in",
        ("CPAM: ", '"goat"', '"a small cat"'),
    ),
    Case(
        "edits without masks in CPAM",
        lambda w: cpam(w, edits=listed(HATS)),
        "ALECPAM",
        "has no region",
        ("CPAM: ", '"wolf with hat -> goat with hat"', "Connect a mask to its Edit Object"),
    ),
    Case(
        "regions of other edits in CPAM",
        lambda w: cpam(w, edits=listed(HATS), regions=regions()),
        "ALECPAM",
        "the regions input has",
        ("CPAM: ", "1 objects", "2 ("),
    ),
    Case(
        "regions of another shape in CPAM",
        lambda w: cpam(w, edits=listed(), regions=regions(masks=boxes().repeat_interleave(2, 1))),
        "ALECPAM",
        "their shapes differ",
        ("CPAM: ", "128x64", "64x64"),
    ),
    Case(
        "removal of the whole image",
        lambda w: cpam(w, strategy="remove", edits=masked()),
        "ALECPAM",
        "the masks cover the whole image",
        ("CPAM: ", "no background to fill them with", "invert the mask"),
    ),
    Case(
        "a background of nothing",
        lambda w: cpam(w, strategy="background", edits=masked()),
        "ALECPAM",
        "the masks cover the whole image",
        ("CPAM: ", "no background to change"),
    ),
    Case(
        "a mask between the pixels that the published code reads",
        lambda w: cpam(w, edits=set_variant(tiny_mask(), "published code")),
        "ALECPAM",
        "covers no cell of the",
        ("CPAM: ", "8x8", "choose the variant paper"),
    ),
    Case(
        "a mask of another size between the pixels that the published code reads",
        lambda w: cpam(
            w,
            edits=set_variant(listed("wolf -> goat"), "published code"),
            regions=regions_of_speck(256, 16),
        ),
        "ALECPAM",
        "covers no cell of the",
        ("CPAM: ", "8x8", "choose the variant paper"),
    ),
    Case(
        "a mask that is to follow a phrase that the prompt does not have",
        lambda w: cpam(w, strategy="replace (refined)", edits=in_other_prompt()),
        "ALECPAM",
        "so the mask cannot follow it",
        ("CPAM: ", '"goat"', '"a small cat"', "choose the strategy replace"),
    ),
]
