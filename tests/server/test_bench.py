"""The demo bench over a real server: its smoke part, and runs that are killed and go on."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ale_edit.bench import runner
from ale_edit.bench.dataset import write_dataset
from ale_edit.bench.demo_bench import main
from ale_edit.bench.demo_scenes import demo_dataset
from ale_edit.bench.editing import Plan, edit_all, read_result
from ale_edit.bench.main_job import GOES_ON
from ale_edit.bench.methods import ALE, name_of
from ale_edit.bench.tables import GRADIENTS, LEARNED
from ale_edit.editors import COMPARED
from ale_edit.headless.workers import local_workers

ROOT = Path(__file__).resolve().parents[2]
SMOKE = 15
pytestmark = pytest.mark.slow


def images(out: Path) -> dict[Path, int]:
    """The images that were made, and when."""
    return {path: path.stat().st_mtime_ns for path in sorted(out.glob("demo/images/*/*.png"))}


def argv(server, out: Path, edits: int) -> list[str]:
    methods = ["--methods", "naive", "ale", "--edits", str(edits)]
    return [*methods, "--out", str(out), "--server", server.url]


def forget(server) -> None:
    """Clear the server's history, so that `made_at` counts the images of one test."""
    body = json.dumps({"clear": True}).encode()
    request = urllib.request.Request(
        f"{server.url}/history", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60):
        pass


def made_at(server) -> Counter[str]:
    """How often the server has made each image, by the tag of its runs."""
    with urllib.request.urlopen(f"{server.url}/history", timeout=60) as reply:
        history = json.load(reply)
    return Counter(entry["prompt"][3]["ale_edit"] for entry in history.values())


@pytest.mark.ci
def test_the_smoke_part_makes_every_edit_and_a_report(server, tmp_path, capsys):
    start = time.monotonic()
    assert main(argv(server, tmp_path, SMOKE)) == 0
    print(f"{SMOKE} edits by two methods: {time.monotonic() - start:.0f} s")
    report = json.loads((tmp_path / "demo.json").read_text(encoding="utf-8"))
    methods = report["methods"]
    assert {name: m["edits"] for name, m in methods.items()} == {"naive": SMOKE, "ale": SMOKE}
    assert len(methods["ale"]["by type"]) == 5 and len(methods["ale"]["by objects"]) == 3
    for figure in ("object", "color", "material", "all", "wrong, edited", "psnr", "ssim"):
        found = methods["ale"]["figures"][figure]
        assert found["low"] <= found["value"] <= found["high"]
    kept = methods["ale"]["figures"]["psnr"]["low"]
    assert kept > methods["naive"]["figures"]["psnr"]["high"]
    assert "scene seeds" in report["setup"] and "comfyui" in report["setup"]["made on"]
    assert report["workflow"]
    for kind in ("md", "html"):
        assert "ALE-Edit (all)" in (tmp_path / f"demo.{kind}").read_text(encoding="utf-8")


@pytest.mark.ci
def test_every_editor_runs_beside_ale_and_the_report_compares_them(server, tmp_path, capsys):
    """The papers' settings of those that optimise take many minutes and are left out."""
    slow = {method.editor for method in (*GRADIENTS, *LEARNED)}
    others = [name_of(editor) for editor in COMPARED]
    papers = [f"{name_of(editor)}-paper" for editor in COMPARED if editor.name not in slow]
    names = ["ale", *others, *papers]
    options = ["--edits", "1", "--out", str(tmp_path), "--server", server.url]
    assert main(["--methods", *names, *options]) == 0
    report = json.loads((tmp_path / "demo.json").read_text(encoding="utf-8"))
    assert {name: m["edits"] for name, m in report["methods"].items()} == dict.fromkeys(names, 1)
    text = (tmp_path / "demo.md").read_text(encoding="utf-8")
    assert all(f"| {editor.title} | 1 |" in text for editor in COMPARED)
    assert all(f"{name}: workflow=" in text for name in papers)
    made = [path.read_bytes() for path in sorted(images(tmp_path))]
    assert len(set(made)) == len(names)


