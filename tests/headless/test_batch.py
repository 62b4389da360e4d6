"""Batches over one and two servers that come and go: nothing is lost, nothing is made twice."""

import asyncio
import io
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ale_edit.headless import (
    ComfyClient,
    ComfyError,
    OtherVersion,
    PackMissing,
    Progress,
    ServerGone,
    spreading,
)
from ale_edit.headless.batch import EditTask, check_servers, edit_jobs
from ale_edit.headless.jobs import How, Job, build_jobs
from ale_edit.headless.manifest import FILE, Manifest
from ale_edit.headless.pictures import as_png
from ale_edit.headless.spreading import Hopeless, Outcome, tag_of
from ale_edit.headless.table import Problems, named, read_table
from ale_edit.headless.work import Made
from ale_edit.tests.headless.fake_server import FakeServer, colour_of, serving
from ale_edit.tests.headless.inputs import write_csv, write_inputs, write_mask


def jobs_of(folder: Path, count: int, **columns: str) -> list[Job]:
    rows = [{**row, **columns} for row in write_inputs(folder / "in", count)]
    return build_jobs(named(read_table(write_csv(folder / "in" / "edits.csv", rows))), How())


def failure(message: str) -> dict[str, Any]:
    return {
        "node_id": "9",
        "node_type": "ALERegions",
        "exception_message": message,
        "exception_type": "ValueError",
        "traceback": [],
        "current_inputs": {"edits": ["x"], "dilation": [0.01]},
    }


class Bench:
    """A batch into a folder, with all that it told."""

    def __init__(self, out: Path, patience_s: float = 5):
        self.out, self.patience_s = out, patience_s
        self.told: list[str] = []
        self.done: list[str] = []
        self.steps: list[tuple[str, Progress]] = []
        self.manifest = Manifest(out, self.told.append)

    async def run(self, urls: Sequence[str], jobs: Sequence[Job], *, redo: bool = False) -> Outcome:
        work = partial(
            edit_jobs,
            self.manifest.pending(jobs, redo=redo),
            urls,
            self.manifest,
            tell=self.told.append,
            on_done=lambda job, _outcome: self.done.append(job.name),
            on_progress=lambda name, step: self.steps.append((name, step)),
            patience_s=self.patience_s,
            recheck_s=0.3,
            redo=redo,
        )
        return await asyncio.wait_for(asyncio.to_thread(work), 60)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / FILE).read_text().splitlines()]


def run(bench: Bench, jobs: Sequence[Job], *servers: FakeServer) -> Outcome:
    async def whole() -> Outcome:
        async with serving(*servers) as urls:
            return await bench.run(urls, jobs)

    return asyncio.run(whole())


def test_every_image_is_what_its_workflow_gives_and_is_made_once(tmp_path):
    server, bench, jobs = FakeServer(), Bench(tmp_path / "out"), jobs_of(tmp_path, 5)
    outcome = run(bench, jobs, server)
    assert outcome.made == 5 and not outcome.failed and sorted(bench.done) == [j.name for j in jobs]
    for job in jobs:
        assert (tmp_path / "out" / f"{job.name}.png").read_bytes() == colour_of(job.workflow.nodes)
        assert (tmp_path / "out" / "regions" / f"{job.name}.png").is_file()
    assert len(server.ran) == 5 and len(set(server.uploads)) == len(server.uploads) == 10
    line = bench.lines()[0]
    assert line["server"] == server.url and line["versions"]["comfyui"] == "0.3.75"
    assert line["versions"]["ale_edit"] == server.version and line["seconds"] >= 0
    assert line["regions"] == f"regions/{line['name']}.png"


def test_a_second_run_makes_nothing(tmp_path):
    server, jobs = FakeServer(), jobs_of(tmp_path, 3)
    run(Bench(tmp_path / "out"), jobs, server)
    again = Bench(tmp_path / "out")
    assert run(again, jobs, server).made == 0 and len(server.ran) == 3 and again.told == []


def test_a_file_that_changes_or_goes_after_the_check_fails_its_row_alone(tmp_path):
    server, bench, jobs = FakeServer(), Bench(tmp_path / "out"), jobs_of(tmp_path, 4)
    (tmp_path / "in" / "p1.png").unlink()
    write_mask(tmp_path / "in" / "m2.png", (0, 0, 3, 3))
    outcome = run(bench, jobs, server)
    assert outcome.made == 2 and "There is no file" in outcome.failed["p1"]
    assert "a mask was changed since the check" in outcome.failed["p2"]


