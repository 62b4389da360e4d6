"""A client for a running ComfyUI: upload, fill a workflow, queue, follow progress, fetch."""

from .client import ComfyClient, Progress, Run, SavedImage
from .errors import (
    ComfyError,
    Interrupted,
    NodeError,
    NodeFailed,
    NoImage,
    OtherVersion,
    PackMissing,
    RunLost,
    ServerGone,
    WorkflowRejected,
)
from .workflow import Workflow

__all__ = [
    "ComfyClient",
    "ComfyError",
    "Interrupted",
    "NoImage",
    "NodeError",
    "NodeFailed",
    "OtherVersion",
    "PackMissing",
    "Progress",
    "Run",
    "RunLost",
    "SavedImage",
    "ServerGone",
    "Workflow",
    "WorkflowRejected",
]
