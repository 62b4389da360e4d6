"""What no widget gives, but a broken node or a client of the API: refused by name in a sentence
that every log can hold."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ale_edit.host.inputs import SOCKETS, readable
from ale_edit.tests.nodes.graph import nodes, one, picture, run, schema
from ale_edit.tests.nodes.test_schemas import NODE_IDS

OPEN = [
    (node_id, entry.id, entry.io_type)
    for node_id in NODE_IDS
    for entry in schema(node_id).inputs
    if entry.io_type in SOCKETS
]


def refusal(node_id: str, **inputs: Any) -> str:
    """What a node says; its other inputs are not looked at before the wrong one."""
    listed = schema(node_id).is_input_list
    with pytest.raises(ValueError) as error:
        nodes()[node_id].execute(**{k: [v] if listed else v for k, v in inputs.items()})
    return str(error.value)


@pytest.mark.parametrize(("node_id", "name", "kind"), OPEN, ids=lambda value: str(value))
@pytest.mark.parametrize("value", ["photo.png", 7, {}], ids=["text", "number", "dict"])
def test_every_socket_refuses_what_is_none_of_its_type(
    node_id: str, name: str, kind: str, value: Any
) -> None:
    said = refusal(node_id, **{name: value})
    title = schema(node_id).display_name.partition(" (")[0]
    assert said.startswith(f"{title}: the {name} input holds ")
    assert f", but needs {kind}. Connect " in said and said.endswith(".")


def test_every_type_of_socket_of_the_pack_is_known() -> None:
    widgets = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
    found = {entry.io_type for node_id in NODE_IDS for entry in schema(node_id).inputs}
    assert found - widgets == set(SOCKETS)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_refused_with_its_limits(value: float) -> None:
    said = refusal("ALERegions", dilation=value)
    assert said == (
        f"Regions: the dilation input is {value}, which is not a number. Set it between 0.0 and "
        "0.25."
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_picture_or_mask_that_is_not_finite_is_refused(value: float) -> None:
    image, mask = picture(), torch.ones(1, 64, 64)
    image[0, 3, 4, 1] = mask[0, 3, 4] = value
    assert "Paste Background: the edited input holds numbers" in refusal(
        "ALEPasteBackground", edited=image
    )
    assert "Edit Object: the mask input holds numbers" in refusal("ALEEditObject", mask=mask)


@pytest.mark.parametrize("shape", [(1, 0, 32), (0, 77, 32), (77, 32)])
def test_a_text_without_tokens_is_refused(shape: tuple[int, ...]) -> None:
    said = refusal("ALETwoBranchGuider", negative=[[torch.zeros(shape), {}]])
    assert said.startswith(
        f"Two-Branch Guider: the negative input holds a text of the shape {shape}"
    )
    assert said.endswith("Connect CLIP Text Encode, or Object-Restricted Embeddings.")


@pytest.mark.parametrize("text", ["red \ud83d ball", "\udc00"])
def test_half_a_character_is_refused_in_a_sentence_that_a_log_can_hold(text: str) -> None:
    for node_id, name in (("ALEEditList", "text"), ("ALEMethodSettings", "variant")):
        said = refusal(node_id, **{name: text})
        said.encode("utf-8")
        assert f"the {name} input holds half a character (U+D" in said


def test_a_long_text_is_shown_in_short_and_on_one_line() -> None:
    said = refusal("ALEEditList", text="red " * 5000)
    assert said.startswith('Edit List: line 1 of the text, "red red ') and len(said) < 400
    assert 'red ...", has no "->". Write each edit on a line' in said
    assert "\n" not in refusal("ALEMethodSettings", edits=one("ALEEditList"), variant="a\nb")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('Regions: the mask of "box" is empty.', 'Regions: the mask of "box" is empty.'),
        ("one\n  two", "one two"),
        ('"' + "x" * 120 + '" fits', '"' + "x" * 120 + '" fits'),
        ('"' + "x" * 121 + '" and "y"', '"' + "x" * 120 + '..." and "y"'),
        ("a\0b\u202ec", "a\\u0000b\\u202ec"),
        ("狼 -> 山羊, größer 🐺", "狼 -> 山羊, größer 🐺"),
    ],
)
def test_an_error_is_readable(text: str, shown: str) -> None:
    assert readable(text) == shown


def test_an_open_optional_input_is_fine() -> None:
    assert run("ALEEditObject", source="box", target="ring", mask=None, previous=None)
