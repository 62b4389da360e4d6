"""Work spread over servers that fail as a test says; real ones are in tests/server/."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from threading import Event, Lock, Timer
from typing import Any

import pytest

from ale_edit.headless import (
    ComfyError,
    Interrupted,
    NodeError,
    NodeFailed,
    OtherVersion,
    RunLost,
    ServerGone,
    WorkflowRejected,
    spreading,
)
from ale_edit.headless.spreading import ATTEMPTS, HOPELESS, Hopeless, Outcome, Spread, TaskFailed
from ale_edit.headless.work import Facts, Item, Made
from ale_edit.headless.workers import QUEUED, Workers

SERVERS = ("http://a", "http://b")


@dataclass
class Task:
    name: str
    group: str
    kept: list[str]
    tag: str = ""

    def item(self, run: str) -> Item:
        return Item(run, self.name, {}, {}, "Save", tag=self.tag)

    def keep(self, made: Made, server: str, versions: Any) -> None:
        assert made.image.decode() == self.name and versions["comfyui"] == "1"
        assert server in SERVERS
        self.kept.append(self.name)

    def failed(self, error: ComfyError, server: str, versions: Any) -> str:
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

    def make(self, item: Item, url: str, left: str | None) -> Made:
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
        return Made(item.name.encode())

    def look(self, _run: str, url: str, _needed: Any, version: str) -> Facts:
        assert version == "1.0"
        self.looks[url] += 1
        if url in self.down:
            raise ServerGone(f"{url} is gone.")
        inputs = {"ALERegions": self.inputs.get(url, frozenset("x"))}
        return Facts({"comfyui": "1"}, inputs, self.left.get(url, {}))


class Returning(Servers):
    """Each is back at the third look."""

    def look(self, _run: str, url: str, _needed: Any, version: str) -> Facts:
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
        spread = Spread(tasks, {}, "1.0", workers, on_done, told.append, **waiting)
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
    assert told[-1] == "ComfyUI at http://b is back." and len(told) == 2
    back = [name for name, url in servers.made[25:] if url == "http://b"]
    assert back


def test_a_server_that_is_away_at_the_start_is_told_and_used_when_it_comes():
    servers = Servers(down={"http://a"})

    def on_done(_task: Any, outcome: Outcome) -> None:
        if outcome.made == 5:
            servers.down.clear()

    kept, outcome, told = run(servers, groups=20, on_done=on_done)
    assert len(kept) == 80 and outcome.by_server["http://a"] > 0
    assert told == [
        "http://a is gone. It is asked again every 0 s.",
        "ComfyUI at http://a is back.",
    ]


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
        return failure("it is empty") if item == "2/1" else None

    done: list[str] = []
    kept, outcome, _ = run(Servers(fails=fails), on_done=lambda task, _: done.append(task.name))
    assert outcome.failed == {"2/1": "2/1: 'Regions' (ALERegions): it is empty"}
    assert len(kept) == 23 and len(set(done)) == 24


@pytest.mark.parametrize(
    "error",
    [
        lambda: failure("out of memory"),
        lambda: WorkflowRejected("", (NodeError("Edit", "ALEEditObject", "out of memory"),)),
    ],
)
def test_where_the_first_tasks_all_fail_the_run_ends_with_the_reason(error):
    servers = Servers(fails=lambda _item, _url: error())
    with pytest.raises(Hopeless, match="first 5 all failed.* out of memory") as caught:
        run(servers)
    assert type(caught.value.last) is type(error()) and len(servers.stopped) == 1
    assert HOPELESS == 5


def test_a_full_disk_of_a_server_ends_the_run_at_once():
    servers = Servers(fails=lambda _i, _u: failure("[Errno 28] No space left on device"))
    with pytest.raises(ComfyError, match="The disk of ComfyUI at http://. is full") as caught:
        run(servers)
    assert not isinstance(caught.value, Hopeless)


def test_a_task_that_cannot_be_given_to_a_server_is_noted():
    class Changed(Task):
        def item(self, run: str) -> Item:
            raise TaskFailed("its mask was changed")

    kept: list[str] = []
    tasks = [Task("one", "g", kept), Changed("two", "g", kept), Task("three", "g", kept)]
    with workers_of(Servers()) as workers:
        outcome = Spread(tasks, {}, "1.0", workers, lambda *_: None, pytest.fail).run()
    assert outcome.failed == {"two": "two: its mask was changed"} and len(kept) == 2


def test_a_task_that_a_person_cancelled_is_left_and_has_not_failed():
    """Also where it is every one of the first."""

    def fails(item: str, _url: str) -> Exception | None:
        return Interrupted("x was interrupted.") if item < "2" else None

    done: list[str] = []
    kept, outcome, told = run(Servers(fails=fails), on_done=lambda task, _: done.append(task.name))
    assert len(kept) == outcome.made == 16 and len(set(done)) == outcome.over == 24
    assert not outcome.failed and not told
    assert sorted(outcome.cancelled) == [f"{g}/{k}" for g in range(2) for k in range(4)]
    assert "0/0 was cancelled in ComfyUI at http://" in outcome.cancelled["0/0"]
    assert "left for the next run: give the same command again." in outcome.cancelled["0/0"]


def test_what_nodes_say_is_told_once_for_each_group():
    class Saying(Servers):
        def make(self, item: Item, url: str, left: str | None) -> Made:
            made = super().make(item, url, left)
            group, _, number = item.name.partition("/")
            return replace(made, notices=("overlap", f"{number} is odd") if group == "1" else ())

    _, _, told = run(Saying(), groups=3, each=2)
    assert {"1/0: 0 is odd", "1/1: 1 is odd"} < set(told)
    assert [text.split(": ")[1] for text in told].count("overlap") == 1 and len(told) == 3


class Idle(Servers):
    """Of a cluster whose workers are all gone after the first look, until a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.are_back, self.is_stopped = Event(), Event()

    def make(self, item: Item, url: str, left: str | None) -> Made:
        while not self.are_back.wait(0.01):
            if self.is_stopped.is_set():
                raise ServerGone("The test is over.")
        return super().make(item, url, left)

    def missing(self) -> str:
        return "" if self.are_back.is_set() else "No worker is there."


