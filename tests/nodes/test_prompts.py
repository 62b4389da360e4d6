"""Edit Object, Edit List, Full Prompts, Method Settings and ORE as nodes."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
import torch

from ale_edit.host.text.conditioning import ORE_KEY
from ale_edit.prompts.edits import MethodSettings
from ale_edit.tests.nodes.graph import TEXT, edits_with_masks, one, run
from ale_edit.tests.tiny import PAIRS, two_boxes

SETTINGS: dict[str, Any] = {
    "variant": "published code",
    "ore": False,
    "rgb_cam": False,
    "blending": False,
    "end_of_text": "zeros",
    "end_of_text_in_base": True,
    "overlap": "last object",
    "pooled": "source",
}
SENTENCES = {
    "source_prompt": "a photo of a wolf under a yellow moon",
    "target_prompt": "a photo of a brown-colored goat under a soccer ball",
}


def pairs(edits: Any) -> list[tuple[str, str]]:
    return [(edit.source, edit.target) for edit in edits.items]


def test_a_chain_of_edit_objects_keeps_the_order_and_each_mask() -> None:
    edits = edits_with_masks()
    assert pairs(edits) == list(PAIRS)
    for edit, mask in zip(edits.items, two_boxes(64, 64), strict=True):
        torch.testing.assert_close(edit.mask, mask, rtol=0, atol=0)


def test_a_longer_chain_leaves_the_shorter_one_as_it_was() -> None:
    first = one("ALEEditObject", source="wolf", target="goat")
    one("ALEEditObject", source="moon", target="ball", previous=first)
    one("ALEEditObject", source="sea", target="sand", previous=first)
    assert pairs(first) == [("wolf", "goat")]


@pytest.mark.parametrize("shape", [(8, 6), (1, 8, 6), (1, 1, 8, 6)])
def test_a_mask_of_any_of_comfyuis_shapes_is_one_object(shape: tuple[int, ...]) -> None:
    edits = one("ALEEditObject", source="wolf", target="goat", mask=torch.ones(shape))
    assert edits.items[0].mask.shape == (8, 6)


def test_blanks_around_a_phrase_do_not_matter() -> None:
    edits = one("ALEEditObject", source="  wolf \n", target="\tgoat ")
    assert pairs(edits) == [("wolf", "goat")]


def test_a_list_is_a_chain_without_masks() -> None:
    text = f"# two edits\n\n{TEXT.replace('->', '  →')}\n"
    edits = one("ALEEditList", text=text)
    assert pairs(edits) == list(PAIRS)
    assert [edit.mask for edit in edits.items] == [None, None]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("wolf -> goat\n\nmoon ball", 3),
        ("# moon\nmoon -> ball -> sun", 2),
        ("wolf -> goat\n -> ", 2),
    ],
    ids=["no arrow", "two arrows", "two empty sides"],
)
def test_an_error_in_a_list_names_its_line(text: str, line: int) -> None:
    with pytest.raises(ValueError, match=rf"^Edit List: line {line} of the text"):
        one("ALEEditList", text=text)


def test_a_side_may_be_empty_in_a_list_and_in_a_chain() -> None:
    listed = one("ALEEditList", text="wolf ->\n-> hat\nmoon -> nothing")
    chain = one("ALEEditObject", source="wolf", target=" ")
    chain = one("ALEEditObject", source="", target="hat", previous=chain)
    chain = one("ALEEditObject", source="moon", target="nothing", previous=chain)
    assert pairs(listed) == pairs(chain) == [("wolf", ""), ("", "hat"), ("moon", "nothing")]
    for edits in (listed, chain):
        assert (edits.prompt("source"), edits.prompt("target")) == (
            "wolf and moon",
            "hat and nothing",
        )


def test_settings_sentences_and_edits_travel_together() -> None:
    """In whatever order the nodes are wired."""
    listed = one("ALEEditList", text=TEXT)
    prompts_first = one(
        "ALEMethodSettings", edits=one("ALEFullPrompts", edits=listed, **SENTENCES), **SETTINGS
    )
    settings_first = one(
        "ALEFullPrompts", edits=one("ALEMethodSettings", edits=listed, **SETTINGS), **SENTENCES
    )
    for edits in (prompts_first, settings_first):
        more = one("ALEEditObject", source="sea", target="sand", previous=edits)
        assert pairs(more) == [*PAIRS, ("sea", "sand")]
        assert more.settings == MethodSettings(**SETTINGS)
        assert more.source_prompt == SENTENCES["source_prompt"]
        assert more.target_prompt == SENTENCES["target_prompt"]


def test_empty_sentences_are_no_sentences() -> None:
    edits = one("ALEFullPrompts", edits=one("ALEEditList"), source_prompt=" \n", target_prompt="")
    assert (edits.source_prompt, edits.target_prompt) == (None, None)


def test_the_widgets_of_method_settings_are_the_methods_settings() -> None:
    assert set(SETTINGS) == {field.name for field in fields(MethodSettings)}
    assert one("ALEMethodSettings", edits=one("ALEEditList")).settings == MethodSettings()


def test_embeddings_carry_the_settings_into_the_conditioning(clip: Any) -> None:
    edits = one("ALEMethodSettings", edits=one("ALEEditList", text=TEXT), **SETTINGS)
    for conditioning in run("ALEObjectRestrictedEmbeddings", clip=clip, edits=edits):
        assert conditioning[0][1][ORE_KEY].settings == MethodSettings(**SETTINGS)


def test_both_outputs_are_ordinary_conditionings_of_their_own_phrases(clip: Any) -> None:
    edits = one("ALEEditList", text=TEXT)
    source, target = run("ALEObjectRestrictedEmbeddings", clip=clip, edits=edits)
    for conditioning, side in ((source, 0), (target, 1)):
        ((tensor, extras),) = conditioning
        assert tensor.shape == (1, 77, 32)
        assert extras["pooled_output"].shape == (1, 32)
        assert extras[ORE_KEY].values.shape == (3, 77, 32)
        assert extras[ORE_KEY].phrases == tuple(pair[side] for pair in PAIRS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("variant", "published code"),
        ("ore", False),
        ("end_of_text", "naive"),
        ("end_of_text", "zeros"),
        ("end_of_text", "bos"),
        ("end_of_text", "empty string"),
    ],
)
def test_each_text_setting_changes_the_embeddings(clip: Any, name: str, value: Any) -> None:
    edits = one("ALEEditList", text=TEXT)
    changed = one("ALEMethodSettings", edits=edits, **{name: value})
    assert not torch.equal(values(clip, edits), values(clip, changed))


@pytest.mark.parametrize("strategy", ["zeros", "bos", "empty string"])
def test_end_of_text_in_base_changes_the_backgrounds_embedding(clip: Any, strategy: str) -> None:
    edits = one("ALEEditList", text=TEXT)
    objects = one("ALEMethodSettings", edits=edits, end_of_text=strategy)
    everywhere = one(
        "ALEMethodSettings", edits=edits, end_of_text=strategy, end_of_text_in_base=True
    )
    without, with_base = values(clip, objects), values(clip, everywhere)
    assert torch.equal(without[:-1], with_base[:-1])
    assert not torch.equal(without[-1], with_base[-1])


def test_full_prompts_change_the_embeddings(clip: Any) -> None:
    edits = one("ALEEditList", text=TEXT)
    sentences = one("ALEFullPrompts", edits=edits, **SENTENCES)
    assert not torch.equal(values(clip, edits), values(clip, sentences))


def values(clip: Any, edits: Any) -> torch.Tensor:
    """ORE_1, ORE_2 and e'_base of the target."""
    _, target = run("ALEObjectRestrictedEmbeddings", clip=clip, edits=edits)
    return target[0][1][ORE_KEY].values
