"""ComfyUI's front end as a person uses it: open a template, press Run, look, ask for help.

What is asked of the page besides clicks is read from its own objects (`app`, `LiteGraph`).
Imported by tests as `ale_edit.tests.browser.front_end`.
"""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ale_edit.tests.versions import PAGE
from ale_edit.tests.workflows.graphs import GALLERY

if TYPE_CHECKING:
    from playwright.sync_api import ConsoleMessage, Locator, Page

Json = dict[str, Any]

PACK = "ale-edit"
START_MS = 120_000
RUN_MS = 180_000
CLICKS, CLICK_MS = 6, 10_000
IS_READY = """() => window.app?.graph && window.LiteGraph
    && 'ALEEdit' in LiteGraph.registered_node_types && app.extensionManager?.workflow"""
ACTIVE = "() => app.extensionManager.workflow.activeWorkflow?.filename"
MARK_OLD = "() => app.graph._nodes.forEach(node => { node.wasBefore = true })"
IS_NEW = "() => app.graph._nodes.length && !app.graph._nodes.some(node => node.wasBefore)"
NODES = """() => app.graph._nodes.map(node => ({
    id: String(node.id), title: node.title, type: node.type,
    pos: [...node.pos], size: [...node.size],
    is_known: node.type in LiteGraph.registered_node_types,
    is_red: node.id in (app.lastNodeErrors ?? {}) || app.lastExecutionError?.node_id == node.id,
    widgets: (node.widgets ?? []).map(widget => widget.name),
    unlisted: (node.widgets ?? []).filter(widget => Array.isArray(widget.options?.values)
        && !widget.options.values.includes(widget.value)).map(widget => widget.name),
    awaited: (node.inputs ?? []).filter(input => input.widget).map(input => input.widget.name),
    pictures: (node.imgs ?? []).map(image => [image.src, image.naturalWidth]),
}))"""
GROUPS = "() => app.graph._groups.map(group => [...group.pos, ...group.size])"
EVENTS = """() => {
    const kinds = ['progress', 'b_preview', 'executed', 'execution_success', 'execution_error']
    window.heard = []
    window.listening ??= kinds.map(kind => app.api.addEventListener(kind, event =>
        window.heard.push([kind, event.detail instanceof Blob ? event.detail.size : event.detail])))
}"""
HAS_ENDED = """card => window.heard.some(([kind]) => /^execution_/.test(kind))
    || document.querySelector(card)"""
ARE_SHOWN = """ids => ids.every(id => {
    const pictures = app.graph.getNodeById(id).imgs ?? []
    return pictures.length && pictures.every(picture => picture.naturalWidth)
})"""
FIT = """([left, top, right, bottom]) => {
    const {canvas, graph} = app
    const box = (item, title) => [item.pos[0], item.pos[1] - title,
                                  item.pos[0] + item.size[0], item.pos[1] + item.size[1]]
    const boxes = [...graph._nodes.map(node => box(node, 30)),
                   ...graph._groups.map(group => box(group, 0))]
    const least = k => Math.min(...boxes.map(box => box[k]))
    const most = k => Math.max(...boxes.map(box => box[k]))
    canvas.deselectAll?.()
    const width = most(2) - least(0), height = most(3) - least(1)
    const view = canvas.canvas.getBoundingClientRect()
    const scale = Math.min(
        (view.width - left - right) / width, (view.height - top - bottom) / height, 1)
    canvas.ds.scale = scale
    canvas.ds.offset[0] = left / scale - least(0)
    canvas.ds.offset[1] = top / scale - least(1)
    canvas.setDirty(true, true)
    return {x: view.x + left, y: view.y + top, width: width * scale, height: height * scale}
}"""
PLACE = """title => {
    const node = app.graph._nodes.find(node => node.title === title), {ds} = app.canvas
    const view = app.canvas.canvas.getBoundingClientRect()
    return [view.x + (node.pos[0] + 60 + ds.offset[0]) * ds.scale,
            view.y + (node.pos[1] - 15 + ds.offset[1]) * ds.scale]
}"""
CLOSE_SIDE_PANEL = """() => {
    const {sidebarTab} = app.extensionManager
    if (sidebarTab.activeSidebarTab) sidebarTab.toggleSidebarTab(sidebarTab.activeSidebarTab.id)
}"""
CLEAR_SETTING = "name => app.extensionManager.setting.set(name, false)"
SET_WIDGET = """([title, name, value]) => {
    const node = app.graph._nodes.find(node => node.title === title)
    const widget = node.widgets.find(widget => widget.name === name)
    widget.value = value
    widget.callback?.(value)
}"""
DROP = """address => {
    const dragged = new DataTransfer()
    dragged.setData('text/uri-list', address)
    const options = {dataTransfer: dragged, bubbles: true, cancelable: true}
    app.canvas.canvas.dispatchEvent(new DragEvent('drop', options))
}"""
USE_DEMO_MODEL = """() => {
    const {graph} = app, find = type => graph._nodes.find(node => node.type === type)
    const old = find('CheckpointLoaderSimple')
    for (const type of ['LoraLoader', 'ModelSamplingDiscrete']) find(type).mode = 4  // bypassed
    const loader = LiteGraph.createNode('ALEDemoModelLoader')
    loader.pos = [...old.pos]
    graph.add(loader)
    old.outputs.forEach((output, slot) => [...(output.links ?? [])].forEach(id => {
        const link = graph.links.get?.(id) ?? graph.links[id]
        loader.connect(slot, graph.getNodeById(link.target_id), link.target_slot)
    }))
    graph.remove(old)
}"""


