"""Work spread over servers that fail as a test says; real ones are in tests/server/."""

import time
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from ale_edit.headless import (
    ComfyError,
    Interrupted,
    NodeError,
    OtherVersion,
    ServerGone,
    WorkflowRejected,
)
from ale_edit.headless.spreading import ATTEMPTS, HOPELESS, RepeatedFailure, Spreader
from ale_edit.headless.tasks import Outcome, TaskFailed
from ale_edit.headless.work import RunResult, WorkItem
from ale_edit.headless.workers import QUEUED
from ale_edit.tests.headless.fake_workers import (
    SERVERS,
    Returning,
    Servers,
    Task,
    failure,
    run,
    workers_of,
)


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
    assert told[0] == "http://b is gone. It will be tried again every 0 s."
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
        "http://a is gone. It will be tried again every 0 s.",
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
    with pytest.raises(ComfyError, match="are kept: run the same command again"):
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
    with pytest.raises(RepeatedFailure, match="first 5 all failed.* out of memory") as caught:
        run(servers)
    assert type(caught.value.last) is type(error()) and len(servers.stopped) == 1
    assert HOPELESS == 5


def test_a_full_disk_of_a_server_ends_the_run_at_once():
    servers = Servers(fails=lambda _i, _u: failure("[Errno 28] No space left on device"))
    with pytest.raises(ComfyError, match="The disk of ComfyUI at http://. is full") as caught:
        run(servers)
    assert not isinstance(caught.value, RepeatedFailure)


def test_a_task_that_cannot_be_given_to_a_server_is_noted():
    class Changed(Task):
        def item(self, run: str) -> WorkItem:
            raise TaskFailed("its mask was changed")

    kept: list[str] = []
    tasks = [Task("one", "g", kept), Changed("two", "g", kept), Task("three", "g", kept)]
    with workers_of(Servers()) as workers:
        outcome = Spreader(tasks, {}, "1.0", workers, lambda *_: None, pytest.fail).run()
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
    assert "left for the next run: run the same command again." in outcome.cancelled["0/0"]


def test_what_nodes_say_is_told_once_for_each_group():
    class Saying(Servers):
        def make(self, item: WorkItem, url: str, left: str | None) -> RunResult:
            made = super().make(item, url, left)
            group, _, number = item.name.partition("/")
            return replace(made, notices=("overlap", f"{number} is odd") if group == "1" else ())

    _, _, told = run(Saying(), groups=3, each=2)
    assert {"1/0: 0 is odd", "1/1: 1 is odd"} < set(told)
    assert [text.split(": ")[1] for text in told].count("overlap") == 1 and len(told) == 3


def test_a_task_at_which_servers_are_lost_again_and_again_is_left_out():
    """A task that kills every server must not kill them for ever."""

    def fails(item: str, url: str) -> Exception | None:
        return ServerGone(f"{url} died.") if item == "3/0" else None

    kept, outcome, _ = run(Servers(fails=fails))
    assert len(kept) == 23 and set(outcome.failed) == {"3/0"}
    why = f"3/0: {ATTEMPTS} servers were lost while working on it. The last error: http://"
    assert outcome.failed["3/0"].startswith(why)


def test_servers_with_different_packs_are_refused_before_any_work():
    servers = Servers(inputs={"http://b": frozenset("xy")})
    with pytest.raises(OtherVersion, match=r"http://b has another version .*ALERegions"):
        run(servers)
    assert not servers.made


def test_a_full_disk_stops_the_run_at_once():
    servers = Servers()

    class Full(Task):
        def keep(self, made: RunResult, server: str, versions: Any) -> None:
            raise OSError(28, "No space left on device")

    with workers_of(servers) as workers, pytest.raises(OSError, match="No space left"):
        tasks = [Full(str(k), "g", []) for k in range(50)]
        Spreader(tasks, {}, "1.0", workers, lambda *_: None, pytest.fail).run()
    assert len(servers.made) <= 2 * QUEUED and len(servers.stopped) == 1
