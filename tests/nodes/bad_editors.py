"""Bad input of every editor, and of those whose node is made from their settings.

Imported by tests as `ale_edit.tests.nodes.bad_editors`.
"""

from __future__ import annotations

from typing import Any

import torch

from ale_edit.editors import EDITORS, ledits
from ale_edit.inversion.stored import Inversion, Schedule
from ale_edit.tests.nodes.bad_input import Case, World, listed
from ale_edit.tests.nodes.bad_models import CLIP_OF_ANOTHER, NO_UNET
from ale_edit.tests.nodes.graph import edits_with_masks, one, picture

HATS = "wolf with hat -> goat with hat"


def edit_by(node_id: str, world: World, **inputs: Any) -> Any:
    usual = {"model": world.model, "clip": world.clip, "vae": world.vae, "steps": 4}
    usual |= {"image": picture(), "edits": edits_with_masks()}
    return one(node_id, **{**usual, **inputs})


def with_prompts(text: str, prompts: tuple[str, str]) -> Any:
    """Edits with whole prompts around them; an empty one is none."""
    source, target = prompts
    return one("ALEFullPrompts", edits=listed(text), source_prompt=source, target_prompt=target)


def masked(source: str = "wolf", height: int = 64) -> Any:
    """An edit with a mask, which every editor can take."""
    return one("ALEEditObject", source=source, target="goat", mask=torch.ones(height, 64))


