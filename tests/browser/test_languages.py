"""The front end in another language than English shows the pack's translations."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ale_edit.devtools.locales import CATEGORIES, NODES, SCHEMAS, nest, read
from ale_edit.tests.browser.front_end import IS_READY, START_MS
from ale_edit.tests.versions import TRANSLATED

SHOWN = """type => {
    const node = LiteGraph.createNode(type), {nodeData, category} = node.constructor
    const label = entry => [entry.name, entry.label ?? entry.localized_name]
    const labels = [...(node.inputs ?? []), ...(node.widgets ?? [])].map(label)
    return {title: node.title, description: nodeData.description, category: category.split('/')[1],
            inputs: Object.fromEntries(labels), outputs: node.outputs.map(entry => label(entry)[1])}
}"""


@pytest.mark.parametrize("node_id", ["ALERegions", "ALEInfEdit"])
def test_the_front_end_shows_the_texts_of_its_language(
    node_id: str, browser: Any, comfyui: Any
) -> None:
    page = browser.new_page(locale=TRANSLATED)
    page.goto(comfyui.url)
    page.wait_for_function(IS_READY, timeout=START_MS)
    shown = page.evaluate(SHOWN, node_id)
    page.close()
    texts = nest(read(TRANSLATED))
    node, schema = texts[NODES][node_id], json.loads(SCHEMAS.read_text(encoding="utf-8"))[node_id]
    assert shown["title"] == node["display_name"]
    assert shown["description"] == node["description"]
    assert shown["category"] == texts[CATEGORIES][schema["category"].split("/")[1]]
    names = {name: entry["name"] for name, entry in node["inputs"].items()}
    assert {name: shown["inputs"][name] for name in names} == names
    assert shown["outputs"] == [entry["name"] for entry in node["outputs"].values()]
