"""Words to the person at the graph: who speaks in an error, and notices that are not errors.

A host module has the display name of its own node in NODE. ALE Edit runs the functions of many
nodes; under `speak_as` every NODE reads as the node that the person has in the graph. The pure
maths names no node: `name_node` adds name and cure at the edge.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from comfy_execution.utils import get_executing_context

logger = logging.getLogger(__name__)

NOTICE_EVENT = "ale_edit.notice"

_speaker: ContextVar[str | None] = ContextVar("ale_edit_speaker", default=None)


class NodeName(str):
    """A node's display name in messages; under speak_as it reads as the speaking node's.

    A log record is formatted later, elsewhere: give it str(NODE).
    """

    __slots__ = ()

    def __str__(self) -> str:
        return _speaker.get() or super().__str__()

    def __format__(self, spec: str) -> str:
        return format(str(self), spec)


@contextmanager
def speak_as(node: str) -> Iterator[None]:
    """Let all messages come from `node`, which runs the functions of other nodes."""
    token = _speaker.set(str(node))
    try:
        yield
    finally:
        _speaker.reset(token)


def own_name(node: str) -> str:
    """A node's own display name, whoever speaks."""
    return str.__str__(node)


@contextmanager
def name_node(node: str, cure: str = "") -> Iterator[None]:
    """Put the node's name before a ValueError of the pure maths, and the cure after it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(" ".join(filter(None, (f"{node}: {error}", cure)))) from error


def tell(text: str) -> None:
    """Warn in the log and, while a node runs in a server, on that node in the page; other clients
    of the server get the event NOTICE_EVENT with the text and the ids of node and prompt."""
    logger.warning(text)
    context, server = get_executing_context(), _server()
    if context is None or server is None:
        return
    notice = {"node": context.node_id, "text": text, "prompt_id": context.prompt_id}
    server.send_sync(NOTICE_EVENT, notice)
    show("\n\n".join(_notices.add(context.prompt_id, context.node_id, text)))


def show(text: str) -> None:
    """While a node runs in a server, write on that node in the page."""
    context, server = get_executing_context(), _server()
    if context is not None and server is not None:
        server.send_progress_text(text, context.node_id)


def _server() -> Any:
    """ComfyUI's server; None where there is none, as in tests."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


class _Notices:
    """The notices of the node that runs: the page shows one text a node."""

    def __init__(self) -> None:
        self._run: tuple[str, str] | None = None
        self._texts: list[str] = []

    def add(self, prompt_id: str, node_id: str, text: str) -> list[str]:
        """All notices of this run of a node, each once."""
        if self._run != (prompt_id, node_id):
            self._run, self._texts = (prompt_id, node_id), []
        if text not in self._texts:
            self._texts.append(text)
        return self._texts


_notices = _Notices()
