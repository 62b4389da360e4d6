"""Spreads tasks over servers through executors (workers.py), and loses nothing.

A server takes a group of tasks after the other, in their order, so that it can reuse what they
share; first of all it takes what an earlier, killed process left there. Where a server is lost,
its tasks go to the others; it is asked again from time to time, and used again when it is back.
"""

import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from .connection import hide_password
from .errors import (
    ComfyError,
    Interrupted,
    NodeFailed,
    NoImage,
    OtherVersion,
    PackMissing,
    RunLost,
    ServerGone,
    WorkflowRejected,
)
from .tasks import Outcome, T, TaskFailed, group_tasks
from .work import RunResult, ServerFacts
from .workers import QUEUED, Workers

PATIENCE_S = 120.0  # without any server, before a run gives up
RECHECK_S = 5.0  # between two looks at a server that is gone
WAKE_S = 1.0  # at the latest, so that Ctrl-C is heard on every system
ATTEMPTS = 3  # servers lost by one task, after which it is left out
KEPT = "Images that were made are kept: run the same command again."
HOPELESS = 5  # failures without any success, after which a run gives up
FAILURES = (NodeFailed, WorkflowRejected, NoImage)  # of the task
AWAY = (ServerGone, RunLost, PackMissing, OtherVersion)  # another server can do the task


class RepeatedFailure(ComfyError):
    """The first tasks all failed; `last` is why the last of them did."""

    def __init__(self, message: str, last: ComfyError):
        super().__init__(message)
        self.last = last


_R = TypeVar("_R")


@dataclass
class _ServerState(Generic[T]):
    url: str
    shown: str  # the url without a password
    tasks: deque[T] = field(default_factory=deque)  # of the group that it is at
    left: dict[str, str] = field(default_factory=dict)  # runs there by tag (ServerFacts.left)
    busy: "dict[Future[RunResult], T]" = field(default_factory=dict)
    look: "Future[ServerFacts] | None" = None
    is_up: bool = False
    again_at: float = 0.0
    why: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)