def run_idle(servers: Idle, tell: Callable[[str], None], patience_s: float) -> list[str]:
    kept: list[str] = []
    with workers_of(servers) as plain:
        stop = lambda _run: servers.is_stopped.set()  # noqa: E731
        workers = replace(plain, missing=servers.missing, stop=stop)
        tasks = [Task(str(k), "g", kept) for k in range(4)]
        waiting = {"patience_s": patience_s, "recheck_s": 0.3}
        Spread(tasks, {}, "1.0", workers, lambda *_: None, tell, **waiting).run()
    return kept


def test_where_no_worker_is_left_the_run_says_so_and_then_gives_up(monkeypatch):
    monkeypatch.setattr(spreading, "WAKE_S", 0.05)
    told: list[str] = []
    start = time.monotonic()
    with pytest.raises(ComfyError, match="No worker is there. Images that were made are kept"):
        run_idle(Idle(), told.append, patience_s=1)
    assert 1 <= time.monotonic() - start < 5
    assert told == ["No worker is there. The run waits for them, 1 s in all."]


def test_workers_that_come_back_do_the_work(monkeypatch):
    monkeypatch.setattr(spreading, "WAKE_S", 0.05)
    servers, told = Idle(), list[str]()

    def tell(text: str) -> None:
        told.append(text)
        Timer(0.3, servers.are_back.set).start()

    servers.seconds = 0.3
    assert sorted(run_idle(servers, tell, patience_s=20)) == ["0", "1", "2", "3"]
    assert told[1:] == ["There are workers again."]


def test_a_run_that_its_server_forgot_is_made_again():
    """The server was quickly started anew: it answers, and knows nothing of our runs."""
    lost = iter([RunLost("taken out of the queue")])
    kept, outcome, told = run(Servers(fails=lambda _item, _url: next(lost, None)))
    assert len(kept) == 24 and not outcome.failed and "taken out of the queue" in told[0]


@pytest.mark.parametrize("left", [{}, {"http://a": {"t3": "run 3"}}])
def test_a_damaged_image_is_made_again_and_not_taken_from_its_server_again(left):
    servers, damaged = Servers(left=left), iter([True])

    class Checked(Task):
        def keep(self, made: Made, server: str, versions: Any) -> None:
            if next(damaged, False):
                raise ServerGone("The image is damaged.")
            super().keep(made, server, versions)

    kept: list[str] = []
    with workers_of(servers) as workers:
        tasks = [Checked("3", "g", kept, "t3")]
        waiting = {"recheck_s": 0.05}
        alone = replace(workers, executors={"http://a": workers.executors["http://a"]})
        Spread(tasks, {}, "1.0", alone, lambda *_: None, lambda _: None, **waiting).run()
    assert kept == ["3"] and [name for name, _ in servers.taken] == ["3", "3"]
    assert servers.taken[1] == ("3", None)


def test_what_a_killed_process_left_is_taken_first_by_the_server_that_has_it():
    left = {"http://a": {"t7": "run 7", "t2": "run 2"}, "http://b": {"t5": "run 5", "other": "x"}}
    servers, kept = Servers(left=left), list[str]()
    tasks = [Task(str(k), "g", kept, f"t{k}") for k in range(10)]
    with workers_of(servers) as workers:
        Spread(tasks, {}, "1.0", workers, lambda *_: None, pytest.fail).run()
    assert sorted(kept) == [str(k) for k in range(10)]
    taken = {name: run for name, run in servers.taken if run is not None}
    assert taken == {"7": "run 7", "2": "run 2", "5": "run 5"}
    homes = dict(servers.made)
    assert (homes["7"], homes["2"], homes["5"]) == ("http://a", "http://a", "http://b")
    assert {name for name, _ in servers.made[:5]} >= {"2", "7", "5"}


