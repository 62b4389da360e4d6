"""Benches over two real servers, one of which is killed in the middle and started again."""

import json
import re
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ale_edit.bench import make_dataset, runner
from ale_edit.bench.dask_workers import dask_workers
from ale_edit.bench.dataset import Dataset, read_dataset
from ale_edit.bench.demo_scenes import demo_dataset
from ale_edit.bench.editing import (
    BenchTask,
    Plan,
    edit_all,
    find_pending,
    image_path,
    read_result,
    read_versions,
)
from ale_edit.bench.methods import ALE, NAIVE
from ale_edit.headless import ComfyError
from ale_edit.headless.tasks import Outcome
from ale_edit.headless.workers import local_workers
from ale_edit.tests.bench.samples import ale_sample, pie_sample
from ale_edit.tests.server.conftest import new_server

pytestmark = [pytest.mark.slow, pytest.mark.ci]
METHODS = ("naive", "ale")
RECHECK_S = 1.0


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Any]]:
    base = tmp_path_factory.mktemp("two")
    with new_server(base / "a") as first, new_server(base / "b") as second:
        yield [first, second]


@pytest.fixture
def pair(servers: list[Any]) -> Iterator[list[Any]]:
    """Both servers, running again afterwards."""
    yield servers
    for server in servers:
        if server.process.poll() is not None:
            server.start()


class Killer:
    """Kills a server after some images, and has it back before the last ones are made."""

    def __init__(self, server: Any, kill_at: int, back_at: int):
        self.server, self.kill_at, self.back_at = server, kill_at, back_at
        self.starting: threading.Thread | None = None
        self.before: dict[str, int] = {}

    def __call__(self, _task: BenchTask, outcome: Outcome) -> None:
        if outcome.made == self.kill_at:
            self.server.process.kill()
            self.server.process.wait()
            self.starting = threading.Thread(target=self.server.start)
            self.starting.start()
        if outcome.made == self.back_at:
            assert self.starting is not None
            self.starting.join()
            self.before = dict(outcome.by_server)


def by_runner(
    monkeypatch: pytest.MonkeyPatch, killer: Killer, dataset: Path, out: Path, *options: str
) -> dict[str, Any]:
    """The report of `bench run` while the killer is at work."""

    def edit(tasks: Any, workers: Any, on_done: Any, tell: Any, **waiting: float) -> Outcome:
        def kill(task: BenchTask, outcome: Outcome) -> None:
            killer(task, outcome)
            on_done(task, outcome)

        return edit_all(tasks, workers, kill, tell, recheck_s=RECHECK_S, **waiting)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "edit_all", edit)
        assert runner.main(argv(dataset, out, *options)) == 0
    return json.loads((out / f"{dataset.name}.json").read_text(encoding="utf-8"))


def argv(dataset: Path, out: Path, *options: str) -> list[str]:
    return [str(dataset), "--methods", *METHODS, "--out", str(out), *options]


def at(servers: list[Any]) -> list[str]:
    return [word for server in servers for word in ("--server", server.url)]


def images(dataset: Dataset, out: Path) -> dict[Path, int]:
    """The images of all edits and methods, and when they were made; each can be read."""
    paths = [image_path(out / dataset.name, m, e.name) for m in METHODS for e in dataset.edits]
    for path in paths:
        read_result(path)
        assert "comfyui" in read_versions(path)
    return {path: path.stat().st_mtime_ns for path in paths}


def check_resumed(dataset: Path, out: Path, options: list[str], capsys: Any) -> None:
    """The same command again makes nothing, and says the same."""
    before = images(read_dataset(dataset), out)
    page = (out / f"{dataset.name}.html").read_bytes()
    capsys.readouterr()
    assert runner.main(argv(dataset, out, *options)) == 0
    assert f"{len(before)} images, {len(before)} are there." in capsys.readouterr().out
    assert images(read_dataset(dataset), out) == before
    assert (out / f"{dataset.name}.html").read_bytes() == page
    assert not list(out.rglob("*.part"))


def test_an_ale_bench_over_two_servers_one_of_which_dies_and_returns(
    pair, tmp_path, monkeypatch, capsys
):
    """Local threads; all images are made once, and the server that came back made some of them."""
    folder, dataset, out = (tmp_path / name for name in ("photos", "mine", "out"))
    made = ["ale", str(ale_sample(folder, range(2))), "--out", str(dataset)]
    assert make_dataset.main([*made, "--instances", "1", "--counts", "2"]) == 0
    options = [*at(pair), "--set", "Schedule.steps=6"]
    killer = Killer(pair[1], 3, 10)
    report = by_runner(monkeypatch, killer, dataset, out, *options)
    shown = capsys.readouterr().out
    assert "It will be tried again every 1 s." in shown and f"{pair[1].url} is back." in shown
    by_server = dict(re.findall(r"(http://[\d.:]+): (\d+)", shown))
    assert {url for url in by_server} == {server.url for server in pair}
    assert sum(int(n) for n in by_server.values()) == 20 and "FAILED" not in shown
    assert int(by_server[pair[1].url]) > killer.before[pair[1].url]
    check_resumed(dataset, out, options, capsys)
    assert {n: m["edits"] for n, m in report["methods"].items()} == dict.fromkeys(METHODS, 10)
    assert set(report["methods"]["ale"]["by objects"]) == {"2"}
    assert report["setup"]["made"]["construction"].startswith("ALE-Bench")
    assert "no CLIP model was given" in report["missing"]["leakage"] and not report["failed"]


