"""What can go wrong between a client and ComfyUI, each as one readable sentence."""

from dataclasses import dataclass


class ComfyError(Exception):
    """Base of everything this package raises about a server or a run."""


class ServerGone(ComfyError):
    """No ComfyUI answers at the address, or it stopped answering."""


class PackMissing(ComfyError):
    """ComfyUI answers, but nodes that are needed are not loaded."""


class Interrupted(ComfyError):
    """The run was interrupted before it ended."""


@dataclass(frozen=True)
class NodeError:
    """One complaint of ComfyUI about one node."""

    title: str
    class_type: str
    message: str
    input_name: str | None = None

    def __str__(self) -> str:
        place = f"{self.title!r} ({self.class_type})"
        return f"{place}, input {self.input_name!r}" if self.input_name else place


class WorkflowRejected(ComfyError):
    """ComfyUI refused the workflow before running anything."""

    def __init__(self, message: str, errors: tuple[NodeError, ...]):
        lines = [f"{error}: {error.message}" for error in errors] or [message]
        super().__init__("ComfyUI refused the workflow. " + "; ".join(lines))
        self.errors = errors


class NodeFailed(ComfyError):
    """A node raised an error while it ran."""

    def __init__(self, error: NodeError, exception_type: str, traceback: tuple[str, ...]):
        super().__init__(f"{error}: {error.message}")
        self.error = error
        self.exception_type = exception_type
        self.traceback = traceback