def test_what_a_hanging_server_gives_back_late_goes_to_one_that_was_through():
    servers = Servers(down={"http://b"})

    class Late(Servers):
        def make(self, item: Item, url: str, left: str | None) -> Made:
            if url == "http://b":
                time.sleep(0.3)  # the other is through by then
                raise ServerGone("b is gone.")
            return super().make(item, url, left)

        def look(self, _run: str, url: str, _needed: Any, version: str) -> Facts:
            self.down = {"http://b"} if self.looks["http://b"] else set()
            return super().look(_run, url, _needed, version)

    servers = Late()
    kept, outcome, _ = run(servers, groups=4, each=1, patience_s=0.0)
    assert len(kept) == 4 and outcome.by_server == {"http://a": 4, "http://b": 0}


class Hanging(Servers):
    """Looks at b do not come back until the run is stopped."""

    def __init__(self, from_look: int):
        super().__init__()
        self.from_look, self.is_stopped = from_look, Event()

    def look(self, _run: str, url: str, _needed: Any, version: str) -> Facts:
        facts = super().look(_run, url, _needed, version)
        if url == "http://b" and self.looks[url] >= self.from_look:
            assert self.is_stopped.wait(20)
        return facts

    def stop(self, _run: str) -> None:
        self.is_stopped.set()


def test_a_look_that_hangs_does_not_hold_up_the_end():
    servers = Hanging(from_look=2)
    servers.fails = lambda _item, url: ServerGone("b is gone.") if url == "http://b" else None
    kept: list[str] = []
    start = time.monotonic()
    with workers_of(servers) as plain:
        workers = replace(plain, stop=servers.stop)
        tasks = [Task(str(k), "g", kept) for k in range(40)]
        Spread(tasks, {}, "1.0", workers, lambda *_: None, lambda _: None, recheck_s=0.01).run()
    assert len(kept) == 40 and servers.looks["http://b"] >= 2
    assert time.monotonic() - start < 10


def test_ctrl_c_is_heard_while_a_server_does_not_answer_the_first_look(monkeypatch):
    class CtrlC(BaseException):
        pass

    def interrupted(futures: Any, timeout: float, *_: Any) -> Any:
        assert len(futures) == 2 and timeout <= 1
        raise CtrlC

    servers = Hanging(from_look=1)
    monkeypatch.setattr(spreading, "wait", interrupted)
    with workers_of(servers) as plain, pytest.raises(CtrlC):
        workers = replace(plain, stop=servers.stop)
        Spread([Task("t", "g", [])], {}, "1.0", workers, lambda *_: None, pytest.fail).run()


def test_a_task_at_which_servers_are_lost_again_and_again_is_left_out():
    """A task that kills every server must not kill them for ever."""

    def fails(item: str, url: str) -> Exception | None:
        return ServerGone(f"{url} died.") if item == "3/0" else None

    kept, outcome, _ = run(Servers(fails=fails))
    assert len(kept) == 23 and set(outcome.failed) == {"3/0"}
    why = f"3/0: {ATTEMPTS} times a server was lost at it; at last: http://"
    assert outcome.failed["3/0"].startswith(why)


def test_servers_with_different_packs_are_refused_before_any_work():
    servers = Servers(inputs={"http://b": frozenset("xy")})
    with pytest.raises(OtherVersion, match=r"http://b has another version .*ALERegions"):
        run(servers)
    assert not servers.made


def test_a_full_disk_stops_the_run_at_once():
    servers = Servers()

    class Full(Task):
        def keep(self, made: Made, server: str, versions: Any) -> None:
            raise OSError(28, "No space left on device")

    with workers_of(servers) as workers, pytest.raises(OSError, match="No space left"):
        tasks = [Full(str(k), "g", []) for k in range(50)]
        Spread(tasks, {}, "1.0", workers, lambda *_: None, pytest.fail).run()
    assert len(servers.made) <= 2 * QUEUED and len(servers.stopped) == 1


@pytest.mark.parametrize("from_look", [1, 2, 99])
def test_work_that_a_cluster_dropped_ends_the_run_with_a_sentence(from_look):
    class Dropping(Servers):
        def look(self, _run: str, url: str, _needed: Any, version: str) -> Facts:
            facts = super().look(_run, url, _needed, version)
            if self.looks[url] >= from_look:
                raise CancelledError
            return facts

    error = ServerGone("gone") if from_look == 2 else CancelledError()
    with pytest.raises(ComfyError, match="The dask scheduler dropped the work. Look into its log"):
        run(Dropping(fails=lambda _item, _url: error))


def test_a_lost_worker_of_a_cluster_is_not_a_lost_server():
    class KilledWorker(Exception):
        pass

    lost = iter([KilledWorker("worker died")])
    servers = Servers(fails=lambda _item, _url: next(lost, None))
    told: list[str] = []
    kept: list[str] = []
    tasks = [Task(str(k), "g", kept) for k in range(8)]
    with workers_of(servers) as plain:
        workers = replace(plain, lost=(KilledWorker,))
        outcome = Spread(tasks, {}, "1.0", workers, lambda *_: None, told.append).run()
    assert sorted(kept) == sorted(t.name for t in tasks) and not outcome.failed
    assert len(told) == 1 and told[0].startswith("A dask worker was lost (worker died): ")
