"""What an executor runs: one workflow at one server, or a look at the server (spreading.py).

These functions and what they take, give and raise can be pickled. They need Python and aiohttp
alone, so that a worker on another machine needs nothing else (bench/dask_workers.py).
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from .client import ComfyClient, Progress, Run, SavedImage
from .connection import hide_password
from .errors import (
    ComfyError,
    Interrupted,
    NoImage,
    OtherVersion,
    RunLost,
    ServerGone,
    WorkflowRejected,
)
from .schema import PACK
from .workflow import Workflow

ASK_AGAIN_S = 0.05  # for the right to send pictures
_T = TypeVar("_T")


@dataclass(frozen=True)
class WorkItem:
    """A workflow to run; `pictures` are image files by the names that the workflow gives them.

    run: a name of all items that are stopped together. result: the title of the node whose image
    is wanted; previews: titles, of one of which an image is wanted, too, where there is one.
    tag: what the item is for. A run with it that a killed process left at the server is found by
    it (ServerFacts.left); "": it is not to be found.
    """

    run: str
    name: str
    nodes: dict[str, dict[str, Any]]
    pictures: Mapping[str, bytes]
    result: str
    previews: tuple[str, ...] = ()
    tag: str = ""


@dataclass(frozen=True)
class RunResult:
    """Image files that came of an item, and the seconds that the server was at work on it.

    notices: what nodes of the pack said to the person meanwhile.
    """

    image: bytes
    preview: bytes | None = None
    seconds: float = 0.0
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServerFacts:
    """What a server is: versions, and the inputs of the pack's nodes by class.

    left: runs with a tag that wait, are at work, or ended well there: their ids by tag.
    """

    versions: Mapping[str, str]
    inputs: Mapping[str, frozenset[str]]
    left: Mapping[str, str]


class RunStopped(ComfyError):
    """The run was stopped from here."""


def make(
    item: WorkItem,
    server: str,
    left: str | None = None,
    on_progress: Callable[[str, Progress], None] | None = None,
) -> RunResult:
    """Run an item at a server, or take over the run `left` there, and return what came of it.

    on_progress: gets the item's name and each step, in this thread.
    Raises ServerGone, RunLost, Interrupted, PackMissing, WorkflowRejected, NodeFailed, NoImage or
    RunStopped.
    """
    return _run(item.run, _run_item(item, server, left, on_progress))


def look(
    run: str, server: str, needed: Mapping[str, frozenset[str] | None], version: str | None
) -> ServerFacts:
    """What a server is. `needed`: classes of nodes, with the inputs that they are given or None.

    Raises PackMissing where a class is missing; OtherVersion where a class of the pack takes other
    inputs than those, or where the pack says another version than `version`; ServerGone.
    """
    return _run(run, _look_at(server, needed, version))


async def _run_item(
    item: WorkItem,
    server: str,
    left: str | None,
    on_progress: Callable[[str, Progress], None] | None,
) -> RunResult:
    watch = _Watch(item.name, on_progress)
    workflow = Workflow(item.nodes, item.name)
    try:
        async with ComfyClient(server) as client:
            if left is not None:
                try:
                    saved = await client.finish(Run(left, workflow), watch)
                    return await _fetch_images(client, item, saved, watch)
                except ComfyError as error:
                    if type(error) is Interrupted:  # by a person, who does not want it now
                        raise
                    # else it no longer exists, and is made again
            were_all_sent = await _upload_all(client, item.pictures)
            try:
                saved = await client.run(workflow, watch, item.tag)
            except WorkflowRejected:
                if were_all_sent:
                    raise
                _forget(server)  # perhaps a restarted server without its old inputs
                await _upload_all(client, item.pictures)
                saved = await client.run(workflow, watch, item.tag)
            return await _fetch_images(client, item, saved, watch)
    except (ServerGone, RunLost):
        _forget(server)
        raise


async def _fetch_images(
    client: ComfyClient, item: WorkItem, saved: Sequence[SavedImage], watch: "_Watch"
) -> RunResult:
    seconds = watch.seconds()
    results = [image for image in saved if image.title == item.result]
    if not results:
        raise NoImage(f"The run ended at {client.url}, but no image came from {item.result!r}.")
    previews = [image for image in saved if image.title in item.previews]
    return RunResult(
        await client.fetch(results[0]),
        await client.fetch(previews[0]) if previews else None,
        seconds,
        tuple(dict.fromkeys(watch.notices)),
    )


class _Watch:
    """What a run says while it is at work, and seconds since its first node began, or since it
    was queued."""

    def __init__(self, name: str, on_progress: Callable[[str, Progress], None] | None):
        self._name, self._on_progress = name, on_progress
        self._start, self._began = time.monotonic(), False
        self.notices: list[str] = []

    def __call__(self, step: Progress) -> None:
        if step.title and not self._began:
            self._start, self._began = time.monotonic(), True
        if step.notice:
            self.notices.append(step.sentence)
        if self._on_progress is not None:
            self._on_progress(self._name, step)

    def seconds(self) -> float:
        return round(time.monotonic() - self._start, 2)


async def _look_at(
    server: str, needed: Mapping[str, frozenset[str] | None], version: str | None
) -> ServerFacts:
    async with ComfyClient(server) as client:
        await client.check(needed)
        if version is not None:
            await client.check_version(version)
        definitions, left = await client.nodes(), await client.find_tagged_runs()
        versions = await all_versions(client)
        given = {n: i for n, i in needed.items() if i is not None and n.startswith(PACK)}
        inputs = {name: _inputs(definitions[name]) for name in given}
        for name, own in sorted(inputs.items()):
            required = _inputs(definitions[name], "required")
            if other := sorted((given[name] - own) | (required - given[name])):
                raise OtherVersion(
                    f"ComfyUI at {client.url} has another version of the pack: its node {name} "
                    f"differs in {', '.join(map(repr, other))}. Put this version of the pack there "
                    "and restart it."
                )
    return ServerFacts(versions, inputs, left)


async def all_versions(client: ComfyClient) -> dict[str, str]:
    """Versions of ComfyUI, Python, PyTorch, and of the pack on the server ("unknown": not told)."""
    return {"ale_edit": await client.pack_version() or "unknown", **await client.versions()}


def _inputs(definition: Mapping[str, Any], *kinds: str) -> frozenset[str]:
    """Names of a node's inputs: required, optional, or both."""
    found = definition.get("input", {})
    return frozenset(n for kind in kinds or ("required", "optional") for n in found.get(kind, {}))


