"""Bad input of DiffEdit Mask and DiffEdit.

Imported by tests as `ale_edit.tests.nodes.bad_diffedit`.
"""

from __future__ import annotations

from typing import Any

import torch

from ale_edit.tests.nodes.bad_editors import HATS, edit_by, with_prompts
from ale_edit.tests.nodes.bad_input import Case, World, listed
from ale_edit.tests.nodes.bad_models import CLIP_OF_ANOTHER, NO_UNET
from ale_edit.tests.nodes.graph import one, picture

TWO = "wolf -> goat\nmoon -> ball"


def find(world: World, text: str = HATS, prompts: Any = ("", ""), **inputs: Any) -> Any:
    usual = {"model": world.model, "clip": world.clip, "vae": world.vae, "maps": 1}
    usual |= {"image": picture(), "edits": with_prompts(text, prompts)}
    return one("ALEDiffEditMask", **{**usual, **inputs})


def diffedit(world: World, text: str = HATS, prompts: Any = ("", ""), **inputs: Any) -> Any:
    usual = {"edits": with_prompts(text, prompts), "mask_maps": 1}
    return edit_by("ALEDiffEdit", world, **{**usual, **inputs})


def half_masked() -> Any:
    first = one("ALEEditObject", source="wolf", target="goat", mask=torch.ones(1, 64, 64))
    return one("ALEEditObject", source="moon", target="ball", previous=first)


DIFFEDIT_CASES = [
    Case(
        "an object to add in DiffEdit Mask",
        lambda w: find(w, "wolf -> goat\n-> moon"),
        "ALEDiffEditMask",
        "adds an object, which cannot be found",
        ("DiffEdit Mask: ", '" -> moon"', "Paint a mask"),
    ),
    Case(
        "no text encoder in DiffEdit Mask",
        lambda w: find(w, clip=None),
        "ALEDiffEditMask",
        "the clip input is empty",
        ("DiffEdit Mask: ", "SD 1.5"),
    ),
    Case(
        "no text encoder in DiffEdit",
        lambda w: diffedit(w, clip=None),
        "ALEDiffEdit",
        "the clip input is empty",
        ("DiffEdit: ", "SD 1.5"),
    ),
    Case(
        "an edit that changes nothing in DiffEdit Mask",
        lambda w: find(w, "wolf -> goat\nmoon -> moon"),
        "ALEDiffEditMask",
        "are the same to this model",
        ("DiffEdit Mask: ", 'source prompt ("wolf and moon")', 'target prompt ("wolf and moon")'),
    ),
    Case(
        "an edit that changes nothing in DiffEdit",
        lambda w: diffedit(w, "wolf -> wolf"),
        "ALEDiffEdit",
        "are the same to this model",
        ("DiffEdit: ", 'source prompt ("wolf")', 'target prompt ("wolf")', "no place differs"),
    ),
    Case(
        "a mask that is empty in DiffEdit Mask",
        lambda w: find(w, TWO, threshold=0.99, clamp=20.0),
        "ALEDiffEditMask",
        "no place is above threshold",
        ("DiffEdit Mask: ", '"wolf -> goat"', "threshold 0.99", "Lower threshold or clamp"),
        calls=1,
    ),
    Case(
        "a mask that is empty in DiffEdit",
        lambda w: diffedit(w, mask_threshold=0.99, mask_clamp=20.0),
        "ALEDiffEdit",
        "no place is above threshold",
        ("DiffEdit: ", "threshold 0.99", "Lower mask_threshold or mask_clamp"),
        calls=1,
    ),
    Case(
        "a target prompt without words in DiffEdit Mask",
        lambda w: find(w, prompts=("", "()")),
        "ALEDiffEditMask",
        "has no word",
        ("DiffEdit Mask: ", 'target prompt ("()")'),
    ),
    Case(
        "a target prompt without words in DiffEdit",
        lambda w: diffedit(w, prompts=("", "()")),
        "ALEDiffEdit",
        "has no word",
        ("DiffEdit: ", 'target prompt ("()")'),
    ),
    Case(
        "a phrase that the full source prompt does not have",
        lambda w: find(w, TWO, prompts=("a wolf below a lamp", "")),
        "ALEDiffEditMask",
        "does not occur in the source_prompt",
        ("DiffEdit Mask: ", '"moon"', '"a wolf below a lamp"'),
    ),
    Case(
        "masks of some edits in DiffEdit",
        lambda w: diffedit(w, edits=half_masked()),
        "ALEDiffEdit",
        "some of the edits have a mask",
        ("DiffEdit: ", '"moon" has none', "Edit Object"),
    ),
    Case(
        "Flux in DiffEdit Mask",
        lambda w: find(w, model=w.flux),
        "ALEDiffEditMask",
        NO_UNET,
        ("DiffEdit Mask", "model input", "Flux"),
    ),
    Case(
        "text encoder of another model in DiffEdit Mask",
        lambda w: find(w, clip=w.other_clip),
        "ALEDiffEditMask",
        CLIP_OF_ANOTHER,
        ("DiffEdit Mask", "clip", "64 channels", "32"),
    ),
    Case(
        "text encoder of another model where DiffEdit finds its mask",
        lambda w: diffedit(w, clip=w.other_clip),
        "ALEDiffEdit",
        CLIP_OF_ANOTHER,
        ("DiffEdit: ", "clip", "64 channels", "32"),
    ),
    Case(
        "Flux where DiffEdit finds its mask",
        lambda w: diffedit(w, model=w.flux),
        "ALEDiffEdit",
        NO_UNET,
        ("DiffEdit: ", "model input", "Flux"),
    ),
    Case(
        "too little strength where DiffEdit finds its mask",
        lambda w: diffedit(w, strength=0.1),
        "ALEDiffEdit",
        "leave no step to sample",
        ("DiffEdit: ", "4 steps", "strength 0.1"),
    ),
    Case(
        "image too small for DiffEdit Mask",
        lambda w: find(w, image=picture(height=4)),
        "ALEDiffEditMask",
        "at least 8 pixels a side are needed",
        ("DiffEdit Mask", "image input", "4x64"),
    ),
    Case(
        "a source prompt of another kind in DiffEdit",
        lambda w: diffedit(w, edits=listed(HATS), source_prompt="other"),
        "ALEDiffEdit",
        "the source_prompt input is",
        ("DiffEdit: ", '"other"', "empty, edits"),
    ),
]
