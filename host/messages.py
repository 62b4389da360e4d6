"""Words to the person at the graph that are no errors."""

from __future__ import annotations

import logging
import sys

from comfy_execution.utils import get_executing_context

logger = logging.getLogger(__name__)


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
