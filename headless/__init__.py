"""A client for a running ComfyUI: upload, fill a workflow, queue, follow progress, fetch."""

from .client import ComfyClient, Progress, SavedImage
from .errors import (
    ComfyError,
    Interrupted,
    NodeError,
    NodeFailed,
    PackMissing,
    ServerGone,
    WorkflowRejected,
)
from .workflow import Workflow

__all__ = [
    "ComfyClient",
    "ComfyError",
    "Interrupted",
    "NodeError",
    "NodeFailed",
    "PackMissing",
    "Progress",
    "SavedImage",
    "ServerGone",
    "Workflow",
    "WorkflowRejected",
]
