"""Who runs the work: an executor of concurrent.futures for each ComfyUI, here threads.

The spreader (spreading.py) knows nothing else of them; bench/dask_workers.py has those of a dask
cluster.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from . import work
from .client import Progress
from .work import RunResult, ServerFacts

QUEUED = 2  # workflows at a server at once, so that it never waits for us


@dataclass(frozen=True)
class Workers:
    """`executors` by the address of the server; `stop` ends what is left of a run
    (work.WorkItem.run) everywhere.

    make, look: what they are given to do, as those of work.py.
    lost: what a future raises where the worker was lost, and not the server.
    missing: a sentence where there is no worker at all; empty where there is one.
    """

    executors: Mapping[str, Executor]
    stop: Callable[[str], None]
    make: Callable[..., RunResult] = work.make
    look: Callable[..., ServerFacts] = work.look
    lost: tuple[type[Exception], ...] = ()
    missing: Callable[[], str] = str


@contextmanager
def local_workers(
    servers: Sequence[str], on_progress: Callable[[str, Progress], None] | None = None
) -> Iterator[Workers]:
    """Threads of this process: for each server one for each of its workflows, and one to look.

    on_progress: gets an item's name and each step of its run, in the item's thread.
    """
    with ExitStack() as stack:
        pools = {url: ThreadPoolExecutor(QUEUED + 1, "ale-edit") for url in servers}
        for pool in pools.values():
            stack.enter_context(pool)
        yield Workers(pools, work.stop, partial(work.make, on_progress=on_progress))
