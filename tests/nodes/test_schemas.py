"""What every node says of itself, and that it stays so: ids, sockets and widgets are permanent."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ale_edit.tests.nodes.graph import nodes, schema

SNAPSHOT = Path(__file__).with_name("schemas.json")
RENEW = "ALE_EDIT_RENEW_SCHEMAS"
CATEGORIES = ("prompts", "regions", "model", "sampling", "inversion", "editors", "scores", "demo")
PACK = Path(__file__).resolve().parents[2]
NODE_IDS = sorted(json.loads(SNAPSHOT.read_text(encoding="utf-8"))) if SNAPSHOT.is_file() else []

every_node = pytest.mark.parametrize("node_id", NODE_IDS)


def snapshot(node_id: str) -> dict[str, Any]:
    """All that a saved workflow or a reader of the graph depends on."""
    given = schema(node_id)
    return {
        "display_name": given.display_name,
        "category": given.category,
        "description": given.description,
        "is_output_node": given.is_output_node,
        "is_deprecated": given.is_deprecated,
        "is_experimental": given.is_experimental,
        "inputs": [
            {"id": i.id, "type": i.io_type, "optional": i.optional, **i.as_dict()}
            for i in given.inputs
        ],
        "outputs": [
            {"name": o.display_name, "type": o.io_type, "tooltip": o.tooltip} for o in given.outputs
        ],
    }


def test_no_schema_has_changed() -> None:
    current = {node_id: snapshot(node_id) for node_id in sorted(nodes())}
    if os.environ.get(RENEW):
        text = json.dumps(current, indent=1, ensure_ascii=False) + "\n"
        SNAPSHOT.write_text(text, encoding="utf-8", newline="\n")
    expected = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    assert current == expected, (
        "A node's schema is not the recorded one; saved workflows may no longer load. If the "
        f"change is meant: {RENEW}=1 python -m pytest tests/nodes/test_schemas.py, then a line in "
        "CHANGELOG.md that says whether saved workflows still load."
    )


def test_there_are_forty_three_nodes() -> None:
    assert len(nodes()) == 44


@every_node
def test_comfyui_accepts_the_schema(node_id: str) -> None:
    given = schema(node_id)
    given.validate()
    assert node_id.startswith("ALE")
    assert given.category in {f"ALE-Edit/{name}" for name in CATEGORIES}
    nodes()[node_id].GET_NODE_INFO_V1()


@every_node
def test_everything_is_described(node_id: str) -> None:
    given = schema(node_id)
    assert given.description and given.description.endswith(".")
    for entry in (*given.inputs, *given.outputs):
        assert entry.tooltip and entry.tooltip.endswith("."), entry
    assert all(made.display_name for made in given.outputs)


@every_node
def test_optional_inputs_come_last(node_id: str) -> None:
    optional = [entry.optional for entry in schema(node_id).inputs]
    assert optional == sorted(optional)


@every_node
def test_every_number_has_a_range_that_holds_its_default(node_id: str) -> None:
    numbers = [i for i in schema(node_id).inputs if i.io_type in ("INT", "FLOAT")]
    assert all(i.min <= i.default <= i.max for i in numbers)


@every_node
def test_every_seed_says_whether_the_front_end_changes_it(node_id: str) -> None:
    seeds = [i for i in schema(node_id).inputs if i.id in ("seed", "noise_seed")]
    assert all(i.control_after_generate is not None for i in seeds)
