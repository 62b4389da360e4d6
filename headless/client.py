"""Talks to one ComfyUI over HTTP and its websocket.

    async with ComfyClient(url) as client:
        await client.check_workflow(workflow)
        images = await client.run(workflow, on_progress)

Several runs may be queued and followed at the same time. Progress comes over the websocket; where
that fails, /history is asked until the run has ended. Questions are asked again where the network
failed for a moment; nothing is queued twice.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import quote

import aiohttp

from .answers import Progress, failure_of, progress_of, rejection_of
from .connection import Connection, decode_reply
from .errors import (
    ComfyError,
    Interrupted,
    OtherVersion,
    PackMissing,
    RunLost,
    ServerGone,
    WorkflowRejected,
)
from .listener import Listener, Socket
from .schema import (
    PACK,
    Info,
    choices_of,
    complaints,
    find_unlisted_files,
    input_specs,
    models_folder,
)
from .workflow import Workflow

POLL_S = 0.3
QUIET_S = 2  # after this long without a message of the run, the history is asked
RECONNECTS = 3  # of the websocket, during one run
QUEUE_EVERY = 5  # the whole queue, which may be long, is asked for at every fifth look only
CANCEL_TIMEOUT_S = 10
REMEMBERED = 100  # entries of the history that are looked through for runs of ours
TAG = "ale_edit"  # of extra_data: what a run is for
ENDINGS = ("execution_success", "execution_error", "execution_interrupted")


@dataclass(frozen=True)
class SavedImage:
    """An image that a node of the run saved or previewed on the server."""

    title: str
    filename: str
    subfolder: str
    kind: str  # ComfyUI's "output" or "temp"


@dataclass(frozen=True)
class Run:
    """A queued workflow."""

    prompt_id: str
    workflow: Workflow


class ComfyClient(Connection):
    """A connection to the ComfyUI at `url`; use it as an async context manager."""

    def __init__(self, url: str):
        super().__init__(url)
        self._id = uuid.uuid4().hex
        self._listener = Listener(self.url, self._id)
        self._seen_on: dict[str, Socket | None] = {}
        self._info: Info | None = None
        self._files: set[str] = set()  # which the server has

    async def __aenter__(self) -> "ComfyClient":
        self._open()
        try:
            await self._connect()
        except BaseException:
            await self._session.close()
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._listener.close()
        await self._session.close()

    async def _connect(self) -> None:
        await self.versions()
        await self._listen()

    async def _listen(self) -> None:
        """Open the websocket unless it is open; without one, the history is asked."""
        await self._listener.open(self._session.ws_connect)

    # what the server is

    async def versions(self) -> dict[str, str]:
        """Versions of ComfyUI, Python and PyTorch on the server."""
        stats = await self._json("GET", "/system_stats")
        system = stats.get("system", {}) if isinstance(stats, dict) else {}
        if "comfyui_version" not in system:
            raise ServerGone(f"What answers at {self.url} is not ComfyUI. Check the address.")
        return {
            "comfyui": system["comfyui_version"],
            "python": system.get("python_version", "").split(" ")[0],
            "pytorch": system.get("pytorch_version", ""),
        }

    async def pack_version(self) -> str | None:
        """The version of this pack on the server; None where it does not tell."""
        nodes = await self.nodes()
        for name, node in nodes.items():
            module = str(node.get("python_module", ""))
            if name.startswith(PACK) and module.startswith("custom_nodes."):
                folder = quote(module.removeprefix("custom_nodes."))
                path = f"/extensions/{folder}/version.json"
                async with self._request("GET", path) as reply:
                    told = await decode_reply(reply) if reply.status == 200 else {}
                if isinstance(told, dict) and told.get("name") == "ale-edit":
                    return str(told.get("version"))
        return None

    async def check_version(self, version: str) -> str | None:
        """Raise OtherVersion where the server's pack has another version; return what it has."""
        found = await self.pack_version()
        if found not in (None, version):
            raise OtherVersion(
                f"ComfyUI at {self.url} has version {found} of the pack, this is {version}: the "
                "same settings may give another image. Use the copy in that ComfyUI's "
                "custom_nodes, or update one of the two."
            )
        return found

    async def check(self, needed: Iterable[str]) -> None:
        """Raise PackMissing unless the server has loaded these node classes."""
        if missing := sorted(set(needed) - set(await self.nodes())):
            raise PackMissing(
                f"ComfyUI at {self.url} has no node {', '.join(missing)}. Put the pack that has it "
                "into custom_nodes and restart ComfyUI; its log says if a pack failed to load."
            )

    async def check_workflow(self, workflow: Workflow, to_come: Collection[str] = ()) -> None:
        """Raise before anything is queued: PackMissing, or WorkflowRejected for values that the
        server's nodes would not take, such as a checkpoint or an image that it does not have.

        to_come: names of images that are uploaded only later.
        """
        await self.check(workflow.classes())
        errors = complaints(workflow, nodes := await self.nodes())
        if errors:
            folder = models_folder(await self._json("GET", "/system_stats"))
            errors = complaints(workflow, nodes, folder)
        files = [f for f in find_unlisted_files(workflow, nodes) if f[1] not in to_come]
        errors += tuple([error for error, file in files if not await self._has_file(file)])
        if errors:
            raise WorkflowRejected("", errors, f"ComfyUI at {self.url} cannot run {workflow.name}.")

    async def choices(self, class_type: str, input_name: str) -> list[str]:
        """What a node offers for an input that is a choice, for example the checkpoints."""
        info = await self._ask(f"/object_info/{quote(class_type)}")
        spec = input_specs(info.get(class_type, {})).get(input_name)
        choices = choices_of(spec) if spec else None
        if choices is None:
            raise PackMissing(
                f"ComfyUI at {self.url} has no input {input_name!r} of a node {class_type}. "
                "Update ComfyUI, or put the pack that has the node into custom_nodes."
            )
        return list(choices)

    async def nodes(self) -> Info:
        """What /object_info says, asked once."""
        info = self._info
        if info is None:
            info = self._info = await self._ask("/object_info")
        return info

    async def _has_file(self, name: str) -> bool:
        """Whether Load Image would find a file: FOLDER/NAME, or NAME [output]."""
        if name not in self._files:
            path, _, kind = name.removesuffix("]").partition(" [")
            folder, _, file = path.rpartition("/")
            query = {"filename": file, "subfolder": folder, "type": kind or "input"}
            async with self._request("HEAD", "/view", params=query) as reply:
                if reply.status != 200:
                    return False
            self._files.add(name)
        return True

    # a run

    async def upload_image(self, image: bytes, name: str, subfolder: str = "ale-edit") -> str:
        """Upload an image file; returns the name under which LoadImage finds it."""
        form = aiohttp.FormData()
        form.add_field("image", image, filename=name, content_type="application/octet-stream")
        form.add_field("subfolder", subfolder)
        form.add_field("overwrite", "true")
        stored = await self._json("POST", "/upload/image", data=form)
        return "/".join(part for part in (stored["subfolder"], stored["name"]) if part)

    async def queue(self, workflow: Workflow, tag: str = "") -> Run:
        """Queue a workflow. Raises WorkflowRejected with each node's complaint.

        tag: what the run is for; `find_tagged_runs` finds it again, also from another process.
        """
        return await self._queue(Run(str(uuid.uuid4()), workflow), tag)

    async def _queue(self, run: Run, tag: str) -> Run:
        await self._listen()
        self._listener.expect(run.prompt_id)
        body = {"prompt": run.workflow.nodes, "client_id": self._id, "prompt_id": run.prompt_id}
        if tag:
            body["extra_data"] = {TAG: tag}
        async with self._request("POST", "/prompt", json=body) as reply:
            answer = await decode_reply(reply)
            if reply.status == 400:
                raise rejection_of(answer, run.workflow)
            self._expect_ok(reply)
        queued = Run(answer["prompt_id"], run.workflow)
        self._seen_on[queued.prompt_id] = self._listener.socket
        if answer.get("node_errors"):  # some outputs are fine and were queued: all or nothing here
            await self.cancel(queued)
            raise rejection_of(answer, run.workflow)
        return queued

    async def find_tagged_runs(self) -> dict[str, str]:
        """Tag -> id of the runs that were queued with one, and wait, run, or ended well."""
        queue = await self._ask("/queue")
        history = await self._ask(f"/history?max_items={REMEMBERED}")
        done = [e for e in history.values() if e.get("status", {}).get("status_str") == "success"]
        items = [*(e["prompt"] for e in done), *queue["queue_running"], *queue["queue_pending"]]
        extras = {item[1]: item[3] for item in items}
        return {extra[TAG]: prompt_id for prompt_id, extra in extras.items() if extra.get(TAG)}

    async def ahead(self, run: Run) -> int:
        """How many runs, of anybody, come before this one; 0 if it is at work or has ended."""
        return await self._place(run) or 0

    async def follow(self, run: Run) -> AsyncIterator[Progress]:
        """Yield progress until the run has ended; raises NodeFailed or Interrupted if it failed."""
        ended, reconnects, ahead, looks = False, 0, 0, 0
        self._listener.expect(run.prompt_id)
        while not ended:
            if self._listener.socket is None:
                reconnects += 1
                if reconnects > RECONNECTS:
                    break
                await self._listen()
                if self._listener.socket is None:
                    break
            event = await self._listener.hear(run.prompt_id, QUIET_S)
            if event is not None:
                ended = event["type"] in ENDINGS
                if progress := progress_of(event, run.workflow):
                    yield progress
            elif self._listener.socket is not None:
                if looks % QUEUE_EVERY == 0:
                    before, place = ahead, await self._place(run)
                    ahead = place or 0
                    if ahead not in (0, before):
                        yield Progress("", ahead=ahead)
                    ended = place is None
                looks += 1
                ended = ended or await self._entry(run) is not None
        self._listener.forget(run.prompt_id)
        await self._await_end(run)

    async def run(
        self,
        workflow: Workflow,
        on_progress: Callable[[Progress], None] | None = None,
        tag: str = "",
    ) -> list[SavedImage]:
        """Queue, follow to the end, and return what was saved. Cancelled: the run is, too."""
        run = Run(str(uuid.uuid4()), workflow)
        async with self._cancel_with_task(run):
            run = await self._queue(run, tag)
        return await self.finish(run, on_progress)

    async def finish(
        self, run: Run, on_progress: Callable[[Progress], None] | None = None
    ) -> list[SavedImage]:
        """What `run` does once it is queued."""
        async with self._cancel_with_task(run):
            async for progress in self.follow(run):
                if on_progress is not None:
                    on_progress(progress)
            return await self.images(run)

    @asynccontextmanager
    async def _cancel_with_task(self, run: Run) -> AsyncIterator[None]:
        """Cancel the run where the task inside is cancelled."""
        try:
            yield
        except asyncio.CancelledError:
            with suppress(ComfyError, asyncio.TimeoutError):
                await asyncio.wait_for(self.cancel(run), CANCEL_TIMEOUT_S)
            raise

    async def cancel(self, run: Run) -> None:
        """Take a run out of the queue, or interrupt it if it is the one at work."""
        await self._json("POST", "/queue", json={"delete": [run.prompt_id]})
        await self._json("POST", "/interrupt", json={"prompt_id": run.prompt_id})

    async def images(self, run: Run) -> list[SavedImage]:
        """The images that a finished run saved or previewed, in the order of the workflow's nodes.

        Those of output nodes, which ComfyUI reports also where it has them cached. A preview on a
        node in the middle, such as Regions, is reported only by the run that computes the node.
        """
        entry, order = await self._entry(run) or {}, list(run.workflow.nodes)
        outputs = {k: o["images"] for k, o in entry.get("outputs", {}).items() if o.get("images")}
        return [
            SavedImage(
                run.workflow.title(node_id), file["filename"], file["subfolder"], file["type"]
            )
            for node_id in sorted(
                outputs, key=lambda k: order.index(k) if k in order else len(order)
            )
            if await self._is_output(run.workflow, node_id)
            for file in outputs[node_id]
        ]

    async def _is_output(self, workflow: Workflow, node_id: str) -> bool:
        """Whether a node that ran is an output node: it feeds no other, or the server says so."""
        if not workflow.feeds(node_id):
            return True
        class_type = workflow.nodes[node_id]["class_type"]
        info = self._info or await self._ask(f"/object_info/{quote(class_type)}")
        return bool(info.get(class_type, {}).get("output_node"))

    async def fetch(self, image: SavedImage) -> bytes:
        query = {"filename": image.filename, "subfolder": image.subfolder, "type": image.kind}
        async with self._request("GET", "/view", params=query) as reply:
            self._expect_ok(reply)
            return await reply.read()

    # below the surface

    async def _await_end(self, run: Run) -> None:
        """Wait for the run's place in the history, and raise what it says went wrong."""
        looks = 0
        while (entry := await self._entry(run)) is None:
            if looks % QUEUE_EVERY == 0 and await self._is_lost(run):
                raise self._loss(run)
            looks += 1
            await asyncio.sleep(POLL_S)
        for kind, content in entry.get("status", {}).get("messages", []):
            if kind == "execution_interrupted":
                raise Interrupted(f"{run.workflow.name} was interrupted.")
            if kind == "execution_error":
                raise failure_of(content, run.workflow)

    def _loss(self, run: Run) -> Interrupted:
        """What became of a run that the server knows no more.

        A server that restarts drops the websocket. One that was there all the time forgets
        no run by itself: a person took it out of the queue.
        """
        seen_on = self._seen_on.get(run.prompt_id)
        if seen_on is not None and seen_on is self._listener.socket and not seen_on.closed:
            return Interrupted(f"{run.workflow.name} was taken out of the queue at {self.url}.")
        return RunLost(
            f"{run.workflow.name} was taken out of the queue, or ComfyUI at {self.url} was "
            "restarted."
        )

    async def _entry(self, run: Run) -> dict[str, Any] | None:
        return (await self._ask(f"/history/{run.prompt_id}")).get(run.prompt_id)

    async def _is_lost(self, run: Run) -> bool:
        """Neither queued nor ended; the history is asked last, because a run moves there."""
        return await self._place(run) is None and await self._entry(run) is None

    async def _place(self, run: Run) -> int | None:
        """How many runs come before this one; None where it is not in the queue."""
        queue = await self._ask("/queue")
        waiting = sorted(queue["queue_pending"], key=lambda item: item[0])  # the next one first
        ids = [item[1] for item in [*queue["queue_running"], *waiting]]
        if run.prompt_id not in ids:
            return None
        self._seen_on[run.prompt_id] = self._listener.socket
        return ids.index(run.prompt_id)
