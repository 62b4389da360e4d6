"""Workers whose servers fail as a test says.

Imported by tests as `ale_edit.tests.headless.fake_workers`.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

from ale_edit.headless import (
    ComfyError,
    NodeError,
    NodeFailed,
    ServerGone,
)
from ale_edit.headless.spreading import Spreader
from ale_edit.headless.tasks import Outcome
from ale_edit.headless.work import RunResult, ServerFacts, WorkItem
from ale_edit.headless.workers import Workers

SERVERS = ("http://a", "http://b")


@dataclass
class Task:
    name: str
    group: str
    kept: list[str]
    tag: str = ""

    def item(self, run: str) -> WorkItem:
        return WorkItem(run, self.name, {}, {}, "Save", tag=self.tag)

    def keep(self, made: RunResult, server: str, versions: Any) -> None:
        assert made.image.decode() == self.name and versions["comfyui"] == "1"
        assert server in SERVERS
        self.kept.append(self.name)

    def note_failure(self, error: ComfyError, server: str, versions: Any) -> str:
        assert server in SERVERS and versions["comfyui"] == "1"
        return f"{self.name}: {error}"


@dataclass
class Servers:
    """Two servers. `down` ones are lost; `fails` says what becomes of an item."""

    down: set[str] = field(default_factory=set)
    inputs: dict[str, frozenset[str]] = field(default_factory=dict)
    fails: Callable[[str, str], Exception | None] = lambda _item, _url: None
    seconds: float = 0.005
    made: list[tuple[str, str]] = field(default_factory=list)
    at_once: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    looks: Counter[str] = field(default_factory=Counter)
    stopped: list[str] = field(default_factory=list)
    left: dict[str, dict[str, str]] = field(default_factory=dict)
    taken: list[tuple[str, str | None]] = field(default_factory=list)
    lock: Any = field(default_factory=Lock)

    def make(self, item: WorkItem, url: str, left: str | None) -> RunResult:
        with self.lock:
            self.at_once[url] += 1
            self.most[url] = max(self.most[url], self.at_once[url])
        time.sleep(self.seconds)
        with self.lock:
            self.at_once[url] -= 1
        if error := self.fails(item.name, url):
            raise error
        if url in self.down:
            raise ServerGone(f"{url} is gone.")
        with self.lock:
            self.made.append((item.name, url))
            self.taken.append((item.name, left))
        return RunResult(item.name.encode())

    def look(self, _run: str, url: str, _needed: Any, version: str) -> ServerFacts:
        assert version == "1.0"
        self.looks[url] += 1
        if url in self.down:
            raise ServerGone(f"{url} is gone.")
        inputs = {"ALERegions": self.inputs.get(url, frozenset("x"))}
        return ServerFacts({"comfyui": "1"}, inputs, self.left.get(url, {}))


class Returning(Servers):
    """Each is back at the third look."""

    def look(self, _run: str, url: str, _needed: Any, version: str) -> ServerFacts:
        if self.looks[url] >= 2:
            self.down.discard(url)
        return super().look(_run, url, _needed, version)


@contextmanager
def workers_of(servers: Servers) -> Iterator[Workers]:
    with ExitStack() as stack:
        pools = {url: stack.enter_context(ThreadPoolExecutor(4)) for url in SERVERS}
        yield Workers(pools, servers.stopped.append, servers.make, servers.look)


def failure(message: str) -> NodeFailed:
    return NodeFailed(NodeError("Regions", "ALERegions", message), "ValueError", ())


def run(
    servers: Servers,
    groups: int = 6,
    each: int = 4,
    on_done: Callable[[Any, Outcome], None] = lambda _task, _outcome: None,
    patience_s: float = 5.0,
) -> tuple[list[str], Outcome, list[str]]:
    """What was kept, the outcome, and what was told."""
    kept: list[str] = []
    told: list[str] = []
    tasks = [Task(f"{g}/{k}", str(g), kept) for g in range(groups) for k in range(each)]
    with workers_of(servers) as workers:
        waiting = {"patience_s": patience_s, "recheck_s": 0.05}
        spread = Spreader(tasks, {}, "1.0", workers, on_done, told.append, **waiting)
        return kept, spread.run(), told
