"""Words to the person at the graph: who speaks in an error, and notices that are no errors.

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

from comfy_execution.utils import get_executing_context

logger = logging.getLogger(__name__)

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
    """Put the node's name before a ValueError of the pure maths, and the cure behind it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(" ".join(filter(None, (f"{node}: {error}", cure)))) from error


def tell(text: str) -> None:
    """Warn in the log and, while a node runs in a server, on that node in the page."""
    logger.warning(text)
    show(text)


def show(text: str) -> None:
    """While a node runs in a server, write on that node in the page."""
    context, server = get_executing_context(), sys.modules.get("server")
    instance = getattr(getattr(server, "PromptServer", None), "instance", None)
    if context is not None and instance is not None:
        instance.send_progress_text(text, context.node_id)
