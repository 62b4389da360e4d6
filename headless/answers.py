"""What the answers of a server mean: its messages about a run, refusals, and failures of nodes."""

import re
from dataclasses import dataclass
from typing import Any

from .errors import NodeError, NodeFailed, WorkflowRejected
from .workflow import Workflow

NOTICE = "ale_edit.notice"  # a message: node, text, prompt_id


@dataclass(frozen=True)
class Progress:
    """A node started (maximum 0), or is at step `value` of `maximum`.

    ahead: as long as the run waits, how many runs (of anybody) come first; the title is then empty.
    notice: what a node of this pack says to the person, such as that two masks overlap.
    """

    title: str
    value: int = 0
    maximum: int = 0
    ahead: int = 0
    notice: str = ""

    @property
    def sentence(self) -> str:
        """The notice, with the title of its node."""
        said_by = "" if self.notice.startswith(self.title) else f"{self.title}: "
        return said_by + self.notice


def progress_of(event: dict[str, Any], workflow: Workflow) -> Progress | None:
    """What a message of the websocket says of a run; None where that is nothing for a person."""
    content = event["data"]
    if event["type"] == "executing" and content.get("node"):
        return Progress(workflow.title(content["node"]))
    if event["type"] == "progress":
        return Progress(workflow.title(content["node"]), content["value"], content["max"])
    if event["type"] == NOTICE and isinstance(content.get("text"), str):
        return Progress(workflow.title(str(content.get("node", ""))), notice=content["text"])
    return None


def rejection_of(answer: dict[str, Any], workflow: Workflow) -> WorkflowRejected:
    """Why a workflow was not queued."""
    errors = tuple(
        NodeError(
            workflow.title(node_id),
            problems["class_type"],
            ": ".join(text for text in (error["message"], error.get("details")) if text),
            error.get("extra_info", {}).get("input_name"),
            node_id,
        )
        for node_id, problems in answer.get("node_errors", {}).items()
        for error in problems["errors"]
    )
    general = answer.get("error", {})
    message = general.get("message", "") if isinstance(general, dict) else str(general)
    details = general.get("details", "") if isinstance(general, dict) else ""
    return WorkflowRejected(": ".join(text for text in (message, details) if text), errors)


def failure_of(content: dict[str, Any], workflow: Workflow) -> NodeFailed:
    """Which node failed, and why."""
    message, node_id = content["exception_message"].strip(), content["node_id"]
    given = content.get("current_inputs") or {}  # a list where a node was blocked
    inputs = dict(given) if isinstance(given, dict) else {}
    known = {*inputs, *workflow.nodes.get(node_id, {}).get("inputs", {})}
    error = NodeError(
        workflow.title(node_id), content["node_type"], message, _find_input(message, known), node_id
    )
    return NodeFailed(error, content["exception_type"], tuple(content["traceback"]), inputs)


def _find_input(message: str, inputs: set[str]) -> str | None:
    """The input that a node's sentence is about: "the NAME input ...", "input NAME ..."."""
    for found in re.finditer(r"\b[Tt]he (\w+) input\b|\binput ['\"]?(\w+)", message):
        if (name := found[1] or found[2]) in inputs:
            return name
    return None
