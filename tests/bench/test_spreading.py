"""Work spread over servers that fail as a test says; real ones are in tests/server/."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import pytest

from ale_edit.bench.spreading import ATTEMPTS, Outcome, Spread
from ale_edit.bench.work import Facts, Item, ItemFailed, ServerLost, Unfit, look, make
from ale_edit.bench.workers import QUEUED, Workers
from ale_edit.headless import ComfyError
from ale_edit.headless.pack import pack_version

SERVERS = ("http://a", "http://b")


@dataclass
class Task:
    name: str
    group: str
    kept: list[str]

    def item(self, run: str) -> Item:
        return Item(run, self.name, {}, {}, "Save")

    def keep(self, image: bytes, versions: Any) -> None:
        assert image.decode() == self.name and versions["comfyui"] == "1"
        self.kept.append(self.name)


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
    lock: Any = field(default_factory=Lock)

    def make(self, item: Item, url: str) -> bytes:
        with self.lock:
            self.at_once[url] += 1
            self.most[url] = max(self.most[url], self.at_once[url])
        time.sleep(self.seconds)
        with self.lock:
            self.at_once[url] -= 1
        if error := self.fails(item.name, url):
            raise error
        if url in self.down:
            raise ServerLost(f"{url} is gone.")
        with self.lock:
            self.made.append((item.name, url))
        return item.name.encode()

    def look(self, _run: str, url: str, _needed: Any, version: str) -> Facts:
        assert version == pack_version()
        self.looks[url] += 1
        if url in self.down:
            raise ServerLost(f"{url} is gone.")
        return Facts({"comfyui": "1"}, {"ALERegions": self.inputs.get(url, frozenset("x"))})


class Returning(Servers):
    """Each is back at the third look."""

    def look(self, _run: str, url: str, _needed: Any, version: str) -> Facts:
        if self.looks[url] >= 2:
            self.down.discard(url)
        return super().look(_run, url, _needed, version)


class Played(Executor):
    """Runs the test's servers instead of real ones."""

    def __init__(self, pool: ThreadPoolExecutor, servers: Servers):
        self._pool, self._played = pool, {make: servers.make, look: servers.look}

    def submit(self, fn: Any, /, *args: Any, **_options: Any) -> Future[Any]:
        return self._pool.submit(self._played[fn], *args)


@contextmanager
def workers_of(servers: Servers) -> Iterator[Workers]:
    with ExitStack() as stack:
        pools = {url: stack.enter_context(ThreadPoolExecutor(4)) for url in SERVERS}
        executors: dict[str, Executor] = {u: Played(p, servers) for u, p in pools.items()}
        yield Workers(executors, servers.stopped.append)


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
        spread = Spread(
            tasks, {}, workers, on_done, told.append, patience_s=patience_s, recheck_s=0.05
        )
        return kept, spread.run(), told


def test_every_task_is_done_once_by_both_servers_with_two_at_each():
    servers = Servers()
    kept, outcome, told = run(servers)
    assert sorted(kept) == sorted(name for name, _ in servers.made) and len(set(kept)) == 24
    assert sum(outcome.by_server.values()) == outcome.made == 24 and not told
    assert min(outcome.by_server.values()) > 0
    assert set(servers.most.values()) == {QUEUED}


def test_a_group_stays_at_one_server_and_in_order():
    servers = Servers()
    run(servers, groups=20)
    homes: dict[str, Counter[str]] = {}
    for name, url in servers.made:
        homes.setdefault(name.split("/")[0], Counter())[url] += 1
    assert sum(len(urls) > 1 for urls in homes.values()) <= 2  # at the end one helps the other


def test_one_server_helps_the_other_at_the_end():
    servers = Servers(seconds=0.03)
    _, outcome, _ = run(servers, groups=1, each=12)
    assert min(outcome.by_server.values()) >= 4


def test_the_tasks_of_a_lost_server_go_to_the_other_and_it_is_used_again():
    servers = Servers()

    def on_done(_task: Any, outcome: Outcome) -> None:
        if outcome.made == 6:
            servers.down.add("http://b")
        if outcome.made == 20:
            assert "http://b" in servers.down
            servers.down.clear()

    kept, outcome, told = run(servers, groups=25, on_done=on_done)
    assert len(kept) == len(set(kept)) == 100 and not outcome.failed
    assert told[0] == "http://b is gone. It is asked again every 0 s."
    assert told[-1] == "http://b is back." and len(told) == 2
    back = [name for name, url in servers.made[25:] if url == "http://b"]
    assert back


