"""edit.py as people run it: from any place, under any folder's name; exit codes and messages."""

import asyncio
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from ale_edit.headless.client import Progress
from ale_edit.headless.command import BatchBar, main
from ale_edit.headless.edits import MASKED
from ale_edit.headless.jobs import JobDefaults, build_jobs
from ale_edit.headless.pack import pack_version
from ale_edit.headless.table import name_rows, read_table
from ale_edit.headless.tasks import Outcome
from ale_edit.headless.workflow import Workflow
from ale_edit.tests.headless.fake_server import FakeServer, serving
from ale_edit.tests.headless.inputs import write_csv, write_inputs

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ("__init__.py", "edit.py", "pyproject.toml")


@pytest.fixture
def pack(tmp_path) -> Path:
    """A copy of what edit.py needs, in a folder whose name is no name of Python."""
    folder = tmp_path / "custom_nodes" / "ALE-Edit 2"
    folder.mkdir(parents=True)
    for name in SHIPPED:
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "headless", folder / "headless")
    shutil.copytree(ROOT / "workflows" / "api", folder / "workflows" / "api")
    (folder / "nodes").mkdir()  # what must not shadow anything
    for name in ("nodes/__init__.py", "aiohttp.py"):
        (folder / name).write_text("raise ImportError('shadowed')")
    return folder


@pytest.mark.parametrize("from_its_folder", [True, False])
def test_it_runs_from_its_folder_and_from_anywhere(pack, tmp_path, from_its_folder):
    command = ["edit.py"] if from_its_folder else [str(pack / "edit.py")]
    write_csv(tmp_path / "edits.csv", write_inputs(tmp_path, 1))
    done = subprocess.run(
        [sys.executable, *command, str(tmp_path / "edits.csv"), "--server", "http://127.0.0.1:1"],
        cwd=pack if from_its_folder else tmp_path,
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "COMFYUI_PATH"},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("edit.py: No ComfyUI answers at http://127.0.0.1:1")
    assert "Traceback" not in done.stderr


def test_what_it_needs_is_in_the_published_pack():
    left_out = (ROOT / ".comfyignore").read_text().split()
    for needed in (*SHIPPED, "headless/", "workflows/", "web/", "docs/"):
        assert needed not in left_out


def served(argv: list[str], server: FakeServer) -> int:
    async def whole() -> int:
        async with serving(server) as urls:
            return await asyncio.to_thread(main, [*argv, "--server", urls[0]])

    return asyncio.run(whole())


@pytest.fixture
def table(tmp_path) -> Path:
    return write_csv(tmp_path / "in" / "edits.csv", write_inputs(tmp_path / "in", 3))


def test_a_table_is_edited_and_the_second_time_nothing_is_done(table, tmp_path, capsys):
    server, argv = FakeServer(), [str(table), "--out", str(tmp_path / "out")]
    assert served(argv, server) == 0
    told = capsys.readouterr().out
    assert "There is no --checkpoint: the demo model edits" in told
    lines = re.findall(r"^(\d/3) (p\d), ", told, re.MULTILINE)  # of two at once, either ends first
    assert [number for number, _ in lines] == ["1/3", "2/3", "3/3"]
    assert {name for _, name in lines} == {"p0", "p1", "p2"}
    assert "3 made. Images and manifest.jsonl are in" in told
    assert served(argv, server) == 0
    assert "0 made, 3 already there." in capsys.readouterr().out and len(server.ran) == 3


@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without a signal")
def test_in_the_background_of_a_script_it_can_be_ended(table, tmp_path):
    """There Ctrl-C is ignored, which SIGTERM must not be."""
    ignoring = partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # a server that hangs
        at = f"http://127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, str(ROOT / "edit.py"), str(table), "--server", at]
        process = subprocess.Popen(
            command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=ignoring
        )
        silent.settimeout(60)
        connection, _ = silent.accept()
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=20)
        connection.close()
    assert process.returncode == 130 and "Run it again to resume" in told