def test_a_run_without_an_image_fails_its_row(tmp_path):
    server, bench, jobs = FakeServer(), Bench(tmp_path / "out"), jobs_of(tmp_path, 1)
    outcome = run(bench, [replace(jobs[0], result="Elsewhere")], server)
    assert "but no image came from 'Elsewhere'" in outcome.failed["p0"]


def test_two_servers_share_the_work(tmp_path):
    one, two = FakeServer(0.1), FakeServer(0.1)
    bench, jobs = Bench(tmp_path / "out"), jobs_of(tmp_path, 10)
    assert run(bench, jobs, one, two).made == 10
    assert len(one.ran) + len(two.ran) == 10 and one.ran and two.ran


def test_a_node_that_fails_is_noted_with_its_input_and_the_others_go_on(tmp_path):
    server, bench, jobs = FakeServer(), Bench(tmp_path / "out"), jobs_of(tmp_path, 4)
    bad = jobs[1].workflow.inputs("Source image")["image"]
    server.fails = lambda prompt: (
        failure("Regions: the dilation input is 9. Lower it.")
        if prompt["2"]["inputs"]["image"] == bad
        else None
    )
    outcome = run(bench, jobs, server)
    assert outcome.made == 3 and list(outcome.failed) == ["p1"]
    assert "line 3 (p1): 'Regions' (ALERegions), input 'dilation'" in outcome.failed["p1"]
    (line,) = [line for line in bench.lines() if line["status"] == "failed"]
    assert line["error"]["node"] == "Regions" and line["error"]["class"] == "ALERegions"
    assert line["error"]["input"] == "dilation" and "Lower it" in line["error"]["message"]
    server.fails = lambda _prompt: None
    assert run(Bench(tmp_path / "out"), jobs, server).made == 1


def test_a_row_that_is_cancelled_in_comfyui_has_not_failed_and_the_next_run_makes_it(tmp_path):
    server, bench, jobs = FakeServer(), Bench(tmp_path / "out"), jobs_of(tmp_path, 3)
    cancelled = jobs[1].workflow.inputs("Source image")["image"]
    server.ending = "execution_interrupted"
    server.fails = lambda p: {} if p["2"]["inputs"]["image"] == cancelled else None
    outcome = run(bench, jobs, server)
    assert outcome.made == 2 and not outcome.failed and list(outcome.cancelled) == ["p1"]
    assert sorted((line["name"], line["status"]) for line in bench.lines()) == [
        ("p0", "done"),
        ("p2", "done"),
    ]
    assert sorted(bench.done) == ["p0", "p1", "p2"]
    server.fails = lambda _prompt: None
    again = Bench(tmp_path / "out")
    assert run(again, jobs, server).made == 1 and again.done == ["p1"] and again.told == []


def test_what_nodes_said_stands_in_the_manifest(tmp_path):
    bench, (one, two) = Bench(tmp_path / "out"), jobs_of(tmp_path, 2)
    for job, notices in ((one, ("Regions: a and b overlap.",)), (two, ())):
        made = Made(colour_of(job.workflow.nodes), notices=notices)
        EditTask(job, bench.manifest, False).keep(made, "http://a", {})
    first, second = bench.lines()
    assert first["notices"] == ["Regions: a and b overlap."] and "notices" not in second


def test_the_alpha_channel_of_a_source_is_in_its_result(tmp_path):
    """Of the row that has one; the pixels are the server's."""
    server, bench = FakeServer(), Bench(tmp_path / "out")
    rows = write_inputs(tmp_path / "in", 2)
    source = Image.open(tmp_path / "in" / "p1.png").convert("RGBA")
    source.putalpha(Image.linear_gradient("L").resize(source.size))
    source.save(tmp_path / "in" / "p1.png")
    jobs = build_jobs(named(read_table(write_csv(tmp_path / "in" / "edits.csv", rows))), How())
    assert run(bench, jobs, server).made == 2
    plain, clear = (Image.open(tmp_path / "out" / f"p{k}.png") for k in range(2))
    made = [Image.open(io.BytesIO(colour_of(job.workflow.nodes))) for job in jobs]
    assert plain.mode == "RGB" and plain.tobytes() == made[0].tobytes()
    assert clear.mode == "RGBA" and clear.convert("RGB").tobytes() == made[1].tobytes()
    assert clear.getchannel("A").tobytes() == source.getchannel("A").tobytes()
    assert {line["name"]: "alpha" in line for line in bench.lines()} == {"p0": False, "p1": True}
    again = Bench(tmp_path / "out")
    assert run(again, jobs, server).made == 0 and again.told == []


