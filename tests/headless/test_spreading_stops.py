"""Work whose workers or servers hang, are lost or forgotten, and what killed runs left behind."""

import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import replace
from threading import Event, Timer
from typing import Any

import pytest

from ale_edit.headless import (
    ComfyError,
    RunLost,
    ServerGone,
    spreading,
)
from ale_edit.headless.spreading import Spreader
from ale_edit.headless.work import RunResult, ServerFacts, WorkItem
from ale_edit.tests.headless.fake_workers import (
    Servers,
    Task,
    run,
    workers_of,
)


class Idle(Servers):
    """Of a cluster whose workers are all gone after the first look, until a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.are_back, self.is_stopped = Event(), Event()

    def make(self, item: WorkItem, url: str, left: str | None) -> RunResult:
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
        Spreader(tasks, {}, "1.0", workers, lambda *_: None, tell, **waiting).run()
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
    """The server was quickly restarted: it answers, and knows nothing of our runs."""
    lost = iter([RunLost("taken out of the queue")])
    kept, outcome, told = run(Servers(fails=lambda _item, _url: next(lost, None)))
    assert len(kept) == 24 and not outcome.failed and "taken out of the queue" in told[0]


@pytest.mark.parametrize("left", [{}, {"http://a": {"t3": "run 3"}}])
def test_a_damaged_image_is_made_again_and_not_taken_from_its_server_again(left):
    servers, damaged = Servers(left=left), iter([True])

    class Checked(Task):
        def keep(self, made: RunResult, server: str, versions: Any) -> None:
            if next(damaged, False):
                raise ServerGone("The image is damaged.")
            super().keep(made, server, versions)

    kept: list[str] = []
    with workers_of(servers) as workers:
        tasks = [Checked("3", "g", kept, "t3")]
        waiting = {"recheck_s": 0.05}
        alone = replace(workers, executors={"http://a": workers.executors["http://a"]})
        Spreader(tasks, {}, "1.0", alone, lambda *_: None, lambda _: None, **waiting).run()
    assert kept == ["3"] and [name for name, _ in servers.taken] == ["3", "3"]
    assert servers.taken[1] == ("3", None)


def test_what_a_killed_process_left_is_taken_first_by_the_server_that_has_it():
    left = {"http://a": {"t7": "run 7", "t2": "run 2"}, "http://b": {"t5": "run 5", "other": "x"}}
    servers, kept = Servers(left=left), list[str]()
    tasks = [Task(str(k), "g", kept, f"t{k}") for k in range(10)]
    with workers_of(servers) as workers:
        Spreader(tasks, {}, "1.0", workers, lambda *_: None, pytest.fail).run()
    assert sorted(kept) == [str(k) for k in range(10)]
    taken = {name: run for name, run in servers.taken if run is not None}
    assert taken == {"7": "run 7", "2": "run 2", "5": "run 5"}
    homes = dict(servers.made)
    assert (homes["7"], homes["2"], homes["5"]) == ("http://a", "http://a", "http://b")
    by_server = {url: [name for name, home in servers.made if home == url] for url in servers.left}
    assert set(by_server["http://a"][:2]) == {"2", "7"} and "5" in by_server["http://b"][:2]


def test_what_a_hanging_server_gives_back_late_goes_to_one_that_was_through():
    servers = Servers(down={"http://b"})

    class Late(Servers):
        def make(self, item: WorkItem, url: str, left: str | None) -> RunResult:
            if url == "http://b":
                time.sleep(0.3)  # the other is through by then
                raise ServerGone("b is gone.")
            return super().make(item, url, left)

        def look(self, _run: str, url: str, _needed: Any, version: str) -> ServerFacts:
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

    def look(self, _run: str, url: str, _needed: Any, version: str) -> ServerFacts:
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
        Spreader(tasks, {}, "1.0", workers, lambda *_: None, lambda _: None, recheck_s=0.01).run()
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
        Spreader([Task("t", "g", [])], {}, "1.0", workers, lambda *_: None, pytest.fail).run()


@pytest.mark.parametrize("from_look", [1, 2, 99])
def test_work_that_a_cluster_dropped_ends_the_run_with_a_sentence(from_look):
    class Dropping(Servers):
        def look(self, _run: str, url: str, _needed: Any, version: str) -> ServerFacts:
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
        outcome = Spreader(tasks, {}, "1.0", workers, lambda *_: None, told.append).run()
    assert sorted(kept) == sorted(t.name for t in tasks) and not outcome.failed
    assert len(told) == 1 and told[0].startswith("A dask worker was lost (worker died): ")
