"""What an executor runs: one workflow at one server, or a look at the server.

These functions and what they take and raise can be pickled. Of the pack they need headless/ alone,
so that a worker on another machine needs nothing but Python and aiohttp (workers.py).
"""

import asyncio
import threading
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ..headless import (
    ComfyClient,
    ComfyError,
    Interrupted,
    NodeFailed,
    OtherVersion,
    PackMissing,
    ServerGone,
    Workflow,
    WorkflowRejected,
)
from ..headless.schema import PACK

_T = TypeVar("_T")


@dataclass(frozen=True)
class Item:
    """A workflow to run; `pictures` are PNG files by the names that the workflow gives them.

    run: a name of all items that are stopped together. result: the title of the node whose image
    is wanted.
    """

    run: str
    name: str
    nodes: dict[str, dict[str, Any]]
    pictures: Mapping[str, bytes]
    result: str


@dataclass(frozen=True)
class Facts:
    """What a server is: versions, and the inputs of the pack's nodes by class."""

    versions: Mapping[str, str]
    inputs: Mapping[str, frozenset[str]]


class ServerLost(ComfyError):
    """The server does not answer, or no longer knows the workflow: another one can do the item."""


class ItemFailed(ComfyError):
    """The item failed at a node, and would fail anywhere. by_input: the node's own sentence."""

    def __init__(self, message: str, by_input: bool):
        super().__init__(message, by_input)  # both in args, for pickle
        self.by_input = by_input

    def __str__(self) -> str:
        return self.args[0]


class Unfit(ComfyError):
    """The server answers, but not with this pack in this version."""


class Stopped(ComfyError):
    """The run was stopped from here."""


def make(item: Item, server: str) -> bytes:
    """Run an item at a server and return the image file.

    Raises ServerLost, ItemFailed, Unfit or Stopped.
    """
    return _run(item.run, _made(item, server))


def look(run: str, server: str, needed: Mapping[str, frozenset[str]], version: str) -> Facts:
    """What a server is. Unfit where it lacks classes of `needed`, their inputs are others, or it
    tells another version of the pack than `version`."""
    return _run(run, _seen(server, needed, version))


async def _made(item: Item, server: str) -> bytes:
    try:
        async with ComfyClient(server) as client:
            if await _uploaded(client, item.pictures):
                return await _result(client, item)
            try:
                return await _result(client, item)
            except WorkflowRejected:  # perhaps a restarted server without its old inputs
                _SENT.pop(server, None)
                await _uploaded(client, item.pictures)
                return await _result(client, item)
    except NodeFailed as error:
        raise ItemFailed(str(error), error.exception_type == "ValueError") from error
    except WorkflowRejected as error:
        raise ItemFailed(str(error), True) from error
    except PackMissing as error:
        raise Unfit(str(error)) from error
    except (ServerGone, Interrupted) as error:
        _SENT.pop(server, None)
        raise ServerLost(str(error)) from error


async def _result(client: ComfyClient, item: Item) -> bytes:
    saved = await client.run(Workflow(item.nodes, item.name))
    found = [image for image in saved if image.title == item.result]
    if not found:
        raise ServerGone(f"The run of {item.name} ended at {client.url}, but no image came.")
    return await client.fetch(found[0])


async def _seen(server: str, needed: Mapping[str, frozenset[str]], version: str) -> Facts:
    try:
        async with ComfyClient(server) as client:
            versions = await client.versions()
            await client.check(needed)
            await client.check_version(version)
            definitions = await client.nodes()
    except (PackMissing, OtherVersion) as error:
        raise Unfit(str(error)) from error
    except ServerGone as error:
        raise ServerLost(str(error)) from error
    inputs = {name: _inputs(definitions[name]) for name in needed if name.startswith(PACK)}
    for name, own in sorted(inputs.items()):
        required = _inputs(definitions[name], "required")
        if other := sorted((needed[name] - own) | (required - needed[name])):
            raise Unfit(
                f"ComfyUI at {server} has another version of the pack: its node {name} differs in "
                f"{', '.join(map(repr, other))}. Put this version of the pack there and restart it."
            )
    return Facts(versions, inputs)


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


async def _uploaded(client: ComfyClient, pictures: Mapping[str, bytes]) -> bool:
    """Upload what the server was not sent yet; whether that was all of them.

    One thread at a time: a picture must not be written anew while a workflow reads it.
    """
    with _GUARD:
        lock = _SENDING.setdefault(client.url, threading.Lock())
    with lock:
        sent = _SENT.setdefault(client.url, set())
        fresh = [name for name in pictures if name not in sent]
        for name in fresh:
            folder, _, file = name.rpartition("/")
            await client.upload_image(pictures[name], file, folder)
            sent.add(name)
        return len(fresh) == len(pictures)


def _run(run: str, work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine in this thread, so that stop() can cancel it."""

    async def registered() -> _T:
        task = asyncio.current_task()
        assert task is not None
        entry = (asyncio.get_running_loop(), task)
        with _GUARD:
            _RUNNING.setdefault(run, set()).add(entry)
        try:
            return await work
        finally:
            with _GUARD:
                _RUNNING[run].discard(entry)

    if run in _STOPPED:
        work.close()
        raise Stopped("The run was stopped.")
    try:
        return asyncio.run(registered())
    except asyncio.CancelledError:
        raise Stopped("The run was stopped.") from None


def stop(run: str) -> None:
    """End everything of a run in this process; its workflows are taken from their servers."""
    with _GUARD:
        _STOPPED.add(run)
        for loop, task in _RUNNING.get(run, ()):
            loop.call_soon_threadsafe(task.cancel)
