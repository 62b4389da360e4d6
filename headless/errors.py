"""What can go wrong between a client and ComfyUI, each as one readable sentence."""

from dataclasses import dataclass
from typing import Any

FULL_DISK = ("No space left on device", "Errno 28", "WinError 112")


class ComfyError(Exception):
    """Base of everything this package raises about a server or a run."""


class ServerGone(ComfyError):
    """No ComfyUI answers at the address, or it stopped answering."""


class PackMissing(ComfyError):
    """ComfyUI answers, but nodes that are needed are not loaded."""


class OtherVersion(ComfyError):
    """ComfyUI has the pack in another version than this one."""


class Interrupted(ComfyError):
    """A person cancelled the run before it ended: interrupted it, or took it out of the queue."""


class RunLost(Interrupted):
    """ComfyUI knows the run no more: it was restarted, or a person took it out of the queue."""


class NoImage(ComfyError):
    """A run ended without the image that it was for."""


@dataclass(frozen=True)
class NodeError:
    """One complaint about one node; input_name where the complaint is about one input."""

    title: str
    class_type: str
    message: str
    input_name: str | None = None
    node_id: str = ""

    def __str__(self) -> str:
        place = f"{self.title!r} ({self.class_type})"
        return f"{place}, input {self.input_name!r}" if self.input_name else place


class WorkflowRejected(ComfyError):
    """ComfyUI refused the workflow before running anything."""

    def __init__(
        self,
        message: str,
        errors: tuple[NodeError, ...],
        what: str = "ComfyUI refused the workflow.",
    ):
        lines = [f"{error}: {error.message}" for error in errors] or [message]
        super().__init__(f"{what} " + "; ".join(lines))
        self.errors = errors
        self._given = message, errors, what

    def __reduce__(self) -> tuple[Any, ...]:
        return WorkflowRejected, self._given


class NodeFailed(ComfyError):
    """A node raised an error while it ran; `inputs` is what it was given, as ComfyUI words it."""

    def __init__(
        self,
        error: NodeError,
        exception_type: str,
        traceback: tuple[str, ...],
        inputs: dict[str, Any] | None = None,
    ):
        super().__init__(f"{error}: {error.message}")
        self.error = error
        self.exception_type = exception_type
        self.traceback = traceback
        self.inputs = inputs or {}

    def __reduce__(self) -> tuple[Any, ...]:
        return NodeFailed, (self.error, self.exception_type, self.traceback, self.inputs)

    @property
    def is_full_disk(self) -> bool:
        """Whether the server's disk is full, which no other input can mend."""
        return any(sign in self.error.message for sign in FULL_DISK)
