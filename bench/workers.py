"""Who runs the work: threads of this process, or the workers of a dask cluster.

Both are executors of concurrent.futures, one for each ComfyUI server, and the runner
(spreading.py) knows nothing else of them.
"""

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .work import stop

QUEUED = 2  # workflows at a server at once, so that it never waits for us
WORKERS_TIMEOUT_S = 30
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Workers:
    """`executors` by the address of the server; `stop` ends a run (work.Item.run) everywhere.

    lost: what a future raises where the worker was lost, and not the server.
    """

    executors: Mapping[str, Executor]
    stop: Callable[[str], None]
    lost: tuple[type[Exception], ...] = ()


@contextmanager
def local_workers(servers: Sequence[str]) -> Iterator[Workers]:
    """Threads of this process: for each server one for each of its workflows, and one to look."""
    with ExitStack() as stack:
        pools = {url: ThreadPoolExecutor(QUEUED + 1, "bench") for url in servers}
        for pool in pools.values():
            stack.enter_context(pool)
        yield Workers(pools, stop)


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
            url: client.get_executor(workers=[addresses[k % len(addresses)]], **options)
            for k, url in enumerate(servers)
        }
        yield Workers(executors, partial(_stop_everywhere, client), (KilledWorker,))


def _stop_everywhere(client: Any, run: str) -> None:
    client.run(stop, run, on_error="ignore")


def _code() -> bytes:
    """The part of the pack that work.py needs, as a zip file that Python can import from."""
    files = {"ale_edit/__init__.py": b"", "ale_edit/bench/__init__.py": b""}
    for path in (ROOT / "bench" / "work.py", *sorted((ROOT / "headless").glob("*.py"))):
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
