"""Every node has a help page that fits its schema."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from ale_edit.tests.nodes.graph import nodes, schema
from ale_edit.tests.nodes.test_schemas import NODE_IDS
from ale_edit.tests.workflows.graphs import (
    FURTHER,
    GALLERY,
    NAMES,
    OF_NODES,
    own_workflow,
    read_api,
)

PAGES = Path(__file__).resolve().parents[2] / "web" / "docs"
REPEATED = ("edits", "model", "image", "regions", "conditioning")  # inputs and outputs
SECTIONS = ["Inputs", "Outputs", "In the paper", "Typical mistakes", "See it in"]

every_node = pytest.mark.parametrize("node_id", NODE_IDS)


def page(node_id: str) -> str:
    return (PAGES / f"{node_id}.md").read_text(encoding="utf-8")


def row(node_id: str, name: str) -> str:
    """The row of the input's or output's table."""
    rows = [line for line in page(node_id).splitlines() if line.startswith(f"| `{name}` |")]
    assert len(rows) == 1 or name in REPEATED, (node_id, name)
    return rows[0]


def test_there_is_one_page_for_each_node_and_no_other() -> None:
    assert sorted(path.stem for path in PAGES.glob("*.md")) == sorted(nodes())


@every_node
def test_a_page_has_its_sections_in_order_under_the_nodes_name(node_id: str) -> None:
    lines = page(node_id).splitlines()
    assert lines[0] == f"# {schema(node_id).display_name}"
    assert [line[3:] for line in lines if line.startswith("## ")] == SECTIONS
    assert "**Use it**" in page(node_id)


@every_node
def test_a_page_explains_each_input_with_its_range_default_and_choices(node_id: str) -> None:
    for entry in schema(node_id).inputs:
        text = row(node_id, entry.id)
        if entry.io_type in ("INT", "FLOAT") and entry.id != "seed":
            assert f"efault {entry.default}" in text, entry.id
            assert f"from {entry.min} to {entry.max}" in text or _both_ends(text, entry), entry.id
        for choice in getattr(entry, "options", None) or ():
            assert f"`{choice}`" in text, (entry.id, choice)


def _both_ends(text: str, entry: Any) -> bool:
    """Whether a row that says what the ends of a range mean names them both."""
    return all(re.search(rf"\b{number}\b", text) for number in (entry.min, entry.max))


@every_node
def test_a_page_explains_each_output(node_id: str) -> None:
    for made in schema(node_id).outputs:
        assert row(node_id, made.display_name)


@every_node
def test_a_page_explains_nothing_that_is_not_there(node_id: str) -> None:
    tables = page(node_id).split("## In the paper")[0]
    named = re.findall(r"^\| `([^`]+)` \|", tables, flags=re.MULTILINE)
    given = schema(node_id)
    assert named == [e.id for e in given.inputs] + [made.display_name for made in given.outputs]


@every_node
def test_a_page_names_its_own_workflow_and_the_larger_ones_that_hold_the_node(node_id: str) -> None:
    holding = {
        name
        for name in GALLERY
        if node_id in {node["class_type"] for node in read_api(name).values()}
    }
    text = page(node_id).split("## See it in")[1]
    named = {name for name in re.findall(r"\*(\w+)\*", text) if name in NAMES}
    assert named == holding | {own_workflow(node_id), *FURTHER.get(node_id, ())}


@every_node
def test_a_page_links_to_its_own_workflow_as_the_server_gives_it(node_id: str) -> None:
    """The template browser lists no folder in workflows/; a link can be dragged onto the canvas."""
    names = [own_workflow(node_id), *FURTHER.get(node_id, ())]
    links = re.findall(r"\]\((.+?)\)", page(node_id).split("## See it in")[1])
    root = "/api/workflow_templates/ale-edit/nodes"
    assert links == [f"{root}/{name}.json" for name in names if name in OF_NODES]