@dataclass(frozen=True)
class Run:
    """What the page heard of one run."""

    steps: list[tuple[int, int]]  # (value, maximum) of each progress message
    previews: list[int]  # bytes of each preview picture
    finished: list[str]  # ids of the nodes that gave something to show
    with_pictures: list[str]  # those among them that gave pictures
    error: Json | None


class FrontEnd:
    """One page of the front end."""

    def __init__(self, page: Page, url: str):
        size = page.viewport_size
        assert size is not None
        self.page = page
        self.url = url
        self.view = (size["width"], size["height"])
        self.errors: list[str] = []
        page.on("console", self._note_console)
        page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))

    def _note_console(self, message: ConsoleMessage) -> None:
        place = message.location.get("url", "")
        is_other = "Content Security Policy" in message.text  # the page asks a host in the internet
        is_card = place.endswith(".jpg")  # a workflow may be so new that it has none yet
        is_language = place.endswith("/en.md")  # asked for before the page of all languages
        if message.type == "error" and not (is_other or is_card or is_language):
            self.errors.append(f"{message.text} ({place})")

    def start(self) -> None:
        self.page.goto(self.url)
        self.page.wait_for_function(IS_READY, timeout=START_MS)
        self.page.get_by_role("button", name="Templates").wait_for()
        banner = self.page.get_by_role("button", name="Try it out").locator("../..")
        if banner.is_visible():  # the front end's advertisement of its next version
            banner.get_by_role("button").last.click()

    # a workflow

    def open_workflow(self, name: str) -> None:
        """As people open it: from the template browser, or by the link of a help page."""
        if name in GALLERY:
            self.open_template(name)
        else:
            self.drop_link(f"{self.url}/api/workflow_templates/{PACK}/nodes/{name}.json")

    def drop_link(self, address: str) -> None:
        """Onto the canvas, as a link that is dragged there."""
        self.close_dialogs()
        self.page.evaluate(MARK_OLD)
        self.page.evaluate(DROP, address)
        self.page.wait_for_function(IS_NEW)
        self.settle()

    def drag_onto_canvas(self, link: Locator) -> None:
        """Drag a link of the page there by the mouse."""
        self.page.evaluate(MARK_OLD)
        canvas = self.page.locator("canvas#graph-canvas")
        width, height = self.view
        place: Any = {"x": width / 2, "y": height - 200}  # no node and no panel is there
        link.drag_to(canvas, target_position=place)
        self.page.wait_for_function(IS_NEW)
        self.settle()

    def open_template(self, name: str) -> None:
        """Through the template browser, under the pack's own category."""
        self.close_dialogs()
        self.browse_templates()
        # cards far down the list are not there until it is scrolled
        self.dialog().last.locator(PAGE.search).fill(name)
        self.page.evaluate(MARK_OLD)
        self._choose(self.page.get_by_test_id(f"template-workflow-{name}"))
        self.page.wait_for_function(IS_NEW)  # the name can be that of the one before
        self.settle()
        active = self.page.evaluate(ACTIVE)  # a second time, " (2)" follows the name
        assert active.split(" (")[0] == name, active

    def _choose(self, card: Locator) -> None:
        """Click a card until the browser of templates closes: a click is lost while cards move."""
        from playwright.sync_api import TimeoutError as PlaywrightTimeout

        content = self.page.get_by_test_id("template-workflows-content")
        for _ in range(CLICKS):
            card.click()
            with suppress(PlaywrightTimeout):
                content.wait_for(state="detached", timeout=CLICK_MS)
                return
        raise AssertionError(f"the template browser is open after {CLICKS} clicks")

    def browse_templates(self) -> None:
        self.page.get_by_role("button", name="Templates", exact=True).click()
        self.page.get_by_text(PACK, exact=True).click()
        self.page.get_by_test_id("template-workflow-ale_edit").wait_for()

    def close_dialogs(self) -> None:
        while self.dialog().count():
            cross = self.dialog().last.locator(PAGE.close)
            if cross.count():
                cross.last.click()
            else:
                self.page.keyboard.press("Escape")
            self.settle(400)
        if PAGE.dismiss_button and self.has_error_card():
            self.page.locator(PAGE.dismiss_button).click()

    def close_side_panels(self) -> None:
        self.page.evaluate(CLOSE_SIDE_PANEL)
        if PAGE.right_panel:
            self.page.evaluate(CLEAR_SETTING, PAGE.right_panel)
        self.settle(200)

    def dialog(self) -> Locator:
        return self.page.locator(PAGE.dialog)

    def nodes(self) -> list[Json]:
        return self.page.evaluate(NODES)

    def node(self, title: str) -> Json:
        return next(node for node in self.nodes() if node["title"] == title)

    def groups(self) -> list[list[float]]:
        """(x, y, width, height) of each."""
        return self.page.evaluate(GROUPS)

    def prompt(self) -> Json:
        """The graph in API format, as the page would queue it."""
        return self.page.evaluate("async () => (await app.graphToPrompt()).output")

    def set_widget(self, title: str, name: str, value: Any) -> None:
        self.page.evaluate(SET_WIDGET, [title, name, value])

    def use_demo_model(self) -> None:
        """Replace Load Checkpoint by Demo Model Loader and bypass what belongs to LCM-LoRA."""
        self.page.evaluate(USE_DEMO_MODEL)

    # a run

    def run(self) -> Run:
        """Press Run and wait for the end, or for a dialog that says why there is no run."""
        self.fit()  # what is out of sight is not drawn, nor are its pictures loaded
        self.page.evaluate(EVENTS)
        self.press_run()
        self.page.wait_for_function(HAS_ENDED, arg=PAGE.error_card, timeout=RUN_MS)
        heard = self.heard()
        if heard.error is None and not self.has_error_card():
            self.page.wait_for_function(ARE_SHOWN, arg=heard.with_pictures)
        self.settle()
        return heard

    def press_run(self) -> None:
        self.page.locator(PAGE.run_button).first.click()

    def has_error_card(self) -> bool:
        """Whether the page says that something is wrong with the graph or its run."""
        return self.page.locator(PAGE.error_card).count() > 0

    def error_text(self) -> str:
        """All that the page says about it, as it stands behind its button for details."""
        self.page.locator(PAGE.error_card).wait_for()
        if PAGE.details_button:
            self.page.locator(PAGE.details_button).click()
        details = self.page.locator(PAGE.details)
        details.wait_for()
        self.settle()
        return details.inner_text()

    def heard(self) -> Run:
        heard = self.page.evaluate("window.heard")
        by_kind = {kind: [detail for k, detail in heard if k == kind] for kind, _ in heard}
        executed = by_kind.get("executed", [])
        return Run(
            [(detail["value"], detail["max"]) for detail in by_kind.get("progress", [])],
            by_kind.get("b_preview", []),
            [detail["display_node"] for detail in executed],
            [detail["display_node"] for detail in executed if detail["output"].get("images")],
            next(iter(by_kind.get("execution_error", [])), None),
        )

    def pictures(self, title: str) -> list[Image.Image]:
        """The pictures that a node shows."""
        files = (self.page.request.get(src).body() for src, _ in self.node(title)["pictures"])
        return [Image.open(io.BytesIO(file)).convert("RGB") for file in files]

    # looking

    def settle(self, milliseconds: int = 500) -> None:
        """Let pictures load and the canvas be drawn."""
        self.page.wait_for_timeout(milliseconds)

    def fit(self) -> Json:
        """Show the whole graph; gives its place on the page."""
        return self.page.evaluate(FIT, [90, 180, 30, 70])  # clear of menus and side bar

    def shoot_graph(self, path: Path) -> Image.Image:
        """A picture of the whole graph and nothing else."""
        box = self.fit()
        self.settle()
        self.page.screenshot(path=path)
        margin = 16
        left, top = box["x"] - margin, box["y"] - margin
        right, bottom = box["x"] + box["width"] + margin, box["y"] + box["height"] + margin
        picture = Image.open(path).convert("RGB").crop((left, top, right, bottom))
        picture.save(path)
        return picture

    def shoot(self, path: Path) -> None:
        self.page.screenshot(path=path)

    def select(self, title: str) -> None:
        """Click on a node's title bar."""
        self.page.evaluate(FIT, [420, 170, 30, 60])  # clear of the side panel and the toolbox
        self.settle(300)
        self.page.mouse.click(*self.page.evaluate(PLACE, title))
        self.page.mouse.move(self.view[0] - 200, self.view[1] - 100)  # no tooltip over the node
        self.settle(300)
