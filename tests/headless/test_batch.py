"""Batches over servers: what is made, noted and refused, and nothing is made twice."""

import asyncio
import io
from collections.abc import Sequence
from dataclasses import replace

import pytest
from PIL import Image

from ale_edit.headless import (
    ComfyError,
    OtherVersion,
    PackMissing,
)
from ale_edit.headless.batch import EditTask, check_servers
from ale_edit.headless.jobs import Job, JobDefaults, build_jobs
from ale_edit.headless.manifest import FILE
from ale_edit.headless.pictures import as_png
from ale_edit.headless.spreading import RepeatedFailure
from ale_edit.headless.table import Problems, name_rows, read_table
from ale_edit.headless.work import RunResult
from ale_edit.tests.headless.batches import Bench, failure, jobs_of, run
from ale_edit.tests.headless.fake_server import FakeServer, colour_of, serving
from ale_edit.tests.headless.inputs import write_csv, write_inputs, write_mask


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
    assert "a mask has changed since the check" in outcome.failed["p2"]


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
    lines = sorted((line["name"], line["status"]) for line in bench.lines())
    assert lines == [("p0", "done"), ("p2", "done")]
    assert sorted(bench.done) == ["p0", "p1", "p2"]
    server.fails = lambda _prompt: None
    again = Bench(tmp_path / "out")
    assert run(again, jobs, server).made == 1 and again.done == ["p1"] and again.told == []


def test_what_nodes_said_stands_in_the_manifest(tmp_path):
    bench, (one, two) = Bench(tmp_path / "out"), jobs_of(tmp_path, 2)
    for job, notices in ((one, ("Regions: a and b overlap.",)), (two, ())):
        made = RunResult(colour_of(job.workflow.nodes), notices=notices)
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
    jobs = build_jobs(
        name_rows(read_table(write_csv(tmp_path / "in" / "edits.csv", rows))), JobDefaults()
    )
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
    assert "has changed since the check" in run(bench, [job], server).failed["p0"]


def test_a_result_of_another_shape_has_no_alpha_channel_and_that_is_told(tmp_path):
    bench = Bench(tmp_path / "out")
    write_inputs(tmp_path / "in", 1)
    Image.new("RGBA", (24, 16), (1, 2, 3, 9)).save(tmp_path / "in" / "p0.png")
    rows = [{"image": "p0.png", "edits": "box -> ring", "masks": "m0.png"}]
    (job,) = build_jobs(
        name_rows(read_table(write_csv(tmp_path / "in" / "edits.csv", rows))), JobDefaults()
    )
    task = EditTask(job, bench.manifest, False)
    task.item("r")
    task.keep(RunResult(as_png(Image.new("RGB", (48, 16)))), "http://a", {})
    told = "The result has a different shape from its source, so it does not get the alpha channel."
    assert bench.lines()[0]["notices"] == [told] and told in bench.told[0]
    assert Image.open(tmp_path / "out" / "p0.png").mode == "RGB"


def test_where_the_first_all_fail_the_others_are_left_out(tmp_path):
    server, bench = FakeServer(), Bench(tmp_path / "out")
    server.fails = lambda _prompt: failure("no")
    with pytest.raises(RepeatedFailure, match="The first 5 all failed"):
        run(bench, jobs_of(tmp_path, 9), server)
    assert len(bench.lines()) <= 6


def test_a_full_disk_of_the_server_stops_all_and_says_so(tmp_path):
    server, bench = FakeServer(), Bench(tmp_path / "out")
    server.fails = lambda _prompt: failure("[Errno 28] No space left on device: 'x.png'")
    with pytest.raises(ComfyError, match="The disk of ComfyUI at .* is full.*same command again"):
        run(bench, jobs_of(tmp_path, 3), server)
    assert not (tmp_path / "out" / FILE).exists()


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