def test_an_image_and_a_folder_are_edited_without_a_table(table, tmp_path):
    server, folder = FakeServer(), tmp_path / "in"
    argv = ["--image", str(folder / "p0.png"), "--edit", "box -> ring", "--mask"]
    assert served([*argv, str(folder / "m0.png"), "--out", str(tmp_path / "one")], server) == 0
    assert (tmp_path / "one" / "p0.png").is_file()
    argv = ["--image", str(folder), "--edit", "box -> ring", "--out", str(tmp_path / "all")]
    assert served(argv, server) == 0
    assert len(list((tmp_path / "all").glob("*.png"))) == 6


def test_a_name_that_the_output_cannot_show_stops_nothing(tmp_path, monkeypatch):
    rows = [{**row, "name": "жук"} for row in write_inputs(tmp_path / "in", 1)]
    argv = [str(write_csv(tmp_path / "in" / "edits.csv", rows)), "--out", str(tmp_path / "out")]
    told = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(told, encoding="cp1252"))
    assert served(argv, FakeServer()) == 0
    assert b"1/1 \\u0436\\u0443\\u043a" in told.getvalue()
    assert (tmp_path / "out" / "жук.png").is_file()


def test_check_edits_nothing(table, tmp_path, capsys):
    server, out = FakeServer(), tmp_path / "out"
    assert served([str(table), "--out", str(out), "--check"], server) == 0
    assert "No problems found. 3 of 3 images would be made" in capsys.readouterr().out
    assert not server.ran and not server.uploads and not out.exists()


def test_every_missing_image_and_mask_is_found_by_the_check(tmp_path, capsys):
    """Two of the first row and one of the second, which are there twice."""
    folder = tmp_path / "in"
    rows = write_inputs(folder, 2)
    rows[0]["edits"], rows[0]["masks"] = "box -> ring; ball -> cone", "none.png; m9.png"
    for name in ("p0.png", "m1.png"):
        (folder / name).unlink()
    table = write_csv(folder / "edits.csv", rows)
    assert served([str(table), "--out", str(tmp_path / "out"), "--check"], FakeServer()) == 2
    told = capsys.readouterr().err.splitlines()
    for line, name in ((2, "p0.png"), (2, "none.png"), (2, "m9.png"), (3, "m1.png")):
        expected = f"line {line}: There is no file {folder / name}. Correct the path."
        assert any(text.endswith(expected) for text in told)
    assert len(told) == 5


def test_the_check_finds_images_that_the_workflow_names_and_the_server_does_not_have(
    table, tmp_path, capsys
):
    workflow = Workflow.load(MASKED)
    for title in ("style", "palette", "old"):
        file = {"style": "style.png", "palette": "sub/palette.png", "old": "old.png [output]"}
        workflow.add(title, "LoadImage", {"image": file[title]})
    own = tmp_path / "own.json"
    own.write_text(json.dumps(workflow.nodes))
    server = FakeServer()
    options = {"image_upload": True}
    server.nodes["LoadImage"] = {"input": {"required": {"image": [["listed.png"], options]}}}
    argv = [str(table), "--out", str(tmp_path / "out"), "--workflow", str(own), "--check"]
    assert served(argv, server) == 2
    told = capsys.readouterr().err
    for title, file in (("style", "style.png"), ("palette", "sub/palette.png")):
        assert f"'{title}' (LoadImage), input 'image': '{file}' is not a file in" in told
    assert "'old' (LoadImage), input 'image': 'old.png [output]' is not a file in" in told
    assert "Source image" not in told and "Mask 1" not in told  # which edit.py uploads
    server.files = {"input/style.png", "input/sub/palette.png", "output/old.png"}
    assert served(argv, server) == 0
    workflow.fill("style", image="listed.png")
    own.write_text(json.dumps(workflow.nodes))
    server.files.remove("input/style.png")
    assert served(argv, server) == 0


