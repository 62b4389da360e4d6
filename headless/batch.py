"""Runs jobs on one or more ComfyUIs, and writes each image as soon as it is there.

A job that fails at a node is noted, and the others go on. A server that goes away is waited for;
what it was at work on goes to the others, or to it again. A run that a killed process left in a
server's queue, or that ended there meanwhile, is taken over instead of being made twice.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from PIL import Image

from .client import ComfyClient, Progress, Run, SavedImage, without_password
from .edits import REGIONS
from .errors import (
    ComfyError,
    Interrupted,
    NodeError,
    NodeFailed,
    OtherVersion,
    RunLost,
    ServerGone,
    WorkflowRejected,
)
from .jobs import Job
from .manifest import Manifest
from .pack import pack_version
from .pictures import as_png, is_intact, reencoded
from .table import Problems

QUEUED = 2  # runs at a server at once, so that it never waits for us
ATTEMPTS = 3  # at one job, where its server goes away or loses it
HOPELESS = 5  # failures without any success, after which a batch gives up
PATIENCE_S = 60.0
RETRY_S = 1.0


class Hopeless(ComfyError):
    """The first jobs all failed."""


class NoImage(ComfyError):
    """A run ended without the image that it was for."""


class InputChanged(ComfyError):
    """A file of a row is not what it was when everything was checked."""


@dataclass
class Outcome:
    """What came of a batch: images made, and the reasons of failed jobs by name."""

    made: int = 0
    failed: dict[str, str] = field(default_factory=dict)


@dataclass
class Batch:
    """on_done and on_progress are told of each job; tell gets sentences for the person.

    patience_s: how long a server that went away is waited for.
    """

    manifest: Manifest
    tell: Callable[[str], None]
    on_done: Callable[[Job, Outcome], None] = lambda _job, _outcome: None
    on_progress: Callable[[Job, Progress], None] = lambda _job, _progress: None
    patience_s: float = PATIENCE_S
    redo: bool = False

    async def run(self, servers: Sequence[str], jobs: Sequence[Job]) -> Outcome:
        """Make all; raises where no server is left, a disk is full, or all of the first fail."""
        self.outcome = Outcome()
        self._left = deque(jobs)
        self._attempts = Counter[str]()
        self._alive = set[str]()
        gone: dict[str, ServerGone] = {}

        async def serve(url: str) -> None:
            self._alive.add(url)
            while self._left:
                try:
                    await self._serve(url)
                except ServerGone as error:
                    if not await self._is_back(url, error):
                        gone[url] = error
                        return
            self._alive.discard(url)  # idle: nobody waits for what it may still do

        while self._left:
            if len(gone) == len(servers):
                raise next(iter(gone.values()))
            await _together([serve(url) for url in servers if url not in gone])
        return self.outcome

    async def _is_back(self, url: str, error: ServerGone) -> bool:
        """Wait for a server that went away: patience_s, and as long as others are at work."""
        shown, _ = without_password(url)
        self._alive.discard(url)
        self.tell(f"{error} Waiting for it, up to {self.patience_s:.0f} s.")
        deadline = time.monotonic() + self.patience_s
        while self._alive or time.monotonic() < deadline:
            await asyncio.sleep(RETRY_S)
            if not self._left:
                return True  # nothing to do for it
            with suppress(ServerGone):
                async with ComfyClient(url):
                    self._alive.add(url)
                    self.tell(f"ComfyUI at {shown} is back.")
                    return True
        self.tell(f"ComfyUI at {shown} did not come back.")
        return False

    async def _serve(self, url: str) -> None:
        """Work at one server until nothing is left; raises ServerGone where it goes away."""
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(ComfyClient(url)) for _ in range(QUEUED)]
            tagged = {} if self.redo else await clients[0].tagged()
            about = {"server": clients[0].url, "versions": await all_versions(clients[0])}
            sent = _Uploads(clients[0])
            await _together([self._work(client, sent, tagged, about) for client in clients])

    async def _work(
        self, client: ComfyClient, sent: "_Uploads", tagged: dict[str, str], about: dict[str, Any]
    ) -> None:
        while job := self._next(tagged):
            is_over = False
            try:
                begun = _Stopwatch()
                data, regions = await self._made(client, sent, job, tagged, begun)
                told = {**about, "seconds": begun.seconds(), "finished": _now()}
                self._write(job, data, regions, told)
                is_over = True
            except (NodeFailed, WorkflowRejected, Interrupted, InputChanged, NoImage) as error:
                is_over = self._failed(job, error, {**about, "finished": _now()})
            except ServerGone as error:
                is_over = self._is_given_up(job, error, {**about, "finished": _now()})
                raise
            finally:
                if not is_over:
                    self._left.appendleft(job)

    def _next(self, tagged: dict[str, str]) -> Job | None:
        """The next job: first those that this server already has."""
        for job in self._left:
            if job.fingerprint in tagged:
                self._left.remove(job)
                return job
        return self._left.popleft() if self._left else None

    async def _made(
        self,
        client: ComfyClient,
        sent: "_Uploads",
        job: Job,
        tagged: dict[str, str],
        begun: "_Stopwatch",
    ) -> tuple[bytes, bytes | None]:
        def progress(step: Progress) -> None:
            begun.note(step)
            self.on_progress(job, step)

        if prompt_id := tagged.pop(job.fingerprint, None):
            try:
                run = Run(prompt_id, job.workflow)
                return await _fetched(client, job, await client.finish(run, progress))
            except ComfyError:
                pass  # not to be had any more: it is made anew
        await sent.ensure(job)
        saved = await client.run(job.workflow, progress, tag=job.fingerprint)
        return await _fetched(client, job, saved)

    def _write(self, job: Job, data: bytes, regions: bytes | None, about: dict[str, Any]) -> None:
        self.manifest.add_done(job, data, about, regions)
        self.outcome.made += 1
        self.on_done(job, self.outcome)

    def _failed(self, job: Job, error: ComfyError, about: dict[str, Any]) -> bool:
        """Note a job that failed; False where it is worth another attempt."""
        if isinstance(error, NodeFailed) and error.is_full_disk:
            raise ComfyError(
                f"The disk of ComfyUI at {about['server']} is full ({error}). Free some of it, "
                "and run the same command again."
            ) from error
        if isinstance(error, RunLost):
            return self._is_given_up(job, error, about)
        self._note(job, error, about)
        if not self.outcome.made and len(self.outcome.failed) >= HOPELESS:
            raise Hopeless(f"The first {HOPELESS} rows all failed, the others were left out.")
        return True

    def _is_given_up(self, job: Job, error: ComfyError, about: dict[str, Any]) -> bool:
        self._attempts[job.name] += 1
        if self._attempts[job.name] < ATTEMPTS:
            return False
        self._note(job, error, about)
        return True

    def _note(self, job: Job, error: ComfyError, about: dict[str, Any]) -> None:
        self.outcome.failed[job.name] = f"{job.row.place} ({job.name}): {error}"
        self.manifest.add_failed(job, {**about, "error": described(error)})
        self.on_done(job, self.outcome)


def described(error: ComfyError) -> dict[str, Any]:
    """An error as the manifest has it: message, and node, class and input where it has them."""
    entry: dict[str, Any] = {"message": str(error)}
    if isinstance(error, NodeFailed):
        node: NodeError | None = error.error
        entry["exception"] = error.exception_type
    else:
        node = error.errors[0] if isinstance(error, WorkflowRejected) and error.errors else None
    if node is not None:
        entry |= {"node": node.title, "class": node.class_type, "input": node.input_name}
    return entry


async def _fetched(
    client: ComfyClient, job: Job, saved: Sequence[SavedImage]
) -> tuple[bytes, bytes | None]:
    """The edited image, and the preview of the regions where there is one."""
    results = [image for image in saved if image.title == job.result]
    if not results:
        raise NoImage(f"The run ended, but no image came from {job.result!r}.")
    data = await client.fetch(results[0])
    if not is_intact(data):
        raise ServerGone(f"The image that {client.url} sent is damaged.")
    if not data.startswith(b"\x89PNG"):
        data = reencoded(data)
    previews = [image for image in saved if image.title in REGIONS]
    return data, await client.fetch(previews[0]) if previews else None


class _Uploads:
    """What one server was sent; every picture goes there once."""

    def __init__(self, client: ComfyClient):
        self._client = client
        self._sent: set[str] = set()
        self._lock = asyncio.Lock()

    async def ensure(self, job: Job) -> None:
        async with self._lock:
            for name, picture in await asyncio.to_thread(_opened, job):
                if name not in self._sent:
                    folder, file = name.rsplit("/", 1)
                    await self._client.upload_image(as_png(picture), file, folder)
                    self._sent.add(name)


def _opened(job: Job) -> list[tuple[str, Image.Image]]:
    try:
        pictures = job.pictures()
    except (ValueError, OSError) as error:
        raise InputChanged(f"Since the check: {error}") from error
    if tuple(name for name, _ in pictures) != job.names:
        raise InputChanged("Its image or a mask was changed since the check. Run it again.")
    return pictures


class _Stopwatch:
    """Seconds since a run began to be worked on, else since it was queued."""

    def __init__(self) -> None:
        self._start, self._began = time.monotonic(), False

    def note(self, step: Progress) -> None:
        if step.title and not self._began:
            self._start, self._began = time.monotonic(), True

    def seconds(self) -> float:
        return round(time.monotonic() - self._start, 2)


async def all_versions(client: ComfyClient) -> dict[str, str]:
    """Versions of ComfyUI, Python, PyTorch, and of the pack on the server ("unknown": not told)."""
    return {"ale_edit": await client.pack_version() or "unknown", **await client.versions()}


async def check_servers(
    servers: Sequence[str], jobs: Sequence[Job], *, any_version: bool = False
) -> None:
    """Raise unless every server answers, has the nodes of all jobs and would take their values."""
    found: dict[str, str] = {}
    for url in servers:
        async with ComfyClient(url) as client:
            await client.check({name for job in jobs for name in job.workflow.classes()})
            found[client.url] = await client.pack_version() or "unknown"
            if not any_version:
                await client.check_version(pack_version())
            await _check_values(client, jobs)
    if len(set(found.values())) > 1 and not any_version:
        told = ", ".join(f"{version} at {url}" for url, version in found.items())
        raise OtherVersion(f"The servers have different versions of the pack: {told}. Update them.")


async def _check_values(client: ComfyClient, jobs: Sequence[Job]) -> None:
    problems = []
    for job in jobs:
        try:
            await client.check_workflow(job.workflow)
        except WorkflowRejected as error:
            problems += [f"{job.row.place}: {one}: {one.message}." for one in error.errors]
    if problems:
        raise Problems([f"ComfyUI at {client.url} cannot run this:", *problems])


async def _together(workers: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all; the first error stops the others and is raised."""
    tasks = [asyncio.ensure_future(worker) for worker in workers]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
