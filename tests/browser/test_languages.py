"""The front end in another language shows the pack's translations."""

from __future__ import annotations

from typing import Any

from ale_edit.devtools.locales import NODES, read
from ale_edit.tests.browser.conftest import VIEW
from ale_edit.tests.browser.front_end import FrontEnd

SHOWN = """type => {
    const node = LiteGraph.createNode(type)
    const inputs = (node.inputs ?? []).map(input => [input.name, input.label ?? input.localized_name])
    const widgets = (node.widgets ?? []).map(widget => [widget.name, widget.label])
    return {title: node.title, description: node.constructor.nodeData.description,
            category: node.constructor.category,
            inputs: Object.fromEntries([...widgets, ...inputs]),
            outputs: (node.outputs ?? []).map(output => output.label ?? output.localized_name)}
}"""


def test_the_front_end_in_chinese_shows_our_node_in_chinese(browser: Any, comfyui: Any) -> None:
    page = browser.new_page(viewport=VIEW)
    page.request.post(f"{comfyui.url}/settings", data={"Comfy.Locale": "zh"})
    try:
        FrontEnd(page, comfyui.url).start()
        shown = page.evaluate(SHOWN, "ALERegions")
    finally:
        page.request.post(f"{comfyui.url}/settings", data={"Comfy.Locale": "en"})
        page.close()
    print(shown)
    texts = read("zh")
    key = (NODES, "ALERegions")
    assert shown["title"] == texts[(*key, "display_name")]
