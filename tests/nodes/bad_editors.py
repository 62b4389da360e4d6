"""Bad input of the editors whose node is made from their settings.

Imported by tests as `ale_edit.tests.nodes.bad_editors`.
"""

from __future__ import annotations

from typing import Any

from ale_edit.editors import EDITORS
from ale_edit.tests.nodes.bad_input import Case, World, listed
from ale_edit.tests.nodes.bad_models import CLIP_OF_ANOTHER, NO_UNET
from ale_edit.tests.nodes.graph import one, picture

HATS = "wolf with hat -> goat with hat"


def edit_by(node_id: str, world: World, **inputs: Any) -> Any:
    usual = {"model": world.model, "clip": world.clip, "vae": world.vae, "steps": 4}
    usual |= {"image": picture(), "edits": listed()}
    return one(node_id, **{**usual, **inputs})


def infedit(world: World, text: str = HATS, **inputs: Any) -> Any:
    return edit_by("ALEInfEdit", world, edits=listed(text), **inputs)


EVERY_EDITOR_CASES = [
    case
    for editor in EDITORS
    for case in (
        Case(
            f"Flux in {editor.title}",
            lambda w, node_id=editor.node_id: edit_by(node_id, w, model=w.flux),
            editor.node_id,
            NO_UNET,
            (editor.title, "model input", "Flux"),
        ),
        Case(
            f"text encoder of another model in {editor.title}",
            lambda w, node_id=editor.node_id: edit_by(node_id, w, clip=w.other_clip),
            editor.node_id,
            CLIP_OF_ANOTHER,
            (editor.title, "clip", "64 channels", "32"),
        ),
        Case(
            f"a phrase without a word in {editor.title}",
            lambda w, node_id=editor.node_id: edit_by(node_id, w, edits=listed("() -> goat")),
            editor.node_id,
            "yields no tokens",
            (editor.title, "edits", 'source phrase "()"'),
        ),
        Case(
            f"image too small for {editor.title}",
            lambda w, node_id=editor.node_id: edit_by(node_id, w, image=picture(height=4)),
            editor.node_id,
            "at least 8 pixels a side are needed",
            (editor.title, "image input", "4x64"),
        ),
        Case(
            f"too little strength in {editor.title}",
            lambda w, node_id=editor.node_id: edit_by(node_id, w, strength=0.1),
            editor.node_id,
            "leave no step to sample",
            (editor.title, "4 steps", "strength 0.1"),
        ),
    )
]
INFEDIT_CASES = [
    Case(
        "a target blend word that is not in the prompt",
        lambda w: infedit(w, target_blend="sky"),
        "ALEInfEdit",
        "does not occur in the target prompt",
        ("InfEdit: ", "target blend", '"sky"', '"goat with hat"'),
    ),
    Case(
        "a source blend word that the target prompt has alone",
        lambda w: infedit(w, source_blend="goat"),
        "ALEInfEdit",
        "is not at the same place in the source prompt",
        ("InfEdit: ", "source blend", '"goat"', '"wolf with hat"', '"goat with hat"'),
    ),
    Case(
        "a source blend word that no prompt has",
        lambda w: infedit(w, source_blend="hat, sky"),
        "ALEInfEdit",
        "is not at the same place in the source prompt",
        ("InfEdit: ", '"sky"'),
    ),
    Case(
        "a local blend without a step",
        lambda w: infedit(w, target_blend="goat", steps=2),
        "ALEInfEdit",
        "the local blend runs between the first and the last step",
        ("InfEdit: ", "2 steps"),
    ),
    Case(
        "a target blend that is empty",
        lambda w: infedit(w, target_blend="goat", target_threshold=1.0),
        "ALEInfEdit",
        "the mask of the target blend is empty",
        ("InfEdit: ", "target_threshold 1.0"),
    ),
    Case(
        "a source blend that is empty",
        lambda w: infedit(w, source_blend="hat", source_threshold=1.0),
        "ALEInfEdit",
        "the mask of the source blend is empty",
        ("InfEdit: ", "source_threshold 1.0"),
    ),
    Case(
        "a script that nobody published",
        lambda w: infedit(w, script="other"),
        "ALEInfEdit",
        "the script input is",
        ("InfEdit: ", '"other"', "app, pie bench"),
    ),
]
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
]
EDITOR_CASES = [*EVERY_EDITOR_CASES, *INFEDIT_CASES, *MASACTRL_CASES]
