"""Bad input of MasaCtrl.

Imported by tests as `ale_edit.tests.nodes.bad_masactrl`.
"""

from __future__ import annotations

from typing import Any

import torch

from ale_edit.tests.nodes.bad_editors import HATS, edit_by
from ale_edit.tests.nodes.bad_input import Case, World, listed
from ale_edit.tests.nodes.graph import picture


def masked(world: World, **inputs: Any) -> Any:
    masks = {"source_mask": torch.ones(1, 64, 64), "target_mask": torch.ones(1, 64, 64)}
    return edit_by("ALEMasaCtrl", world, **{**masks, **inputs})


def by_words(world: World, **inputs: Any) -> Any:
    usual = {"source_prompt": "edits", "source_words": "wolf", "target_words": "goat"}
    return edit_by("ALEMasaCtrl", world, edits=listed(HATS), **{**usual, **inputs})


MASACTRL_CASES = [
    Case(
        "a start layer beyond the last",
        lambda w: edit_by("ALEMasaCtrl", w, start_layer=10),
        "ALEMasaCtrl",
        "start_layer is",
        ("MasaCtrl: ", "start_layer is 10", "10 self-attention layers, 0 to 9", "-1"),
    ),
    Case(
        "a source prompt of another kind",
        lambda w: edit_by("ALEMasaCtrl", w, source_prompt="other"),
        "ALEMasaCtrl",
        "the source_prompt input is",
        ("MasaCtrl: ", '"other"', "empty, edits"),
    ),
    Case(
        "keys of another kind",
        lambda w: edit_by("ALEMasaCtrl", w, keys="other"),
        "ALEMasaCtrl",
        "the keys input is",
        ("MasaCtrl: ", '"other"', "source, union"),
    ),
    Case(
        "a mask of the source alone",
        lambda w: masked(w, target_mask=None),
        "ALEMasaCtrl",
        "is connected, but",
        ("MasaCtrl: ", "source_mask is connected, but target_mask is not"),
    ),
    Case(
        "a mask of the target alone",
        lambda w: masked(w, source_mask=None),
        "ALEMasaCtrl",
        "is connected, but",
        ("MasaCtrl: ", "target_mask is connected, but source_mask is not"),
    ),
    Case(
        "a mask of the target without a pixel",
        lambda w: masked(w, target_mask=torch.zeros(1, 64, 64)),
        "ALEMasaCtrl",
        "is empty: no pixel is 0.5 or more",
        ("MasaCtrl: ", '"target_mask"'),
    ),
    Case(
        "a mask of the second image without a pixel",
        lambda w: masked(
            w, source_mask=torch.eye(2)[0].view(2, 1, 1).expand(2, 64, 64), image=picture(2)
        ),
        "ALEMasaCtrl",
        "is empty: no pixel is 0.5 or more",
        ("MasaCtrl: image 2: ", '"source_mask"'),
    ),
    Case(
        "three masks of the source for two images",
        lambda w: masked(w, source_mask=torch.ones(3, 64, 64), image=picture(2)),
        "ALEMasaCtrl",
        "masks, where one is needed",
        ("MasaCtrl: ", "source_mask input holds 3 masks", "or 2, one for each image"),
    ),
    Case(
        "no mask in a mask of the source",
        lambda w: masked(w, source_mask=torch.ones(0, 64, 64)),
        "ALEMasaCtrl",
        "masks, where one is needed",
        ("MasaCtrl: ", "source_mask input holds 0 masks"),
    ),
    Case(
        "a mask of another shape in MasaCtrl",
        lambda w: masked(w, target_mask=torch.ones(1, 64, 32)),
        "ALEMasaCtrl",
        "their shapes differ",
        ("MasaCtrl: target_mask: ", "64x32", "64x64"),
    ),
    Case(
        "masks and words for masks",
        lambda w: masked(w, source_words="wolf"),
        "ALEMasaCtrl",
        "ask for masks from words",
        ("MasaCtrl: ", "source_mask and target_mask", "source_words"),
    ),
    Case(
        "masks beside the union of keys",
        lambda w: masked(w, keys="union"),
        "ALEMasaCtrl",
        "masks do not go with keys",
        ("MasaCtrl: ", "keys union"),
    ),
    Case(
        "words of the source alone",
        lambda w: edit_by("ALEMasaCtrl", w, source_prompt="edits", source_words="wolf"),
        "ALEMasaCtrl",
        "into both, or into neither",
        ("MasaCtrl: ", 'source_words is "wolf"', "target_words is empty"),
    ),
    Case(
        "words of the target alone",
        lambda w: edit_by("ALEMasaCtrl", w, source_prompt="edits", target_words="goat"),
        "ALEMasaCtrl",
        "into both, or into neither",
        ("MasaCtrl: ", 'target_words is "goat"', "source_words is empty"),
    ),
    Case(
        "words of an empty source prompt",
        lambda w: by_words(w, source_prompt="empty"),
        "ALEMasaCtrl",
        "source_prompt is empty, which has no words",
        ("MasaCtrl: ", 'source_words is "wolf"'),
    ),
    Case(
        "a word that the source prompt does not have",
        lambda w: by_words(w, source_words="wolf, sky"),
        "ALEMasaCtrl",
        "does not occur in the source prompt",
        ("MasaCtrl: ", '"sky" of source_words', '"wolf with hat"'),
    ),
    Case(
        "a word that the target prompt does not have",
        lambda w: by_words(w, target_words="wolf"),
        "ALEMasaCtrl",
        "does not occur in the target prompt",
        ("MasaCtrl: ", '"wolf" of target_words', '"goat with hat"'),
    ),
]
