"""Batches over servers that come and go, and runs that are stopped: nothing is lost."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from ale_edit.headless import (
    ComfyClient,
    ServerGone,
    spreading,
)
from ale_edit.headless.manifest import FILE
from ale_edit.headless.tasks import Outcome, tag_of
from ale_edit.tests.headless.batches import Bench, jobs_of, run
from ale_edit.tests.headless.fake_server import FakeServer, colour_of, serving


def test_a_server_that_dies_and_comes_back_finishes_its_work(tmp_path):
    server, bench, jobs = FakeServer(0.2), Bench(tmp_path / "out"), jobs_of(tmp_path, 5)

    async def whole() -> Outcome:
        async with serving(server) as urls:
            task = asyncio.create_task(bench.run(urls, jobs))
            while len(bench.done) < 2:
                await asyncio.sleep(0.02)
            await server.stop()
            await asyncio.sleep(6)
            await server.start()
            return await task

    bench.patience_s = 30
    assert asyncio.run(whole()).made == 5
    assert sorted(bench.done) == [job.name for job in jobs]
    assert any("It will be tried again" in text for text in bench.told)
    assert any("is back" in text for text in bench.told)


def test_what_a_dead_server_had_goes_to_the_other(tmp_path):
    dying, other = FakeServer(0.3), FakeServer(0.3)
    bench, jobs = Bench(tmp_path / "out", patience_s=1), jobs_of(tmp_path, 6)

    async def whole() -> Outcome:
        async with serving(dying, other) as urls:
            task = asyncio.create_task(bench.run(urls, jobs))
            while not bench.done:
                await asyncio.sleep(0.02)
            await dying.stop()
            return await task

    assert asyncio.run(whole()).made == 6
    assert sorted(bench.done) == [job.name for job in jobs]


def test_a_server_that_is_back_after_long_is_used_again_while_others_work(tmp_path):
    dying, other = FakeServer(0.2), FakeServer(0.4)
    bench, jobs = Bench(tmp_path / "out", patience_s=0), jobs_of(tmp_path, 24)

    async def whole() -> Outcome:
        async with serving(dying, other) as urls:
            task = asyncio.create_task(bench.run(urls, jobs))
            while not dying.ran:
                await asyncio.sleep(0.02)
            await dying.stop()
            while not bench.told:
                await asyncio.sleep(0.02)
            before = len(dying.ran)
            await dying.start()
            outcome = await task
            assert len(dying.ran) > before
            return outcome

    assert asyncio.run(whole()).made == 24 and len(bench.done) == 24


def test_without_any_server_the_run_ends_and_what_was_made_stays(tmp_path):
    server, bench, jobs = FakeServer(0.1), Bench(tmp_path / "out", 1), jobs_of(tmp_path, 6)

    async def whole() -> None:
        async with serving(server) as urls:
            task = asyncio.create_task(bench.run(urls, jobs))
            while len(bench.done) < 2:
                await asyncio.sleep(0.02)
            await server.stop()
            with pytest.raises(ServerGone):
                await task

    asyncio.run(whole())
    kept = len(bench.done)
    assert run(Bench(tmp_path / "out"), jobs, FakeServer()).made == 6 - kept


def test_a_run_that_was_restarted_away_under_us_is_made_again(tmp_path):
    """The server was quickly restarted: it answers, and knows nothing of our runs."""
    server, bench, jobs = FakeServer(0.3), Bench(tmp_path / "out"), jobs_of(tmp_path, 2)

    async def whole() -> Outcome:
        async with serving(server) as urls:
            task = asyncio.create_task(bench.run(urls, jobs))
            while not server.running:
                await asyncio.sleep(0.02)
            server.pending, server.running = [], []
            return await task

    assert asyncio.run(whole()).made == 2


def test_what_a_killed_process_left_in_the_queue_is_taken_over(tmp_path):
    server, jobs = FakeServer(0.4), jobs_of(tmp_path, 3)

    async def whole(bench: Bench) -> Outcome:
        async with serving(server) as urls:
            async with ComfyClient(urls[0]) as client:  # as if killed after queueing two
                for job in jobs[:2]:
                    await client.queue(job.workflow, tag_of(job.fingerprint, bench.out))
            return await bench.run(urls, jobs)

    bench = Bench(tmp_path / "out")
    assert asyncio.run(whole(bench)).made == 3 and len(server.ran) == 3
    for job in jobs:
        assert (tmp_path / "out" / f"{job.name}.png").read_bytes() == colour_of(job.workflow.nodes)


def test_a_run_for_another_folder_is_left_to_its_own_process(tmp_path):
    """Who took it over would take it away on Ctrl-C."""
    server, jobs = FakeServer(0.2), jobs_of(tmp_path, 2)

    async def whole() -> None:
        async with serving(server) as urls:
            for name in ("one", "two"):
                assert (await Bench(tmp_path / name).run(urls, jobs)).made == 2
            os.chdir(tmp_path)
            assert (await Bench(Path("two")).run(urls, jobs)).made == 0
            (tmp_path / "two" / FILE).unlink()
            for image in (tmp_path / "two").glob("*.png"):
                image.unlink()
            assert (await Bench(Path("two")).run(urls, jobs)).made == 2

    before = Path.cwd()
    try:
        asyncio.run(whole())
    finally:
        os.chdir(before)
    assert len(server.ran) == 4  # and not 2, nor 6: the last two were found in the history


def test_redo_takes_nothing_over(tmp_path):
    server, jobs = FakeServer(), jobs_of(tmp_path, 2)

    async def whole() -> None:
        async with serving(server) as urls:
            await Bench(tmp_path / "out").run(urls, jobs)
            await Bench(tmp_path / "out").run(urls, jobs, redo=True)

    asyncio.run(whole())
    assert len(server.ran) == 4


class CtrlC(BaseException):
    """As KeyboardInterrupt, which asyncio would not bring out of its thread."""


def test_stopping_takes_our_runs_out_of_the_queue_and_leaves_those_of_others(tmp_path, monkeypatch):
    server, bench, jobs = FakeServer(30), Bench(tmp_path / "out"), jobs_of(tmp_path, 4)
    theirs = [[0, "theirs", {}, {}, []], [0, "also theirs", {}, {}, []]]

    def interrupted(*given: Any) -> Any:
        if len(server.pending) < 2:
            return wait(*given)
        server.pending.append(theirs[1])
        raise CtrlC

    wait = spreading.wait
    monkeypatch.setattr(spreading, "wait", interrupted)
    monkeypatch.setattr(spreading, "WAKE_S", 0.05)

    async def whole() -> None:
        async with serving(server) as urls:
            server.pending.append(theirs[0])
            with pytest.raises(CtrlC):
                await bench.run(urls, jobs)
            left = [item[1] for item in [*server.running, *server.pending]]
            assert left == ["theirs", "also theirs"]

    asyncio.run(whole())