def test_an_alpha_channel_that_changes_after_the_check_fails_its_row(tmp_path):
    server, bench = FakeServer(), Bench(tmp_path / "out")
    (job,) = jobs_of(tmp_path, 1)
    source = Image.open(tmp_path / "in" / "p0.png").convert("RGBA")
    source.putpixel((0, 0), (0, 60, 90, 9))
    source.save(tmp_path / "in" / "p0.png")
    assert "was changed since the check" in run(bench, [job], server).failed["p0"]


def test_a_result_of_another_shape_has_no_alpha_channel_and_that_is_told(tmp_path):
    bench = Bench(tmp_path / "out")
    write_inputs(tmp_path / "in", 1)
    Image.new("RGBA", (24, 16), (1, 2, 3, 9)).save(tmp_path / "in" / "p0.png")
    rows = [{"image": "p0.png", "edits": "box -> ring", "masks": "m0.png"}]
    (job,) = build_jobs(named(read_table(write_csv(tmp_path / "in" / "edits.csv", rows))), How())
    task = EditTask(job, bench.manifest, False)
    task.item("r")
    task.keep(Made(as_png(Image.new("RGB", (48, 16)))), "http://a", {})
    told = "The result has another shape than its source, whose alpha channel it does not get."
    assert bench.lines()[0]["notices"] == [told] and told in bench.told[0]
    assert Image.open(tmp_path / "out" / "p0.png").mode == "RGB"


def test_where_the_first_all_fail_the_others_are_left_out(tmp_path):
    server, bench = FakeServer(), Bench(tmp_path / "out")
    server.fails = lambda _prompt: failure("no")
    with pytest.raises(Hopeless, match="The first 5 all failed"):
        run(bench, jobs_of(tmp_path, 9), server)
    assert len(bench.lines()) <= 6


def test_a_full_disk_of_the_server_stops_all_and_says_so(tmp_path):
    server, bench = FakeServer(), Bench(tmp_path / "out")
    server.fails = lambda _prompt: failure("[Errno 28] No space left on device: 'x.png'")
    with pytest.raises(ComfyError, match="The disk of ComfyUI at .* is full.*same command again"):
        run(bench, jobs_of(tmp_path, 3), server)
    assert not (tmp_path / "out" / FILE).exists()


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
    assert any("It is asked again" in text for text in bench.told)
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
    """The server was quickly started anew: it answers, and knows nothing of our runs."""
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


# -- the check before ------------------------------------------------------------------------------


def check(jobs: Sequence[Job], *servers: FakeServer, any_version: bool = False) -> None:
    async def whole() -> None:
        async with serving(*servers) as urls:
            await check_servers(urls, jobs, any_version=any_version)

    asyncio.run(whole())


def test_a_server_with_the_pack_passes(tmp_path):
    check(jobs_of(tmp_path, 1), FakeServer())


def test_a_server_without_the_pack_is_told(tmp_path):
    server = FakeServer()
    server.nodes = {name: n for name, n in server.nodes.items() if not name.startswith("ALE")}
    with pytest.raises(PackMissing, match="has no node ALEBackgroundBlending.*custom_nodes"):
        check(jobs_of(tmp_path, 1), server)


def test_another_version_is_refused_unless_accepted(tmp_path):
    server, jobs = FakeServer(), jobs_of(tmp_path, 1)
    server.version = "9.9"
    with pytest.raises(OtherVersion, match="has version 9.9 of the pack, this is"):
        check(jobs, server)
    check(jobs, server, any_version=True)
    server.version = None  # it does not tell
    check(jobs, server)


def test_servers_of_different_versions_are_not_mixed(tmp_path):
    one, two = FakeServer(), FakeServer()
    two.version = None
    with pytest.raises(OtherVersion, match="different versions.*unknown at"):
        check(jobs_of(tmp_path, 1), one, two)


def test_every_value_that_the_server_would_not_take_is_told_with_its_row(tmp_path):
    with pytest.raises(Problems) as caught:
        check(jobs_of(tmp_path, 2, steps="99", type="colour"), FakeServer())
    told = str(caught.value)
    assert "line 2 (and 1 more row): 'Schedule' (ALELCMSchedule), input 'steps': 99 is not" in told
    assert "line 2 (and 1 more row): 'Self-attention' (ALESelfAttentionInjection)" in told
    assert "'colour' is not one of color, material" in told