@pytest.mark.parametrize("check", [[], ["--check"]])
@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://127.0.0.1:1", "No ComfyUI answers at http://127.0.0.1:1 (Connection refused). "),
        ("127.0.0.1:8188", "'127.0.0.1:8188' is not an address. Write http://HOST:PORT."),
        ("http://127.0.0.1:port", "'http://127.0.0.1:port' is not an address."),
        ("http://", "'http:' is not an address."),
    ],
)
def test_a_wrong_address_is_exit_code_2_and_nothing_is_said_of_images(
    table, tmp_path, capsys, address, expected, check
):
    argv = [str(table), "--out", str(tmp_path / "out")]
    assert served(argv, FakeServer()) == 0
    (tmp_path / "out" / "p1.png").unlink()
    capsys.readouterr()
    assert main([*argv, "--server", address, *check]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith(f"edit.py: {expected}")
    assert said.err.endswith("edit.py: Nothing was queued.\n") and said.err.count("\n") == 2


def test_an_address_is_looked_at_before_the_table(tmp_path, capsys):
    assert main([str(tmp_path / "none.csv"), "--server", "localhost:8188"]) == 2
    assert "'localhost:8188' is not an address" in capsys.readouterr().err


def test_a_second_edit_of_an_image_replaces_nothing(table, tmp_path, capsys):
    server, image, out = FakeServer(), str(table.parent / "p0.png"), tmp_path / "out"
    argv = ["--image", image, "--out", str(out), "--edit"]
    assert served([*argv, "box -> ring"], server) == 0
    first = (out / "p0.png").read_bytes()
    assert served([*argv, "box -> cone", "--name", "cone"], server) == 0
    assert (out / "p0.png").read_bytes() == first != (out / "cone.png").read_bytes()
    capsys.readouterr()
    assert served([*argv, "box -> star"], server) == 0
    said = capsys.readouterr().out
    assert f"{out / 'p0.png'} was made from something else (edits): its row will run" in said
    assert (out / "p0.kept-1.png").read_bytes() == first != (out / "p0.png").read_bytes()


def test_a_row_that_fails_makes_the_exit_code_1(table, tmp_path, capsys):
    server = FakeServer()
    bad = build_jobs(name_rows(read_table(table)), JobDefaults())[1].workflow.inputs(
        "Source image"
    )["image"]
    failure = {
        **{"node_id": "9", "node_type": "ALERegions", "exception_message": "no object"},
        **{"exception_type": "ValueError", "traceback": []},
    }
    server.fails = lambda prompt: failure if prompt["2"]["inputs"]["image"] == bad else None
    assert served([str(table), "--out", str(tmp_path / "out")], server) == 1
    told = capsys.readouterr().out
    assert "failed: " in told and "line 3 (p1): 'Regions' (ALERegions): no object" in told
    assert "2 made, 1 failed." in told


def test_a_row_that_is_cancelled_in_comfyui_is_told_and_left_for_the_next_run(
    table, tmp_path, capsys
):
    server, argv = FakeServer(), [str(table), "--out", str(tmp_path / "out")]
    server.ending, server.fails = "execution_interrupted", lambda _prompt: {}
    assert served(argv, server) == 1
    told = capsys.readouterr().out
    assert told.count("was cancelled in ComfyUI at http://") == 3 and "failed" not in told
    assert "0 made, 3 cancelled." in told
    server.fails = lambda _prompt: None
    assert served(argv, server) == 0
    assert "3 made." in capsys.readouterr().out


def test_all_that_is_wrong_is_told_before_anything_is_queued(table, tmp_path, capsys):
    (table.parent / "p1.png").unlink()
    (table.parent / "m2.png").unlink()
    server = FakeServer()
    assert served([str(table), "--out", str(tmp_path / "out")], server) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "line 3: There is no file" in lines[0] and "line 4: There is no file" in lines[1]
    assert lines[2] == "edit.py: Nothing was queued." and not server.uploads


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], "Give a table, or --image with --edit"),
        (["t.csv", "--image", "a.png"], "Give a table, or --image"),
        (["t.csv", "--edit", "a -> b"], "go with --image; a table has columns for them."),
        (["--image", "a.png"], "--image needs --edit"),
        (["--image", "a.png", "--edit", "a to b"], "not of the form"),
        (["none.csv"], "There is no table none.csv"),
        (["IN/edits.csv", "--set", "seed"], "'seed' is not of the form NAME=VALUE"),
        (["IN/edits.csv", "--lora", "l"], "needs a checkpoint"),
        (["IN/edits.csv", "--result", "x"], "with --workflow. Give --workflow, or leave out --res"),
        (["IN/edits.csv", "--workflow", "w.json", "--lcm"], "--workflow brings its own model"),
        (
            ["IN/edits.csv", "--workflow", "w.json"],
            "no workflow file w.json. Correct the path.",
        ),
        (["IN/edits.csv", "--out", "IN"], "is an input of"),
        (["IN/edits.csv", "--name", "x"], "--edit, --mask and --name go with --image; a table has"),
        (["--image", "IN", "--edit", "a -> b", "--name", "x"], "--name is for one image, and"),
        (["--image", "IN/p0.png", "--edit", "a -> b", "--name", "x/y"], "the name 'x/y' cannot be"),
    ],
)
def test_wrong_arguments_are_one_sentence_and_exit_code_2(table, argv, expected, capsys):
    argv = [text.replace("IN", str(table.parent)) for text in argv]
    assert main(argv) == 2
    assert expected in capsys.readouterr().err


