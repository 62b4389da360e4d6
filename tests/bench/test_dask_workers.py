"""What is sent to workers: code that needs Python and aiohttp alone."""

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ale_edit.bench.dask_workers import _code, _Packing, dask_workers
from ale_edit.headless import ComfyError, ServerGone
from ale_edit.headless.spreading import Spreader
from ale_edit.headless.work import RunResult, WorkItem
from ale_edit.tests.headless.test_work import IMAGE, Slow, item, serving

TRIED = """
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "numpy", "PIL", "distributed", "comfy", "safetensors"):
            raise ImportError(f"{name} is not on a worker")

sys.meta_path.insert(0, Nothing())
sys.path[:0] = sys.argv[1:]
import pickle
from ale_edit.headless import work
assert work.__file__.startswith(sys.argv[1]), work.__file__
item = work.WorkItem("r", "ale/one", {"1": {"class_type": "X", "inputs": {}}}, {}, "Save")
try:
    work.make(pickle.loads(pickle.dumps(item)), "http://127.0.0.1:1")
except work.ServerGone as error:
    print(pickle.loads(pickle.dumps(error)))
"""


def test_the_code_for_workers_runs_with_python_and_aiohttp_alone(tmp_path):
    (tmp_path / "code.zip").write_bytes(_code())
    places = [str(tmp_path / "code.zip"), str(Path(aiohttp.__file__).parent.parent)]
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", TRIED, *places],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("No ComfyUI answers at http://127.0.0.1:1"), done.stderr


def test_the_same_code_is_the_same_file():
    assert _code() == _code()


class Recording(Executor):
    """Runs at once, and keeps what it was given."""

    def __init__(self) -> None:
        self.given: list[Any] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":
        self.given += [*args, *kwargs.values()]
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def test_dask_is_given_bytes_alone_that_show_no_password():
    executor = Recording()
    password = "http://me:secret@host:8188"
    future = _Packing(executor).submit(str.replace, f"at {password}", "at ", "")
    assert future.result() == password
    (packed,) = executor.given
    assert isinstance(packed, bytes) and b"secret" not in packed


class Cluster:
    """A scheduler and a worker, processes of their own that do not have the pack."""

    def __init__(self, folder: Path, stack: ExitStack):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        self._folder, self._stack = folder, stack
        self.address = f"tcp://127.0.0.1:{port}"
        at = ["--host", "127.0.0.1", "--port", port]
        self.scheduler = self._start("dask_scheduler", *at, "--no-dashboard")
        self.worker = self.start_worker()

    def start_worker(self) -> "subprocess.Popen[bytes]":
        return self._start(
            "dask_worker", self.address, "--nthreads", "3", "--no-nanny", "--no-dashboard"
        )

    def _start(self, name: str, *options: str) -> "subprocess.Popen[bytes]":
        log = self._stack.enter_context((self._folder / name).open("a"))
        command = [sys.executable, "-m", f"distributed.cli.{name}", *options]
        process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process


@pytest.fixture
def cluster(tmp_path) -> Iterator[Cluster]:
    pytest.importorskip("distributed")
    with ExitStack() as stack:
        yield Cluster(tmp_path, stack)


def test_neither_scheduler_nor_worker_needs_the_pack_or_logs_a_password(cluster, tmp_path):
    server = "http://me:secret@127.0.0.1:1"
    with dask_workers(cluster.address, [server]) as workers:
        given = "run", server, {}, None
        look = workers.executors[server].submit(workers.look, *given)
        with pytest.raises(ServerGone, match="No ComfyUI answers at http://127.0.0.1:1"):
            look.result(60)
        workers.stop("run")
    log = (tmp_path / "dask_worker").read_text()
    assert "ServerGone" in log and "secret" not in log


@dataclass
class Task:
    name: str
    kept: list[str]
    group: str = "g"
    tag: str = ""

    def item(self, run: str) -> WorkItem:
        return item(run=run, name=self.name)

    def keep(self, made: RunResult, _server: str, _versions: Any) -> None:
        assert made.image == IMAGE
        self.kept.append(self.name)

    def note_failure(self, error: ComfyError, _server: str, _versions: Any) -> str:
        raise error


def spread(cluster: Cluster, url: str, tell: Callable[[str], None], patience_s: float) -> list[str]:
    kept: list[str] = []
    with dask_workers(cluster.address, [url]) as workers:
        tasks = [Task(str(k), kept) for k in range(3)]
        waiting = {"patience_s": patience_s, "recheck_s": 0.5}
        Spreader(tasks, {}, None, workers, lambda *_: None, tell, **waiting).run()
    return kept


@pytest.mark.slow
@pytest.mark.parametrize("are_back", [False, True])
def test_where_all_workers_are_gone_the_run_waits_and_says_so(cluster, are_back):
    """And ends in a sentence, or does the work when one is back."""
    server, told = Slow(), list[str]()

    def tell(text: str) -> None:
        told.append(text)
        if are_back and len(told) == 1:
            server.may_take.set()
            cluster.start_worker()

    with serving(server) as url, ThreadPoolExecutor(1) as pool:
        future = pool.submit(spread, cluster, url, tell, 60 if are_back else 3)
        assert server.is_asked.wait(60)
        cluster.worker.kill()
        try:
            if are_back:
                assert sorted(future.result(90)) == ["0", "1", "2"]
            else:
                with pytest.raises(ComfyError, match="no workers any more.*Images that were made"):
                    future.result(60)
        finally:
            server.may_take.set()
    gone = f"The dask scheduler at {cluster.address} has no workers any more. Start some (dask "
    assert told[0].startswith(f"{gone}worker {cluster.address}). The run waits for them")
    assert told[1:] == (["There are workers again."] if are_back else [])
