"""The workers of a dask cluster as executors, for machines that reach the ComfyUI servers."""

import hashlib
import io
import pickle
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from ..headless.work import stop
from ..headless.workers import Workers

WORKERS_TIMEOUT_S = 30
ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def dask_workers(address: str, servers: Sequence[str]) -> Iterator[Workers]:
    """The workers of the dask scheduler at `address`; each server is served by one of them, and
    by another one where that is lost. They must reach the servers under their addresses."""
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        raise ValueError(
            f"--dask needs the package distributed ({error}). Install it, or leave --dask out."
        ) from error
    try:
        client = Client(address, timeout=WORKERS_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError) as error:  # its TimeoutError is an OSError
        raise ValueError(
            f"No dask scheduler answers at {address} ({error}). Start it, or correct --dask."
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=WORKERS_TIMEOUT_S)
        except TimeoutError as error:
            raise ValueError(
                f"The dask scheduler at {address} has no workers. Start some: dask worker {address}"
            ) from error
        client.register_plugin(_plugin(_code()))
        addresses = sorted(client.scheduler_info(n_workers=-1)["workers"])
        options = {"pure": False, "allow_other_workers": True}
        executors = {
            url: _Packing(client.get_executor(workers=[addresses[k % len(addresses)]], **options))
            for k, url in enumerate(servers)
        }
        yield Workers(
            executors,
            partial(_stop_everywhere, client),
            lost=(KilledWorker,),
            missing=partial(_missing, client, address),
        )


def _missing(client: Any, address: str) -> str:
    """A sentence where the scheduler has no worker; the futures say it where it is gone itself."""
    with suppress(OSError):
        if not client.nthreads():
            return (
                f"The dask scheduler at {address} has no workers any more. Start some (dask worker "
                f"{address})."
            )
    return ""


def _stop_everywhere(client: Any, run: str) -> None:
    with suppress(OSError):  # no scheduler any more: what ended the run is the error to be told
        client.run(stop, run, on_error="ignore")


class _Packing(Executor):
    """Gives an executor of dask bytes alone.

    dask's scheduler unpickles functions and what they are given, and need not have the pack; both
    come into the logs of its workers where a function fails, and servers may have passwords.
    """

    def __init__(self, executor: Executor):
        self._executor = executor

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        packed = zlib.compress(pickle.dumps(partial(fn, *args, **kwargs)), 1)
        return self._executor.submit(_make_unpacker(), packed)


def _make_unpacker() -> Callable[[bytes], Any]:
    """A function made here is sent by its content: the scheduler need not have this module."""

    def run_packed(packed: bytes) -> Any:
        import pickle
        import zlib

        return pickle.loads(zlib.decompress(packed))()

    return run_packed


def _code() -> bytes:
    """headless/ as a zip file that Python can import from."""
    files = {"ale_edit/__init__.py": b""}
    for path in sorted((ROOT / "headless").glob("*.py")):
        files[f"ale_edit/{path.relative_to(ROOT).as_posix()}"] = path.read_bytes()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def _plugin(code: bytes) -> Any:
    """Makes `code` importable on every worker, also on those that come later.

    A class made here is sent by its content: workers need not have this module.
    """
    from distributed import WorkerPlugin

    digest = hashlib.sha256(code).hexdigest()[:16]

    class PackOnWorker(WorkerPlugin):
        name = f"ale-edit-{digest}"
        idempotent = True

        def setup(self, worker: Any) -> None:
            import sys
            from importlib import invalidate_caches
            from pathlib import Path

            file = f"ale_edit_{digest}.zip"
            if any(entry.endswith(file) for entry in sys.path):
                return
            present = sys.modules.get("ale_edit")
            if present is not None and "ale_edit_" not in str(present.__file__):
                return  # a worker within a process that has the pack itself
            for module in [m for m in sys.modules if m.split(".")[0] == "ale_edit"]:
                del sys.modules[module]  # of an older run
            path = Path(worker.local_directory) / file
            path.write_bytes(code)
            sys.path.insert(0, str(path))
            invalidate_caches()

    return PackOnWorker()
