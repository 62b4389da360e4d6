"""What is sent to workers: code that needs Python and aiohttp alone."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ale_edit.bench.dask_workers import _code, _Packing, dask_workers
from ale_edit.headless import ServerGone

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
item = work.Item("r", "ale/one", {"1": {"class_type": "X", "inputs": {}}}, {}, "Save")
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


@pytest.fixture
def cluster(tmp_path) -> Iterator[str]:
    """A scheduler and a worker, processes of their own that do not have the pack."""
    pytest.importorskip("distributed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    at = f"tcp://127.0.0.1:{port}"
    scheduler = ["dask_scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    worker = ["dask_worker", at, "--nthreads", "3", "--no-nanny", "--no-dashboard"]
    with ExitStack() as stack:
        for name, *options in (scheduler, worker):
            log = stack.enter_context((tmp_path / name).open("w"))
            command = [sys.executable, "-m", f"distributed.cli.{name}", *options]
            process = stack.enter_context(
                subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
            )
            stack.callback(process.kill)
        yield at


def test_neither_scheduler_nor_worker_needs_the_pack_or_logs_a_password(cluster, tmp_path):
    server = "http://me:secret@127.0.0.1:1"
    with dask_workers(cluster, [server]) as workers:
        given = "run", server, {}, None
        look = workers.executors[server].submit(workers.look, *given)
        with pytest.raises(ServerGone, match="No ComfyUI answers at http://127.0.0.1:1"):
            look.result(60)
        workers.stop("run")
    log = (tmp_path / "dask_worker").read_text()
    assert "ServerGone" in log and "secret" not in log
