"""What a spreader is given to do, and what comes of it (spreading.py)."""

import hashlib
import os
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from .errors import ComfyError
from .work import RunResult, WorkItem


class TaskFailed(ComfyError):
    """A task cannot be given to any server."""


class Task(Protocol):
    """`group`: tasks of one group in a row go to one server, as far as all have work.

    tag: as WorkItem.tag, by which what a killed process left is found (tag_of).
    item may raise TaskFailed. keep writes what was made; it may raise ServerGone where that is
    damaged. failed notes why there will be no image, and returns that as a sentence.
    """

    @property
    def name(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def tag(self) -> str: ...
    def item(self, run: str, /) -> WorkItem: ...
    def keep(self, made: RunResult, server: str, versions: Mapping[str, str], /) -> None: ...
    def note_failure(
        self, error: ComfyError, server: str, versions: Mapping[str, str], /
    ) -> str: ...


T = TypeVar("T", bound=Task)


@dataclass
class Outcome:
    """What came of a run: images made, seconds it took, failed tasks with the reason; images by
    server.

    cancelled: tasks that a person cancelled at a server, with a sentence; the next run does them.
    """

    made: int = 0
    seconds: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)
    by_server: dict[str, int] = field(default_factory=dict)
    cancelled: dict[str, str] = field(default_factory=dict)

    @property
    def over(self) -> int:
        """How many tasks are done with, one way or the other."""
        return self.made + len(self.failed) + len(self.cancelled)


def tag_of(fingerprint: str, place: Path) -> str:
    """A Task.tag: of what is made, and where, so that a run for another folder is not taken over:
    its own process may be following it, and whoever stops takes the runs that it follows away."""
    return hashlib.sha256(f"{fingerprint} {os.path.abspath(place)}".encode()).hexdigest()


def group_tasks(tasks: Iterable[T]) -> deque[deque[T]]:
    """Tasks of one group that follow each other, together."""
    groups: deque[deque[T]] = deque()
    last = None
    for task in tasks:
        if task.group != last:
            groups.append(deque())
        groups[-1].append(task)
        last = task.group
    return groups