def test_a_server_that_is_away_at_the_start_is_told_and_used_when_it_comes():
    servers = Servers(down={"http://a"})

    def on_done(_task: Any, outcome: Outcome) -> None:
        if outcome.made == 5:
            servers.down.clear()

    kept, outcome, told = run(servers, groups=20, on_done=on_done)
    assert len(kept) == 80 and outcome.by_server["http://a"] > 0
    assert told == ["http://a is gone. It is asked again every 0 s.", "http://a is back."]


def test_without_any_server_at_the_start_all_reasons_are_told():
    servers = Servers(down=set(SERVERS))
    with pytest.raises(ComfyError, match="http://a is gone. http://b is gone."):
        run(servers)
    assert servers.looks == {url: 1 for url in SERVERS} and len(servers.stopped) == 1


def test_where_no_server_is_left_the_run_waits_and_then_gives_up():
    servers = Servers()

    def on_done(_task: Any, outcome: Outcome) -> None:
        if outcome.made == 5:
            servers.down.update(SERVERS)

    start = time.monotonic()
    with pytest.raises(ComfyError, match="are kept: give the same command again"):
        run(servers, on_done=on_done, patience_s=0.3)
    assert 0.3 < time.monotonic() - start < 3
    assert min(servers.looks.values()) >= 3


def test_where_a_server_comes_back_in_time_the_run_goes_on():
    servers = Returning()

    def on_done(_task: Any, outcome: Outcome) -> None:
        if outcome.made == 5:
            servers.down.update(SERVERS)

    kept, outcome, _ = run(servers, on_done=on_done)
    assert len(kept) == 24 and not outcome.failed


def test_a_task_that_fails_is_noted_and_the_others_are_done():
    def fails(item: str, _url: str) -> Exception | None:
        return ItemFailed("'Regions': it is empty", True) if item == "2/1" else None

    kept, outcome, _ = run(Servers(fails=fails))
    assert outcome.failed == {"2/1": "'Regions': it is empty"} and len(kept) == 23


@pytest.mark.parametrize(("by_input", "kind"), [(True, ValueError), (False, ComfyError)])
def test_where_the_first_tasks_all_fail_the_run_ends_with_the_reason(by_input, kind):
    servers = Servers(fails=lambda _item, _url: ItemFailed("out of memory", by_input))
    with pytest.raises(kind, match="out of memory"):
        run(servers)
    assert len(servers.stopped) == 1


def test_a_task_at_which_servers_are_lost_again_and_again_is_left_out():
    """A task that kills every server must not kill them for ever."""

    def fails(item: str, url: str) -> Exception | None:
        return ServerLost(f"{url} died.") if item == "3/0" else None

    kept, outcome, _ = run(Servers(fails=fails))
    assert len(kept) == 23 and set(outcome.failed) == {"3/0"}
    assert outcome.failed["3/0"].startswith(f"{ATTEMPTS} times a server was lost at it; at last:")


def test_servers_with_different_packs_are_refused_before_any_work():
    servers = Servers(inputs={"http://b": frozenset("xy")})
    with pytest.raises(Unfit, match=r"http://b has another version of the pack .*ALERegions"):
        run(servers)
    assert not servers.made


def test_a_full_disk_stops_the_run_at_once():
    servers = Servers()

    class Full(Task):
        def keep(self, image: bytes, versions: Any) -> None:
            raise OSError(28, "No space left on device")

    with workers_of(servers) as workers, pytest.raises(OSError, match="No space left"):
        tasks = [Full(str(k), "g", []) for k in range(50)]
        Spread(tasks, {}, workers, lambda *_: None, pytest.fail).run()
    assert len(servers.made) <= 2 * QUEUED and len(servers.stopped) == 1


def test_a_lost_worker_of_a_cluster_is_not_a_lost_server():
    class KilledWorker(Exception):
        pass

    lost = iter([KilledWorker("worker died")])
    servers = Servers(fails=lambda _item, _url: next(lost, None))
    told: list[str] = []
    kept: list[str] = []
    tasks = [Task(str(k), "g", kept) for k in range(8)]
    with workers_of(servers) as plain:
        workers = Workers(plain.executors, plain.stop, (KilledWorker,))
        outcome = Spread(tasks, {}, workers, lambda *_: None, told.append).run()
    assert sorted(kept) == sorted(t.name for t in tasks) and not outcome.failed
    assert len(told) == 1 and told[0].startswith("A dask worker was lost (worker died): ")