def infedit(world: World, text: str = HATS, prompts: Any = ("", ""), **inputs: Any) -> Any:
    return edit_by("ALEInfEdit", world, edits=with_prompts(text, prompts), **inputs)


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
            lambda w, node_id=editor.node_id: edit_by(node_id, w, edits=masked("()")),
            editor.node_id,
            "yields no tokens",
            (editor.title, "edits", 'source phrase "()"'),
        ),
        Case(
            f"image too small for {editor.title}",
            lambda w, node_id=editor.node_id: edit_by(
                node_id, w, image=picture(height=4), edits=masked(height=4)
            ),
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
    if editor is not ledits.EDITOR or case.quote != "leave no step to sample"  # see bad_ledits.py
]
ABILITY_CASES = [
    Case(
        f"an object to {ability} in {editor.title}",
        lambda w, node_id=editor.node_id, sides=sides: edit_by(
            node_id, w, edits=one("ALEEditObject", **sides, mask=torch.ones(64, 64))
        ),
        editor.node_id,
        "which is not possible here",
        (f"{editor.title}: ", f'"{sides["source"]} -> {sides["target"]}"', ability, "Use CPAM"),
    )
    for editor in EDITORS
    for ability, sides in (
        ("remove", {"source": "wolf", "target": ""}),
        ("add", {"source": "", "target": "wolf"}),
    )
    if ability not in editor.abilities
]
INFEDIT_CASES = [
    Case(
        "prompts that align nowhere",
        lambda w: infedit(w, prompts=("()", "goat with hat")),
        "ALEInfEdit",
        "can be aligned",
        ("InfEdit: ", 'target prompt ("goat with hat")', 'source prompt ("()")', "of the edits"),
    ),
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
INVERTED = {
    editor.node_id: editor.title
    for editor in EDITORS
    if hasattr(editor.settings(), "inversion_method")
}
INVERTED_CASES = [
    case
    for node_id, title in INVERTED.items()
    for case in (
        Case(
            f"an inversion that nobody knows in {title}",
            lambda w, node_id=node_id: edit_by(node_id, w, inversion_method="other"),
            node_id,
            "the inversion_method input is",
            (f"{title}: ", '"other"', "virtual, DDIM, direct"),
        ),
        Case(
            f"time steps that nobody knows in {title}",
            lambda w, node_id=node_id: edit_by(node_id, w, time_steps="other"),
            node_id,
            "the time_steps input is",
            (f"{title}: ", '"other"', "DDIM, LCM"),
        ),
    )
]


def p2p(world: World, text: str = HATS, prompts: Any = ("", ""), **inputs: Any) -> Any:
    return edit_by("ALEP2P", world, edits=with_prompts(text, prompts), **inputs)


def inverted(prompt: str = "wolf with hat", size: int = 8) -> Inversion:
    """An inversion of an image of so many latent cells a side, in 4 steps."""
    latents = torch.zeros(5, 1, 4, size, size)
    return Inversion("DDIM", Schedule(4), (1.0,) * 5, latents, prompt, "another model")


P2P_CASES = [
    Case(
        "an inversion of another prompt",
        lambda w: p2p(w, inversion=inverted("a lamp")),
        "ALEP2P",
        "the inversion was made with",
        ("Prompt-to-Prompt: ", '"a lamp"', '"wolf with hat"'),
    ),
    Case(
        "replacing words of prompts of different lengths",
        lambda w: p2p(w, "wolf -> brown goat", edit_mode="replace"),
        "ALEP2P",
        "needs the same number of words in both prompts",
        ("Prompt-to-Prompt: ", '"wolf") has 1', '"brown goat") 2', "edit_mode", "refine"),
    ),
    Case(
        "an empty prompt in Prompt-to-Prompt",
        lambda w: p2p(w, prompts=("()", "goat with hat")),
        "ALEP2P",
        "prompt is empty",
        ("Prompt-to-Prompt: ", "source prompt"),
    ),
    Case(
        "a word to blend that is in no prompt",
        lambda w: p2p(w, blend_words="goat, sky"),
        "ALEP2P",
        "occurs neither in the source prompt",
        ("Prompt-to-Prompt: ", "blend_words", '"sky"', '"wolf with hat"', '"goat with hat"'),
    ),
    Case(
        "a word to subtract that is in no prompt",
        lambda w: p2p(w, blend_words="goat", subtract_words="sky"),
        "ALEP2P",
        "occurs neither in the source prompt",
        ("Prompt-to-Prompt: ", "subtract_words", '"sky"'),
    ),
    Case(
        "words to subtract from nothing",
        lambda w: p2p(w, subtract_words="hat"),
        "ALEP2P",
        "subtract_words takes places from",
        ("Prompt-to-Prompt: ", "blend_words"),
    ),
    Case(
        "a word to reweight that the source prompt has alone",
        lambda w: p2p(w, reweight="wolf: 2"),
        "ALEP2P",
        "of reweight does not occur in the target prompt",
        ("Prompt-to-Prompt: ", '"wolf"', '"goat with hat"'),
    ),
    *(
        Case(
            f"a factor that is none: {text}",
            lambda w, text=text: p2p(w, reweight=text),
            "ALEP2P",
            "which is not a word with a factor",
            ("Prompt-to-Prompt: ", "reweight", f'"{text}"'),
        )
        for text in ("goat", "goat: much", "goat: inf", ": 2")
    ),
    Case(
        "a factor in no step",
        lambda w: p2p(w, reweight="goat: 2", cross_share=0.0),
        "ALEP2P",
        "reweight applies in the steps of cross_share",
        ("Prompt-to-Prompt: ", "which is 0"),
    ),
    Case(
        "a local blend that begins behind the last step",
        lambda w: p2p(w, blend_words="goat", blend_start=1.0),
        "ALEP2P",
        "Lower blend_start",
        ("Prompt-to-Prompt: ", "blend_start 1 of 4 steps is step 4", "the last one is 3"),
    ),
    Case(
        "a local blend that is empty",
        lambda w: p2p(w, blend_words="goat", blend_threshold=1.0),
        "ALEP2P",
        "the mask of blend_words is empty",
        ("Prompt-to-Prompt: ", "blend_threshold 1"),
    ),
    Case(
        "an edit mode that nobody published",
        lambda w: p2p(w, edit_mode="other"),
        "ALEP2P",
        "the edit_mode input is",
        ("Prompt-to-Prompt: ", '"other"', "refine, replace"),
    ),
    Case(
        "a prompt without attributes that is longer",
        lambda w: p2p(w, ets_prompt="a goat with a hat"),
        "ALEP2P",
        "is longer than the prompt",
        ("Prompt-to-Prompt: ", '"a goat with a hat"', '"goat with hat"', "5 tokens", "most 3"),
    ),
]


def substitute(world: World, **inputs: Any) -> Any:
    return one("ALEEndTokenSubstitution", clip=world.clip, **inputs)


ETS_CASES = [
    Case(
        "a longer prompt without attributes",
        lambda w: substitute(w, prompt="goat", ets_prompt="a goat"),
        "ALEEndTokenSubstitution",
        "is longer than the prompt",
        ("End Token Substitution: ", '"a goat"', '"goat"', "2 tokens", "at most 1"),
    ),
    Case(
        "no words in the prompt without attributes",
        lambda w: substitute(w, ets_prompt=" "),
        "ALEEndTokenSubstitution",
        "yields no tokens",
        ("End Token Substitution: ", "ets_prompt"),
    ),
    Case(
        "the conditioning of another text encoder",
        lambda w: substitute(w, conditioning=w.plain("goat", w.other_clip)),
        "ALEEndTokenSubstitution",
        "channels, but the clip input gives",
        ("End Token Substitution: ", "conditioning input", "77 rows of 64", "77 of 32"),
    ),
    Case(
        "embeddings that choose their own end tokens",
        lambda w: substitute(w, conditioning=w.ore()[1]),
        "ALEEndTokenSubstitution",
        "choose their end tokens themselves",
        ("End Token Substitution: ", "conditioning input", "end_of_text"),
    ),
]


def see(world: World, **inputs: Any) -> Any:
    usual = {"model": world.model, "clip": world.clip, "vae": world.vae, "image": picture()}
    return one("ALEWordAttentionMaps", **{**usual, **inputs})


MAPS_CASES = [
    Case(
        "a word that the prompt does not have",
        lambda w: see(w, words="wolf, sky"),
        "ALEWordAttentionMaps",
        "of words does not occur in prompt",
        ("Word Attention Maps: ", '"sky"', '"grey wolf and yellow moon"'),
    ),
    Case(
        "a prompt without words",
        lambda w: see(w, prompt=""),
        "ALEWordAttentionMaps",
        "yields no tokens",
        ("Word Attention Maps: ", "prompt"),
    ),
    Case(
        "an inversion of another size to look at",
        lambda w: see(w, inversion=inverted(size=4)),
        "ALEWordAttentionMaps",
        "the inversion holds latents of",
        ("Word Attention Maps: ", "(1, 4, 4, 4)", "(1, 4, 8, 8)"),
    ),
    Case(
        "no steps to look at",
        lambda w: see(w, first_share=0.5, last_share=0.5),
        "ALEWordAttentionMaps",
        "leave none between them",
        ("Word Attention Maps: ", "first_share 0.5", "last_share 0.5", "10 steps"),
    ),
    Case(
        "Flux in Word Attention Maps",
        lambda w: see(w, model=w.flux),
        "ALEWordAttentionMaps",
        NO_UNET,
        ("Word Attention Maps", "model input", "Flux"),
    ),
]
EDITOR_CASES = [
    *EVERY_EDITOR_CASES,
    *ABILITY_CASES,
    *INFEDIT_CASES,
    *INVERTED_CASES,
    *P2P_CASES,
    *ETS_CASES,
    *MAPS_CASES,
]