# -- what a process remembers of its servers, and how a run is stopped in it -----------------------

_SENT: dict[str, set[str]] = {}
_SENDING: dict[str, threading.Lock] = {}
_RUNNING: dict[str, set[tuple[asyncio.AbstractEventLoop, "asyncio.Task[Any]"]]] = {}
_STOPPED: set[str] = set()
_GUARD = threading.Lock()


async def _upload_all(client: ComfyClient, pictures: Mapping[str, bytes]) -> bool:
    """Upload what the server was not sent yet; whether that was all of them.

    One thread at a time: a picture must not be rewritten while a workflow reads it.
    """
    async with _alone_at(client.url):
        sent = _SENT.setdefault(client.url, set())
        fresh = [name for name in pictures if name not in sent]
        for name in fresh:
            folder, _, file = name.rpartition("/")
            await client.upload_image(pictures[name], file, folder)
            sent.add(name)
        return len(fresh) == len(pictures)


@asynccontextmanager
async def _alone_at(url: str) -> AsyncIterator[None]:
    """Be the only thread of this process that sends pictures there.

    The lock is asked for again and again: a thread that sleeps in it cannot be stopped.
    """
    with _GUARD:
        lock = _SENDING.setdefault(url, threading.Lock())
    while not lock.acquire(blocking=False):
        await asyncio.sleep(ASK_AGAIN_S)
    try:
        yield
    finally:
        lock.release()


def _forget(server: str) -> None:
    _SENT.pop(hide_password(server)[0], None)


def _run(run: str, work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine in this thread, so that stop() can cancel it."""

    async def run_registered() -> _T:
        task = asyncio.current_task()
        assert task is not None
        entry = (asyncio.get_running_loop(), task)
        with _GUARD:
            if run in _STOPPED:
                work.close()
                raise RunStopped("The run was stopped.")
            _RUNNING.setdefault(run, set()).add(entry)
        try:
            return await work
        finally:
            with _GUARD:
                _RUNNING[run].discard(entry)

    try:
        return asyncio.run(run_registered())
    except asyncio.CancelledError:
        raise RunStopped("The run was stopped.") from None


def stop(run: str) -> None:
    """End everything of a run in this process; its workflows are taken from their servers."""
    with _GUARD:
        _STOPPED.add(run)
        for loop, task in _RUNNING.get(run, ()):
            loop.call_soon_threadsafe(task.cancel)
