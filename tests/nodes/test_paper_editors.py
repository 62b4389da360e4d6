"""Every editor's node from end to end on tiny real models."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.editors import COMPARED, EDITORS, cpam, mag_edit
from ale_edit.editors.editor import Editor
from ale_edit.prompts.edits import set_variant
from ale_edit.tests.nodes.graph import nodes, one, picture, schema
from ale_edit.tests.tiny import edits_of, two_boxes

every_editor = pytest.mark.parametrize("editor", EDITORS, ids=lambda editor: editor.name)
every_editor_made_from_settings = pytest.mark.parametrize(
    "editor", COMPARED, ids=lambda editor: editor.name
)
TEXT = "wolf with red hat -> goat with red hat"
STEPS = 4
FEW_UPDATES = {"dpl": {"updates": 1, "null_updates": 1}}
Edit = Callable[..., Tensor]


def masked(height: int = 64, width: int = 64) -> Any:
    """The edit with a mask, which ALE Edit needs."""
    (item,) = one("ALEEditList", text=TEXT).items
    mask = torch.zeros(height, width)
    mask[: height // 2] = 1
    return one("ALEEditObject", source=item.source, target=item.target, mask=mask)


@pytest.fixture
def edit(editor: Editor, model: Any, clip: Any, vae: Any) -> Edit:
    """The editor's node in few steps; what is not given is the tiny world's."""

    def run_node(**inputs: Any) -> Tensor:
        usual = {"model": model, "clip": clip, "vae": vae, "steps": STEPS, "image": picture()}
        usual |= FEW_UPDATES.get(editor.name, {})
        usual["edits"] = masked(*inputs.get("image", usual["image"]).shape[1:3])
        if isinstance(inputs.get("negative"), str):
            tokens = clip.tokenize(inputs["negative"])
            inputs = {**inputs, "negative": clip.encode_from_tokens_scheduled(tokens)}
        return one(editor.node_id, **{**usual, **inputs})

    return run_node


@every_editor
def test_the_image_comes_back_edited_at_the_sources_size(edit: Edit) -> None:
    source = picture(height=67, width=93)
    image = edit(image=source)
    assert image.shape == source.shape and bool(torch.isfinite(image).all())
    assert not torch.equal(image, source)


@every_editor
def test_item_j_of_a_batch_is_the_single_run_at_seed_plus_j(edit: Edit) -> None:
    batch = edit(image=picture(2), seed=7)
    for j in range(2):
        single = edit(image=picture(seed=11 + j), seed=7 + j)
        torch.testing.assert_close(batch[j], single[0], rtol=0, atol=1e-4)


@every_editor
def test_the_same_inputs_give_the_same_image_and_leave_the_model_as_it_was(
    edit: Edit, model: Any
) -> None:
    before = str(model.model_options)
    assert torch.equal(edit(), edit())
    assert str(model.model_options) == before
    assert not model.wrappers and not model.patches


@pytest.mark.parametrize("editor", [cpam.EDITOR, mag_edit.EDITOR], ids=lambda e: e.name)
def test_a_mask_of_another_size_counts_at_the_size_of_the_image(edit: Edit) -> None:
    """These 3x3 pixels hold none that nearest sampling reads of 64x64, but one of 128x128."""
    text = "wolf -> goat"
    mask = torch.zeros(1, 64, 64)
    mask[:, 3:6, 3:6] = 1
    regions = one("ALERegions", edits=one("ALEEditList", text=text), masks=mask, dilation=0.0)
    edits = set_variant(one("ALEEditList", text=text), "published code")
    image = edit(
        image=picture(height=128, width=128), edits=edits, regions=regions, inversion_method="DDIM"
    )
    assert bool(torch.isfinite(image).all())


@every_editor
def test_the_papers_negative_prompt_is_used_unless_another_is_connected(
    editor: Editor, edit: Edit, clip: Any
) -> None:
    def negative(text: str) -> Any:
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    own = TEXT.split(" -> ")[0] if editor.negative is None else editor.negative
    assert torch.equal(edit(negative=negative(own)), edit())
    assert not torch.equal(edit(negative=negative("a blurry picture")), edit())


@pytest.mark.parametrize(
    "editor",
    [
        e
        for e in EDITORS
        if e.grow_regions is None and e.find_mask is None and not e.has_edit_branches
    ],
    ids=lambda editor: editor.name,
)
def test_masks_of_the_edits_change_nothing(edit: Edit) -> None:
    """But for ALE Edit, whose regions they are, DiffEdit, which finds those that are not there, and
    LEDITS++, which keeps each edit inside its own."""
    assert torch.equal(edit(edits=one("ALEEditList", text=TEXT)), edit(edits=masked()))


FOUND = {"edits": one("ALEEditList", text=TEXT), "mask_threshold": 0.95, "mask_clamp": 1.0}
BY_WORDS = {"source_prompt": "edits", "source_words": "wolf", "target_words": "goat"}
LEARNED = {"updates": 20, "thresholds": 0.0}
RED_HAT = one("ALEEditList", text="red wolf -> red goat")
QUICK = {"inversion_method": "DDIM", "iterations": 0}
STRONG = {"inversion_method": "DDIM", "iterations": 2, "scale": 100.0, "blend_share": 0.0}
SOMEWHERE = {"places": "guidance"}  # random weights: the two masks have no place in common
SENTENCES = {"source_sentences": "a wolf", "target_sentences": "a goat"}
TWO_OBJECTS = {"edits": edits_of(masks=two_boxes())}
# for each setting, the inputs beside which it counts, and another value
CHANGES: dict[str, dict[str, tuple[dict[str, Any], Any]]] = {
    "infedit": {
        "steps": ({}, 3),
        "source_guidance": ({}, 3.0),
        "target_guidance": ({}, 5.0),
        "cross_share": ({}, 0.0),
        "self_share": ({}, 1.0),
        "target_blend": ({"target_threshold": 0.95}, "goat"),
        "source_blend": ({}, "hat"),
        "target_threshold": ({"target_blend": "goat"}, 0.95),
        "source_threshold": ({"source_blend": "hat"}, 0.95),
        "strength": ({}, 0.5),
        "script": ({}, "pie bench"),
    },
    "masactrl": {
        "steps": ({}, 3),
        "source_guidance": ({"source_prompt": "edits"}, 3.0),
        "target_guidance": ({}, 5.0),
        "start_step_share": ({}, 0.5),
        "start_layer_share": ({}, 0.0),
        "start_layer": ({}, 0),
        "strength": ({}, 0.5),
        "source_prompt": ({}, "edits"),
        "inversion_method": ({}, "DDIM"),
        "time_steps": ({}, "DDIM"),
        "keys": ({}, "union"),
        "source_words": (BY_WORDS, "hat"),
        "target_words": (BY_WORDS, "hat"),
        "mask_threshold": (BY_WORDS, 0.9),
    },
    "fpe": {
        "steps": ({}, 3),
        "source_guidance": ({"source_prompt": "edits", "inversion_method": "DDIM"}, 3.0),
        "target_guidance": ({}, 5.0),
        "strength": ({}, 0.5),
        "inversion_method": ({}, "DDIM"),
        "time_steps": ({}, "LCM"),
        "self_share": ({}, 0.25),
        "source_prompt": ({}, "edits"),
    },
    "pnp": {
        "steps": ({}, 3),
        "source_guidance": ({"inversion_method": "DDIM"}, 3.0),
        "target_guidance": ({}, 5.0),
        "strength": ({}, 0.5),
        "inversion_method": ({}, "DDIM"),
        "time_steps": ({}, "LCM"),
        "self_share": ({}, 0.25),
        "feature_share": ({}, 0.25),
    },
    "sdedit": {
        "steps": ({}, 3),
        "target_guidance": ({}, 5.0),
        "strength": ({}, 0.8),
        "time_steps": ({}, "LCM"),
    },
    "diffedit": {
        "steps": ({}, 3),
        "target_guidance": ({}, 5.0),
        "strength": ({}, 0.5),
        "time_steps": ({}, "LCM"),
        "source_prompt": ({}, "edits"),
        "mask_maps": (FOUND, 2),
        "mask_strength": (FOUND, 0.9),
        "mask_threshold": (FOUND, 0.7),
        "mask_clamp": (FOUND, 1.03),
    },
    "p2p": {
        "steps": ({}, 3),
        "source_guidance": ({}, 3.0),
        "target_guidance": ({}, 5.0),
        "strength": ({}, 0.5),
        "inversion_method": ({}, "direct"),
        "time_steps": ({}, "LCM"),
        "edit_mode": ({"edits": one("ALEEditList", text="hat on wolf -> wolf on hat")}, "replace"),
        "cross_share": ({}, 0.0),
        "self_share": ({}, 0.0),
        "reweight": ({}, "goat: 3"),
        "blend_words": ({"blend_threshold": 0.95}, "goat"),
        "subtract_words": ({"blend_words": "goat"}, "hat"),
        "blend_threshold": ({"blend_words": "goat"}, 0.9),
        "blend_start": ({"blend_words": "goat", "blend_threshold": 0.9}, 0.6),
        "ets_prompt": ({}, "goat hat"),
    },
    "mag-edit": {
        "steps": ({}, 3),
        "source_guidance": (QUICK, 3.0),
        "target_guidance": ({}, 5.0),
        "strength": (QUICK, 0.5),
        "inversion_method": ({}, "direct"),
        "time_steps": (QUICK, "LCM"),
        "constraint": (STRONG, "spatial ratio"),
        "scale": (STRONG, 10.0),
        "iterations": (STRONG, 0),
        "optimise_share": (STRONG, 1.0),
        "early_stop": ({**STRONG, "constraint": "spatial ratio", "iterations": 30}, True),
        "edit_words": ({**STRONG, "cross_share": 0.0}, "red"),
        "negative_words": (STRONG, "wolf"),
        "negative_scale": ({**STRONG, "negative_words": "wolf"}, 20.0),
        "cross_share": (QUICK, 0.0),
        "self_share": (QUICK, 0.0),
        "blend_share": (QUICK, 1.0),
    },
    "dpl": {
        "steps": ({}, 3),
        "source_guidance": ({}, 3.0),
        "target_guidance": ({}, 5.0),
        "strength": ({}, 0.5),
        "edit_mode": ({}, "replace"),
        "cross_share": ({}, 0.0),
        "self_share": ({}, 0.0),
        "reweight": ({}, "goat: 3"),
        "blend_words": ({"blend_threshold": 0.95}, "goat"),
        "subtract_words": ({"blend_words": "goat"}, "hat"),
        "blend_threshold": ({"blend_words": "goat"}, 0.9),
        "blend_start": ({"blend_words": "goat", "blend_threshold": 0.9}, 0.6),
        "time_steps": ({}, "LCM"),
        "nouns": (LEARNED, "hat"),
        "priors": (LEARNED, "masks"),
        "updates": (LEARNED, 0),
        "null_updates": ({}, 5),
        "thresholds": (LEARNED, 10.0),
        "adjective_binding": ({**LEARNED, "edits": RED_HAT}, True),
        "schedule": (LEARNED, "paper"),
    },
    "pix2pix-zero": {
        "steps": ({}, 3),
        "target_guidance": ({}, 2.0),
        "strength": ({}, 0.5),
        "inversion_method": ({}, "DDIM"),
        "time_steps": ({}, "LCM"),
        "attention_guidance": ({"attention_guidance": 10.0}, 0.0),
        "source_sentences": (SENTENCES, "a hat"),
        "target_sentences": (SENTENCES, "a hat"),
    },
    "ledits": {
        "steps": (SOMEWHERE, 3),
        "strength": (SOMEWHERE, 0.5),
        "edit_guidance": (SOMEWHERE, 10.0),
        "scales": (SOMEWHERE, "goat with red hat: -5"),
        "threshold": (SOMEWHERE, 0.5),
        "places": ({}, "everywhere"),
    },
    "cpam": {
        "strategy": ({}, "remove"),
        "steps": ({}, 3),
        "source_guidance": ({"inversion_method": "DDIM", "negative": "blurry"}, 3.0),
        "target_guidance": ({}, 5.0),
        "strength": ({}, 0.5),
        "inversion_method": ({}, "DDIM"),
        "time_steps": ({}, "LCM"),
        "expansion": ({}, 0.5),
        "plain_share": ({}, 0.9),
        "start_step_share": ({"strategy": "pose / view"}, 0.6),
        "start_layer_share": ({"strategy": "pose / view"}, 0.0),
        "mask_threshold": ({"strategy": "pose / view"}, 0.6),
        "object_texts": (TWO_OBJECTS, "each its own"),
    },
}


@pytest.mark.ci
@every_editor_made_from_settings
def test_every_setting_changes_the_image(editor: Editor, edit: Edit) -> None:
    settings = [field.name for field in dataclasses.fields(editor.settings)]
    assert list(CHANGES[editor.name]) == settings
    unchanged = [
        name
        for name, (beside, value) in CHANGES[editor.name].items()
        if float((edit(**beside) - edit(**{**beside, name: value})).abs().max()) < 1e-4
    ]
    assert unchanged == []


@every_editor_made_from_settings
def test_the_node_has_the_inputs_of_every_editor_and_its_settings_between_them(
    editor: Editor,
) -> None:
    """Those that a published node did not have come last, and so do an inversion, masks and
    regions."""
    names = [entry.id for entry in schema(editor.node_id).inputs]
    fields = dataclasses.fields(editor.settings)
    first, later = (
        [field.name for field in fields if bool(field.metadata.get("later")) is is_later]
        for is_later in (False, True)
    )
    task = ["model", "clip", "vae", "image", "edits", "seed"]
    reuse = ["reuse_source"] if editor.branches(editor.settings())[0].name == "source" else []
    inverts = editor.learn is not None or "inversion_method" in [*first, *later]
    inversion = ["inversion"] if inverts else []
    masks = [name for name, _ in editor.masks]
    regions = ["regions"] if editor.grow_regions is not None else []
    assert names == [*task, *first, *reuse, "negative", *later, *inversion, *masks, *regions]
    assert nodes()[editor.node_id].__name__ == editor.node_id