def test_a_checkpoint_that_the_server_does_not_have_is_told_with_those_it_has(
    table, tmp_path, capsys
):
    server = FakeServer()
    server.nodes["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"] = [["a.ckpt"], {}]
    argv = [str(table), "--out", str(tmp_path / "out"), "--checkpoint", "b.ckpt"]
    assert served(argv, server) == 2
    told = capsys.readouterr().err
    assert "'Model' (CheckpointLoaderSimple), input 'ckpt_name': 'b.ckpt' is not one of a.ckpt" in (
        told
    )


@pytest.mark.parametrize(("version", "code"), [("9.9", 3), (pack_version(), 0)])
def test_another_version_of_the_pack_is_exit_code_3(table, tmp_path, capsys, version, code):
    server = FakeServer()
    server.version = version
    assert served([str(table), "--out", str(tmp_path / "out")], server) == code
    assert ("has version 9.9 of the pack" in capsys.readouterr().err) == bool(code)


def test_a_full_disk_here_is_told_and_nothing_is_lost(table, tmp_path, capsys, monkeypatch):
    server, argv = FakeServer(), [str(table), "--out", str(tmp_path / "out")]
    with monkeypatch.context() as patch:

        def full(_number: int) -> None:
            raise OSError(28, "No space left on device")

        patch.setattr("os.fsync", full)
        assert served(argv, server) == 3
    assert (
        "No space left on device. Finished images are kept. Solve this" in capsys.readouterr().err
    )
    assert served(argv, server) == 0


def test_the_bar_shows_place_time_left_and_what_is_at_work(table, capsys, monkeypatch):
    first, other, *_ = build_jobs(name_rows(read_table(table)), JobDefaults())
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    bar = BatchBar(3, is_terminal=True)
    now[0] += 10
    bar.finish_job(first, Outcome(made=1))
    bar.progress(first.name, Progress("Sample", 3, 15))
    shown = capsys.readouterr().out.split("\r")[-1].rstrip()
    assert shown == "[######--------------] 1/3, 10.0 s each, 0:00:20 left  p0: Sample 3/15"
    bar.progress(other.name, Progress("", ahead=1))  # it waits for ours: nothing new
    assert capsys.readouterr().out == ""
    bar.finish_job(first, Outcome(made=2))
    bar.progress(other.name, Progress("", ahead=2))
    bar.finish_job(first, Outcome(made=1, failed={"p0": "no masks"}))
    bar.close()
    told = capsys.readouterr().out
    assert "p1: waiting, 2 before it" in told and "failed: no masks\n" in told
    assert max(map(len, told.replace("\n", "\r").split("\r"))) <= 99