def test_a_killed_run_goes_on_and_makes_nothing_twice(server, tmp_path, capsys):
    edits = 4
    forget(server)
    command = [sys.executable, str(ROOT / "dev.py"), "_run", "ale_edit.bench.demo_bench"]
    with (tmp_path / "log").open("wb") as log:
        run = subprocess.Popen([*command, *argv(server, tmp_path, edits)], stdout=log, stderr=log)
        deadline = time.monotonic() + 300
        while len(images(tmp_path)) < 3 and time.monotonic() < deadline and run.poll() is None:
            time.sleep(0.05)
        os.kill(run.pid, signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
        run.wait()
    before = images(tmp_path)
    assert 3 <= len(before) < 2 * edits
    damaged, *whole = before
    original = read_result(damaged)
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 0xFF
    damaged.write_bytes(data)

    assert main(argv(server, tmp_path, edits)) == 0
    shown = capsys.readouterr().out
    assert f"{damaged} is damaged: it will be made again." in shown
    assert f"demo: {2 * edits} images, {len(whole)} are there." in shown
    after = images(tmp_path)
    assert len(after) == 2 * edits
    assert all(after[path] == before[path] for path in whole)
    assert read_result(damaged) == original
    made = made_at(server)  # also what was in the queue when the first run was killed
    assert len(made) == 2 * edits and set(made.values()) == {1}

    scores = (tmp_path / "demo.json").read_bytes()
    assert main(argv(server, tmp_path, edits)) == 0
    assert f"demo: {2 * edits} images, {2 * edits} are there." in capsys.readouterr().out
    assert images(tmp_path) == after
    assert (tmp_path / "demo.json").read_bytes() == scores
    assert not list(tmp_path.rglob("*.part"))


def test_an_edit_that_fails_at_a_node_is_told_and_the_others_are_made(server, tmp_path):
    dataset = demo_dataset(tmp_path / "demo" / "dataset", scenes=2, instances=1)
    edits = [dataset.edits[0], dataset.edits[1]]
    first, *others = edits[1].objects  # no check before the node finds a phrase too long
    long = replace(first, target=f"{'blue ' * 80}ball")
    edits[1] = replace(edits[1], objects=(long, *others))
    plan = Plan(dataset, edits, (ALE,), tmp_path / "demo")
    with local_workers([server.url]) as workers:
        outcome = edit_all(plan.tasks, workers, lambda *_: None)
    assert outcome.made == 1 and list(outcome.failed) == [f"ale/{edits[1].name}"]
    assert "ALEObjectRestrictedEmbeddings" in outcome.failed[f"ale/{edits[1].name}"]


def own_set(folder: Path, edits: int, **changes: Any) -> Path:
    """Some edits of one scene as somebody's own data set; the first has `changes`."""
    made = demo_dataset(folder, "mine", scenes=1, instances=1)
    first, *others = made.edits[:edits]
    write_dataset(
        replace(made, about={"made": "by hand"}, edits=(replace(first, **changes), *others)), {}
    )
    return folder


def run_argv(server: Any, folder: Path, out: Path, *options: str) -> list[str]:
    given = [str(folder), "--methods", "ale", "--out", str(out), "--server", server.url]
    return [*given, *options]


def asked(server: Any, path: str) -> Any:
    with urllib.request.urlopen(server.url + path, timeout=60) as reply:
        return json.load(reply)


def ours(server: Any) -> list[Any]:
    queue = asked(server, "/queue")
    return [*queue["queue_running"], *queue["queue_pending"]]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--checkpoint", "none.safetensors"], "input 'ckpt_name': 'none.safetensors' is not"),
        (["--set", "Guider.target_guidance=high"], "input 'target_guidance': 'high' is not a num"),
        (["--set", "Method.end_of_text=magic"], "'magic' is not one of"),
    ],
)
def test_what_the_server_does_not_have_is_found_before_anything_is_queued(
    server, tmp_path, capsys, options, expected
):
    before = asked(server, "/history")
    folder = own_set(tmp_path / "set", 2)
    assert runner.main(run_argv(server, folder, tmp_path / "out", *options)) == 1
    shown = capsys.readouterr()
    assert expected in shown.err and f"{server.url} cannot run" in shown.err
    assert asked(server, "/history") == before and not ours(server)
    assert not list((tmp_path / "out").rglob("*.png"))


def test_an_edit_that_fails_is_an_exit_code_beside_the_report_of_the_others(
    server, tmp_path, capsys
):
    folder = own_set(tmp_path / "set", 2, source_prompt="a photograph of nothing")
    code = runner.main(run_argv(server, folder, tmp_path, "--set", "Schedule.steps=2"))
    shown = capsys.readouterr()
    assert code == 1 and "FAILED: " in shown.out
    assert "1 of 2 images failed or are not there; the report is of the others" in shown.err
    report = json.loads((tmp_path / "mine.json").read_text(encoding="utf-8"))
    assert report["methods"]["ale"]["edits"] == 1 and len(report["failed"]) == 1


@pytest.mark.skipif(os.name == "nt", reason="Windows ends processes without a signal")
def test_a_run_that_is_ended_from_outside_leaves_nothing_at_the_server(server, tmp_path):
    folder = own_set(tmp_path / "set", 3)
    options = run_argv(server, folder, tmp_path, "--set", "Schedule.steps=50")
    command = [sys.executable, str(ROOT / "dev.py"), "bench", "run", *options]
    run = subprocess.Popen(command, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not ours(server) and time.monotonic() < deadline:
        time.sleep(0.05)
    run.terminate()
    _, told = run.communicate(timeout=60)
    assert run.returncode == 143
    assert told == f"bench run: {GOES_ON}\n"
    deadline = time.monotonic() + 30
    while ours(server):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert len(images_of(tmp_path)) < 3


def images_of(out: Path) -> list[Path]:
    return list(out.glob("mine/images/*/*.png"))
