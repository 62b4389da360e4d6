"""What a run spreads over servers (spreading.py), and what comes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from .errors import ComfyError
from .work import Item, Made


class TaskFailed(ComfyError):
    """A task cannot be given to any server."""


class Hopeless(ComfyError):
    """The first tasks all failed; `last` is why the last of them did."""

    def __init__(self, message: str, last: ComfyError):
        super().__init__(message)
        self.last = last


class Task(Protocol):
    """`group`: tasks of one group in a row go to one server, as far as all have work.

    tag: as Item.tag, by which what a killed process left is found (tag_of).
    item may raise TaskFailed. keep writes what was made; it may raise ServerGone where that is
    damaged. failed notes why there will be no image, and returns that as a sentence.
    """

    @property
    def name(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def tag(self) -> str: ...
    def item(self, run: str, /) -> Item: ...
    def keep(self, made: Made, server: str, versions: Mapping[str, str], /) -> None: ...
    def failed(self, error: ComfyError, server: str, versions: Mapping[str, str], /) -> str: ...


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
