"""Spreads tasks over servers through executors (workers.py), and loses nothing.

A server takes a group of tasks after the other, in their order, so that it can reuse what they
share. Where a server is lost, its tasks go to the others; it is asked again from time to time, and
used again when it is back.
"""

import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..headless import ComfyError
from ..headless.pack import pack_version
from .options import PATIENCE_S
from .work import Facts, Item, ItemFailed, ServerLost, Unfit, look, make
from .workers import QUEUED, Workers

RECHECK_S = 10.0  # between two looks at a server that is gone
ATTEMPTS = 3  # servers lost by one task, after which it is left out
HOPELESS = 3  # failures without any success, after which a run gives up


class Task(Protocol):
    """`group`: tasks of one group in a row go to one server, as far as all have work."""

    @property
    def name(self) -> str: ...
    @property
    def group(self) -> str: ...
    def item(self, run: str) -> Item: ...
    def keep(self, image: bytes, versions: Mapping[str, str]) -> None: ...


@dataclass
class Outcome:
    """What came of a run: images made, seconds it took, failed tasks with the reason; images by
    server."""

    made: int = 0
    seconds: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)
    by_server: dict[str, int] = field(default_factory=dict)


@dataclass
class _Server:
    url: str
    tasks: deque[Any] = field(default_factory=deque)  # of the group that it is at
    busy: "dict[Future[bytes], Any]" = field(default_factory=dict)
    look: "Future[Facts] | None" = None
    is_up: bool = False
    again_at: float = 0.0
    why: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


