"""Notices: in the log always, and while a node runs in a server in the page and as an event."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from comfy_execution.utils import CurrentNodeContext

from ale_edit.host.messages import NodeName, name_node, own_name, speak_as, tell


class Page:
    """The two calls of ComfyUI's server that reach its page, and what they were given."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.texts: list[tuple[str, str]] = []

    def send_sync(self, event: str, data: dict[str, Any]) -> None:
        self.events.append((event, data))

    def send_progress_text(self, text: str, node_id: str) -> None:
        self.texts.append((node_id, text))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Page:
    page = Page()
    monkeypatch.setitem(
        sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=page))
    )
    return page


def test_without_a_server_a_notice_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    tell("Regions: something.")
    assert caplog.messages == ["Regions: something."]


def test_outside_of_a_run_a_server_hears_nothing(server: Page) -> None:
    tell("Regions: something.")
    assert not server.events and not server.texts


def test_a_notice_goes_to_the_page_and_to_other_clients_with_its_ids(
    server: Page, caplog: pytest.LogCaptureFixture
) -> None:
    with CurrentNodeContext("a job of this test", "7"):
        tell("Regions: something.")
    notice = {"node": "7", "text": "Regions: something.", "prompt_id": "a job of this test"}
    assert server.events == [("ale_edit.notice", notice)]
    assert server.texts == [("7", "Regions: something.")]
    assert caplog.messages == ["Regions: something."]


def test_the_page_shows_all_notices_of_a_node_each_once(server: Page) -> None:
    for job in ("first", "second"):
        with CurrentNodeContext(job, "7"):
            for text in ("One.", "Two.", "One."):
                tell(text)
        with CurrentNodeContext(job, "8"):
            tell("Three.")
    texts = [("7", "One."), ("7", "One.\n\nTwo."), ("7", "One.\n\nTwo."), ("8", "Three.")]
    assert server.texts == 2 * texts
    assert [data["text"] for _, data in server.events] == 2 * ["One.", "Two.", "One.", "Three."]


def test_a_node_speaks_for_the_nodes_inside_it() -> None:
    node = NodeName("LCM Schedule")
    with speak_as("ALE Edit"):
        assert f"{node}: x" == "ALE Edit: x" and str(node) == "ALE Edit"
        assert f"{node:>9}" == " ALE Edit" and own_name(node) == "LCM Schedule"
        with speak_as(NodeName("Grounded-SAM Masks")):  # itself inside of the other
            assert str(node) == "ALE Edit"
    assert f"{node} {node!s}" == "LCM Schedule LCM Schedule"


def test_errors_of_the_pure_maths_get_name_and_cure() -> None:
    words = "^Regions: it is empty. Paint it.$"
    with pytest.raises(ValueError, match=words), name_node("Regions", "Paint it."):
        raise ValueError("it is empty.")
    with pytest.raises(KeyError), name_node("Regions"):
        raise KeyError("another kind of error is no sentence")