class Spreader(Generic[T]):
    """One run over the servers of `workers`.

    needed: classes of the workflows' nodes, with the inputs that they are given, or None where a
    class only has to be there. version: of the pack, that the servers must have or not tell.
    on_done: called for each task that was made, failed or was cancelled. tell: gets sentences for
    the person, also what nodes say of a task, once for each group.
    patience_s: how long to wait where no server or no worker is left. recheck_s: between two looks
    at a server.
    """

    def __init__(
        self,
        tasks: Sequence[T],
        needed: Mapping[str, frozenset[str] | None],
        version: str | None,
        workers: Workers,
        on_done: Callable[[T, Outcome], None],
        tell: Callable[[str], None],
        *,
        patience_s: float = PATIENCE_S,
        recheck_s: float = RECHECK_S,
    ):
        self._run = uuid.uuid4().hex
        self._groups = group_tasks(tasks)
        self._left = len(tasks)
        self._needed, self._version, self._workers = needed, version, workers
        self._on_done, self._tell = on_done, tell
        self._patience_s, self._recheck_s = patience_s, recheck_s
        self._servers = [_ServerState[T](url, hide_password(url)[0]) for url in workers.executors]
        self._lost: dict[str, int] = {}
        self._damaged: set[str] = set()  # tags
        self._said: set[tuple[str, str]] = set()  # notices by group
        self._alone_since: float | None = None
        self._inputs: Mapping[str, frozenset[str]] | None = None
        self._start = time.monotonic()
        self.outcome = Outcome(by_server={server.shown: 0 for server in self._servers})

    def run(self) -> Outcome:
        """Do all tasks. ComfyError where no server is left, the first tasks all fail, or a server's
        disk is full; what was made is kept."""
        try:
            self._look_at_all()
            while self._left:
                self._look_again()
                self._check_patience()
                self._submit()
                self._collect()
        finally:  # also at a good end: a look at a server that hangs would hold up its executor
            self._workers.stop(self._run)
        return self.outcome

    # servers

    def _look_at_all(self) -> None:
        """At the start a server that does not fit is an error, and one that is away is reported."""
        for server in self._servers:
            self._start_look(server)
        while wait([s.look for s in self._servers if s.look is not None], WAKE_S).not_done:
            if self._check_workers():
                for server in self._servers:
                    self._start_look(server)
        for server in self._servers:
            assert server.look is not None
            try:
                self._welcome(server, _result(server.look))
            except (ServerGone, *self._workers.lost) as error:
                self._leave_out(server, str(error))
        if not any(server.is_up for server in self._servers):
            raise ServerGone(self._all_away())

    def _start_look(self, server: _ServerState[T]) -> None:
        executor = self._workers.executors[server.url]
        given = self._run, server.url, self._needed, self._version
        server.look = executor.submit(self._workers.look, *given)

    def _welcome(self, server: _ServerState[T], facts: ServerFacts) -> None:
        """Use a server from now on; OtherVersion if its pack is not that of the others."""
        server.look = None
        if self._inputs is None:
            self._inputs = facts.inputs
        elif facts.inputs != self._inputs:
            differing = sorted(n for n in self._inputs if facts.inputs[n] != self._inputs[n])
            raise OtherVersion(
                f"ComfyUI at {server.shown} has another version of the pack than the other servers "
                f"(nodes {', '.join(differing)}). Put one version on all of them."
            )
        server.versions, server.is_up, server.why = facts.versions, True, ""
        server.left = {t: run for t, run in facts.left.items() if t not in self._damaged}
        self._alone_since = None
        if found := self._withdraw(lambda task: bool(task.tag) and task.tag in server.left):
            self._give_back(server)
            server.tasks = deque(found)

    def _withdraw(self, is_wanted: Callable[[T], bool]) -> list[T]:
        """Take tasks out of the groups that no server is at."""
        found = [task for group in self._groups for task in group if is_wanted(task)]
        if found:
            groups = [deque(t for t in group if not is_wanted(t)) for group in self._groups]
            self._groups = deque(group for group in groups if group)
        return found

    def _look_again(self) -> None:
        for server in self._servers:
            if server.is_up:
                continue
            if server.look is None and time.monotonic() >= server.again_at:
                self._start_look(server)
            elif server.look is not None and server.look.done():
                was_away = bool(server.why)
                try:
                    self._welcome(server, _result(server.look))
                    if was_away:
                        self._tell(f"ComfyUI at {server.shown} is back.")
                except (*AWAY, *self._workers.lost) as error:
                    self._leave_out(server, str(error))

    def _leave_out(self, server: _ServerState[T], why: str) -> None:
        """Give the server's tasks to the others, and report it once."""
        if why != server.why:
            self._tell(f"{why} It will be tried again every {self._recheck_s:.0f} s.")
        server.is_up, server.look, server.why = False, None, why
        server.again_at = time.monotonic() + self._recheck_s
        self._give_back(server)

    def _give_back(self, server: _ServerState[T]) -> None:
        if server.tasks:
            self._groups.appendleft(server.tasks)
            server.tasks = deque()

    def _check_patience(self) -> None:
        if any(server.is_up or server.busy for server in self._servers):
            return
        now = time.monotonic()
        self._alone_since = self._alone_since if self._alone_since is not None else now
        if now - self._alone_since >= self._patience_s:
            raise ServerGone(f"{self._all_away()} {KEPT}")

    def _check_workers(self) -> bool:
        """Where nobody is left to do the work, say so, wait, and give up after the same patience.

        True: there are workers again, who know nothing of what was given to those before them.
        """
        missing, start, is_told = self._workers.missing(), time.monotonic(), False
        if not missing:
            return False
        while missing:
            waited = time.monotonic() - start
            if waited >= self._patience_s:
                raise ComfyError(f"{missing} {KEPT}")
            if waited >= self._recheck_s and not is_told:
                self._tell(f"{missing} The run waits for them, {self._patience_s:.0f} s in all.")
                is_told = True
            time.sleep(WAKE_S)
            missing = self._workers.missing()
        if is_told:
            self._tell("There are workers again.")
        self._take_back()
        return True

    def _take_back(self) -> None:
        """Forget what was given to workers. The servers are looked at again: they may have it."""
        for server in self._servers:
            for future in (*server.busy, *([server.look] if server.look else [])):
                future.cancel()
            server.tasks.extendleft(reversed(server.busy.values()))
            server.busy, server.look = {}, None
            server.is_up, server.again_at = False, 0.0
            self._give_back(server)

    def _all_away(self) -> str:
        return " ".join(dict.fromkeys(server.why for server in self._servers))

    # tasks

    def _submit(self) -> None:
        for server in self._servers:
            while server.is_up and len(server.busy) < QUEUED:
                task = self._next_task(server)
                if task is None:
                    break
                try:
                    item = task.item(self._run)
                except TaskFailed as error:
                    self._fail(server, task, error)
                    continue
                left = server.left.pop(item.tag, None) if item.tag else None
                executor = self._workers.executors[server.url]
                future = executor.submit(self._workers.make, item, server.url, left)
                server.busy[future] = task

    def _next_task(self, server: _ServerState[T]) -> T | None:
        """Of its group; else of the next group; else the last one of the longest group."""
        if not server.tasks and self._groups:
            server.tasks = self._groups.popleft()
        if server.tasks:
            return server.tasks.popleft()
        longest = max(self._servers, key=lambda other: len(other.tasks))
        return longest.tasks.pop() if longest.tasks else None

    def _collect(self) -> None:
        """Wait until something has ended, or a server is to be asked again."""
        futures: list[Future[Any]] = [f for s in self._servers for f in s.busy]
        futures += [server.look for server in self._servers if server.look is not None]
        away = [s.again_at for s in self._servers if not s.is_up and s.look is None]
        until = min([WAKE_S, *(max(0.0, at - time.monotonic()) for at in away)])
        if not futures:
            time.sleep(until if self._left else 0)
            return
        done, _ = wait(futures, until, FIRST_COMPLETED)
        if not done:
            self._check_workers()
        for server in self._servers:
            for future in [f for f in server.busy if f in done]:
                self._end(server, server.busy.pop(future), future)

    def _end(self, server: _ServerState[T], task: T, future: "Future[RunResult]") -> None:
        try:
            self._keep(server, task, _result(future))
        except AWAY as error:
            self._leave_out(server, str(error))
            self._retry(server, task, error)
        except Interrupted as error:
            self._leave(server, task, error)
        except FAILURES as error:
            self._check_disk(server, error)
            self._fail(server, task, error)
        except self._workers.lost as error:
            self._tell(f"A dask worker was lost ({error}): {task.name} goes to another.")
            self._retry(server, task, error)
        else:
            self._left -= 1
            self.outcome.made += 1
            self.outcome.by_server[server.shown] += 1
            self.outcome.seconds = time.monotonic() - self._start
            self._on_done(task, self.outcome)

    def _keep(self, server: _ServerState[T], task: T, made: RunResult) -> None:
        try:
            task.keep(made, server.shown, server.versions)
        except ServerGone:
            self._damaged.add(task.tag)  # the server has it still, and it is not to be taken again
            raise
        for notice in made.notices:
            if (task.group, notice) not in self._said:
                self._said.add((task.group, notice))
                self._tell(f"{task.name}: {notice}")

    def _check_disk(self, server: _ServerState[T], error: ComfyError) -> None:
        if isinstance(error, NodeFailed) and error.is_full_disk:
            raise ComfyError(
                f"The disk of ComfyUI at {server.shown} is full ({error}). Free some of it, and "
                "run the same command again."
            ) from error

    def _retry(self, server: _ServerState[T], task: T, error: Exception) -> None:
        self._lost[task.name] = self._lost.get(task.name, 0) + 1
        if self._lost[task.name] < ATTEMPTS:
            self._groups.appendleft(deque([task]))
            return
        why = f"{ATTEMPTS} servers were lost while working on it. The last error: {error}"
        self._fail(server, task, ServerGone(why))

    def _leave(self, server: _ServerState[T], task: T, error: Interrupted) -> None:
        """A person cancelled it at the server: it has not failed, and belongs to no server now."""
        self._left -= 1
        self.outcome.cancelled[task.name] = (
            f"{task.name} was cancelled in ComfyUI at {server.shown} ({error}). It is left for the "
            "next run: run the same command again."
        )
        self._on_done(task, self.outcome)

    def _fail(self, server: _ServerState[T], task: T, error: ComfyError) -> None:
        self._left -= 1
        self.outcome.failed[task.name] = task.note_failure(error, server.shown, server.versions)
        self._on_done(task, self.outcome)
        if not self.outcome.made and len(self.outcome.failed) >= HOPELESS:
            raise RepeatedFailure(
                f"The first {HOPELESS} all failed, and the others were left out. The last: "
                f"{self.outcome.failed[task.name]}",
                error,
            )


def _result(future: "Future[_R]") -> _R:
    try:
        return future.result()
    except CancelledError as error:
        raise ComfyError(
            "The dask scheduler dropped the work. Look into its log; images that were made are "
            "kept: run the same command again."
        ) from error