def test_a_pie_bench_over_a_dask_cluster_and_two_servers_one_of_which_dies_and_returns(
    pair, tmp_path, monkeypatch, capsys
):
    """Two worker processes, which know nothing of the pack but what the runner sends them."""
    distributed = pytest.importorskip("distributed")
    mapping = pie_sample(tmp_path / "pie")
    dataset, out = tmp_path / "pie-bench", tmp_path / "out"
    assert make_dataset.main(["pie", str(mapping), "--out", str(dataset)]) == 0
    cluster = distributed.LocalCluster(
        n_workers=2, threads_per_worker=3, processes=True, dashboard_address=None
    )
    with cluster:
        options = ["--dask", cluster.scheduler_address, *at(pair), "--set", "Schedule.steps=2"]
        report = by_runner(monkeypatch, Killer(pair[0], 2, 4), dataset, out, *options)
        assert f"{pair[0].url} is back." in capsys.readouterr().out
        check_resumed(dataset, out, options, capsys)
    assert {n: m["edits"] for n, m in report["methods"].items()} == dict.fromkeys(METHODS, 4)
    kinds = {"1 change object", "4 change content", "6 change color", "7 change material"}
    assert set(report["methods"]["ale"]["by type"]) == kinds
    kept = report["methods"]["ale"]["figures"]["psnr"]["value"]
    assert kept > report["methods"]["naive"]["figures"]["psnr"]["value"]


def test_images_do_not_depend_on_the_way_they_were_spread(pair, tmp_path):
    dataset = demo_dataset(tmp_path / "demo" / "dataset", scenes=2, instances=1)
    found = []
    for name, urls in (("one", [pair[0].url]), ("two", [s.url for s in pair])):
        plan = Plan(dataset, dataset.edits[:2], (NAIVE, ALE), tmp_path / name)
        with local_workers(urls) as workers:
            assert edit_all(plan.tasks, workers, lambda *_: None).made == 4
        found.append([np.asarray(read_result(task.path)[0], int) for task in plan.tasks])
    for one, two in zip(*found, strict=True):
        assert np.abs(one - two).max() <= 1  # 1e-4 of a reused source branch, rounded


def test_where_the_only_server_dies_images_stay_and_another_one_goes_on(pair, tmp_path):
    dataset = demo_dataset(tmp_path / "demo" / "dataset", scenes=2, instances=1)
    plan = Plan(dataset, dataset.edits[:2], (NAIVE, ALE), tmp_path / "demo")

    def kill(_task: BenchTask, _outcome: Outcome) -> None:
        pair[1].process.kill()
        pair[1].process.wait()

    with (
        local_workers([pair[1].url]) as workers,
        pytest.raises(ComfyError, match="are kept: run the same command again"),
    ):
        edit_all(plan.tasks, workers, kill, patience_s=2.0, recheck_s=RECHECK_S)
    left = find_pending(plan.tasks, pytest.fail)
    assert 0 < len(left) < 4
    with local_workers([pair[0].url]) as workers:
        outcome = edit_all(left, workers, lambda *_: None)
    assert outcome.made == len(left) and not outcome.failed
    assert not find_pending(plan.tasks, pytest.fail)


def ask(server: Any, path: str) -> Any:
    with urllib.request.urlopen(server.url + path, timeout=60) as reply:
        return json.load(reply)


def queued(server: Any) -> int:
    queue = ask(server, "/queue")
    return len(queue["queue_running"]) + len(queue["queue_pending"])


def test_a_run_that_is_stopped_takes_its_workflows_from_the_servers(pair, tmp_path):
    dataset = demo_dataset(tmp_path / "demo" / "dataset", scenes=2, instances=1)
    edits = [replace(dataset.edits[0], name=f"edit{k}") for k in range(8)]
    long = {"Schedule": {"steps": 50}}
    quick = Plan(dataset, edits[:1], (ALE,), tmp_path / "demo")
    slow = Plan(dataset, edits[1:], (ALE,), tmp_path / "demo", settings=long)

    def stop(_task: BenchTask, _outcome: Outcome) -> None:
        assert queued(pair[0]) > 0
        raise KeyboardInterrupt

    before = set(ask(pair[0], "/history"))
    with pytest.raises(KeyboardInterrupt), local_workers([pair[0].url]) as workers:
        edit_all([*quick.tasks, *slow.tasks], workers, stop)
    assert not ask(pair[0], "/queue")["queue_pending"]
    for _ in range(600):  # the one at work ends at its next step
        if not queued(pair[0]):
            break
        time.sleep(0.1)
    runs = {key: run for key, run in ask(pair[0], "/history").items() if key not in before}
    ends = [run["status"]["status_str"] for run in runs.values()]
    assert not queued(pair[0]) and ends.count("success") == 1, ends


def test_a_dask_scheduler_that_is_not_there_is_named(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("ale_edit.bench.dask_workers.WORKERS_TIMEOUT_S", 1)
    with (
        pytest.raises(ValueError, match="No dask scheduler answers at tcp://127.0.0.1:1"),
        dask_workers("tcp://127.0.0.1:1", ["http://127.0.0.1:2"]),
    ):
        pass