class Spread:
    """One run. `needed`: classes of the workflows' nodes, with the inputs that they are given."""

    def __init__(
        self,
        tasks: Sequence[Task],
        needed: Mapping[str, frozenset[str]],
        workers: Workers,
        on_done: Callable[[Any, Outcome], None],
        tell: Callable[[str], None],
        *,
        patience_s: float = PATIENCE_S,
        recheck_s: float = RECHECK_S,
    ):
        self._run = uuid.uuid4().hex
        self._groups = _grouped(tasks)
        self._left = len(tasks)
        self._needed, self._workers = needed, workers
        self._on_done, self._tell = on_done, tell
        self._patience_s, self._recheck_s = patience_s, recheck_s
        self._servers = {url: _Server(url) for url in workers.executors}
        self._lost: dict[str, int] = {}
        self._alone_since: float | None = None
        self._inputs: Mapping[str, frozenset[str]] | None = None
        self._start = time.monotonic()
        self.outcome = Outcome(by_server=dict.fromkeys(self._servers, 0))

    def run(self) -> Outcome:
        """Do all tasks. ComfyError where no server is left, or the first tasks all fail; what was
        made is kept."""
        try:
            self._look_at_all()
            while self._left:
                self._look_again()
                self._check_patience()
                self._submit()
                self._collect()
        except BaseException:
            self._workers.stop(self._run)
            raise
        return self.outcome

    # servers

    def _look_at_all(self) -> None:
        """At the start a server that does not fit is an error, and one that is away is told."""
        for server in self._servers.values():
            self._start_look(server)
        for server in self._servers.values():
            assert server.look is not None
            try:
                self._welcome(server, server.look.result())
            except ServerLost as error:
                self._away(server, str(error))
        if not any(server.is_up for server in self._servers.values()):
            raise ComfyError(self._all_away())

    def _start_look(self, server: _Server) -> None:
        executor = self._workers.executors[server.url]
        server.look = executor.submit(look, self._run, server.url, self._needed, pack_version())

    def _welcome(self, server: _Server, facts: Facts) -> None:
        """Use a server from now on; Unfit if its pack is not that of the others."""
        server.look = None
        if self._inputs is None:
            self._inputs = facts.inputs
        elif facts.inputs != self._inputs:
            differing = sorted(n for n in self._inputs if facts.inputs[n] != self._inputs[n])
            raise Unfit(
                f"ComfyUI at {server.url} has another version of the pack than the other servers "
                f"(nodes {', '.join(differing)}). Put one version on all of them."
            )
        server.versions, server.is_up, server.why = facts.versions, True, ""
        self._alone_since = None

    def _look_again(self) -> None:
        for server in self._servers.values():
            if server.is_up:
                continue
            if server.look is None and time.monotonic() >= server.again_at:
                self._start_look(server)
            elif server.look is not None and server.look.done():
                try:
                    self._welcome(server, server.look.result())
                    self._tell(f"{server.url} is back.")
                except (ServerLost, Unfit) as error:
                    self._away(server, str(error))

    def _away(self, server: _Server, why: str) -> None:
        """Give the server's tasks to the others, and tell it once."""
        if why != server.why:
            self._tell(f"{why} It is asked again every {self._recheck_s:.0f} s.")
        server.is_up, server.look, server.why = False, None, why
        server.again_at = time.monotonic() + self._recheck_s
        if server.tasks:
            self._groups.appendleft(server.tasks)
            server.tasks = deque()

    def _check_patience(self) -> None:
        if any(server.is_up or server.busy for server in self._servers.values()):
            return
        now = time.monotonic()
        self._alone_since = self._alone_since if self._alone_since is not None else now
        if now - self._alone_since >= self._patience_s:
            raise ComfyError(
                f"{self._all_away()} Images that were made are kept: give the same command again."
            )

    def _all_away(self) -> str:
        return " ".join(dict.fromkeys(server.why for server in self._servers.values()))

    # tasks

    def _submit(self) -> None:
        for server in self._servers.values():
            while server.is_up and len(server.busy) < QUEUED:
                task = self._next_task(server)
                if task is None:
                    break
                item = task.item(self._run)
                future = self._workers.executors[server.url].submit(make, item, server.url)
                server.busy[future] = task

    def _next_task(self, server: _Server) -> Any:
        """Of its group; else of the next group; else the last one of the longest group."""
        if not server.tasks and self._groups:
            server.tasks = self._groups.popleft()
        if server.tasks:
            return server.tasks.popleft()
        longest = max(self._servers.values(), key=lambda other: len(other.tasks))
        return longest.tasks.pop() if longest.tasks else None

    def _collect(self) -> None:
        """Wait until something has ended, or a server is to be asked again."""
        servers = list(self._servers.values())
        open_futures: list[Future[Any]] = [f for server in servers for f in server.busy]
        open_futures += [server.look for server in servers if server.look is not None]
        away = [s.again_at for s in servers if not s.is_up and s.look is None]
        until = max(0.0, min(away) - time.monotonic()) if away else None
        if not open_futures:
            time.sleep(min(until or 0, 1.0))
            return
        done, _ = wait(open_futures, until, FIRST_COMPLETED)
        for server in servers:
            for future in [f for f in server.busy if f in done]:
                self._end(server, server.busy.pop(future), future)

    def _end(self, server: _Server, task: Any, future: "Future[bytes]") -> None:
        try:
            image = future.result()
        except ItemFailed as error:
            self._fail(task, str(error))
            if not self.outcome.made and len(self.outcome.failed) >= HOPELESS:
                raise (ValueError if error.by_input else ComfyError)(str(error)) from error
        except (ServerLost, Unfit) as error:
            self._away(server, str(error))
            self._retry(task, error)
        except CancelledError as error:
            raise ComfyError(
                "The dask scheduler dropped the work. Look into its log; images that were made are "
                "kept: give the same command again."
            ) from error
        except self._workers.lost as error:
            self._tell(f"A dask worker was lost ({error}): {task.name} goes to another.")
            self._retry(task, error)
        else:
            task.keep(image, server.versions)
            self._left -= 1
            self.outcome.made += 1
            self.outcome.by_server[server.url] += 1
            self.outcome.seconds = time.monotonic() - self._start
            self._on_done(task, self.outcome)

    def _retry(self, task: Any, error: Exception) -> None:
        self._lost[task.name] = self._lost.get(task.name, 0) + 1
        if self._lost[task.name] < ATTEMPTS:
            self._groups.appendleft(deque([task]))
        else:
            self._fail(task, f"{ATTEMPTS} times a server was lost at it; at last: {error}")

    def _fail(self, task: Any, why: str) -> None:
        self._left -= 1
        self.outcome.failed[task.name] = why


def _grouped(tasks: Sequence[Task]) -> deque[deque[Any]]:
    """Tasks of one group that follow each other, together."""
    groups: deque[deque[Any]] = deque()
    last = None
    for task in tasks:
        if task.group != last:
            groups.append(deque())
        groups[-1].append(task)
        last = task.group
    return groups
