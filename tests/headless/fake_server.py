"""A small server that speaks ComfyUI's HTTP protocol and "runs" workflows, without a websocket.

What it says of the pack's nodes is what a real server says (tests/nodes/schemas.json). An image
that it makes is of one colour, which follows from the workflow.
"""

import asyncio
import hashlib
import io
import json
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from PIL import Image

from ale_edit.headless.edits import BY_WORDS, MASKED
from ale_edit.headless.pack import pack_version

ROOT = Path(__file__).resolve().parents[2]
STOCK = {"CheckpointLoaderSimple", "LoraLoader", "ModelSamplingDiscrete", "PreviewImage"}
Failure = dict[str, Any] | None


def object_info(checkpoints: tuple[str, ...] = ()) -> dict[str, Any]:
    """As /object_info has it: the pack's nodes in full, the others by name."""
    schemas = json.loads((ROOT / "tests" / "nodes" / "schemas.json").read_text(encoding="utf-8"))
    nodes: dict[str, Any] = {name: {"input": {}} for name in STOCK}
    for file in (MASKED, BY_WORDS):
        for node in json.loads(file.read_text(encoding="utf-8")).values():
            nodes.setdefault(node["class_type"], {"input": {}})
    for name, schema in schemas.items():
        inputs = {i["id"]: [i["type"], i] for i in schema["inputs"]}
        nodes[name] = {"input": {"required": inputs}, "python_module": "custom_nodes.ale-edit"}
    choice = {"ckpt_name": [list(checkpoints), {}]}
    nodes["CheckpointLoaderSimple"] = {"input": {"required": choice}}
    return nodes


class FakeServer:
    """Runs what is queued, one after the other; `fails` may give a run's error message."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.nodes = object_info()
        self.version: str | None = pack_version()
        self.fails: Callable[[dict[str, Any]], Failure] = lambda _prompt: None
        self.ending = "execution_error"  # of a run that fails
        self.uploads: list[str] = []
        self.files: set[str] = set()  # that were already there: input/NAME, output/NAME
        self.ran: list[dict[str, Any]] = []  # the workflows, in their order
        self.pending: list[list[Any]] = []
        self.running: list[list[Any]] = []
        self.history: dict[str, Any] = {}
        self.url = ""
        self._runner: web.AppRunner | None = None
        self._port = 0

    async def start(self) -> None:
        app = web.Application(client_max_size=2**26)
        app.add_routes(
            [
                web.get("/system_stats", self._stats),
                web.get("/object_info", self._object_info),
                web.get("/extensions/ale-edit/version.json", self._version),
                web.post("/prompt", self._prompt),
                web.get("/history", self._history),
                web.get("/history/{id}", self._entry),
                web.get("/queue", self._queue),
                web.post("/queue", self._delete),
                web.post("/interrupt", self._interrupt),
                web.post("/upload/image", self._upload),
                web.get("/view", self._view),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        self._port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._work = asyncio.create_task(self._run_all())

    async def stop(self) -> None:
        """As a killed process: what waits, runs, and was made is forgotten; `start` starts
        from nothing."""
        self._work.cancel()
        if self._runner is not None:
            await self._runner.cleanup()
        self.pending, self.running, self.history = [], [], {}

    async def _run_all(self) -> None:
        while True:
            await asyncio.sleep(0.01)
            if not self.pending:
                continue
            item = self.pending.pop(0)
            self.running = [item]
            await asyncio.sleep(self.seconds)
            if not self.running:
                continue  # interrupted
            prompt = item[2]
            self.ran.append(prompt)
            failure = self.fails(prompt)
            failed = failure is not None
            messages = [(self.ending, failure)] if failed else []
            status = {"status_str": "error" if failed else "success", "messages": messages}
            outputs = {
                node_id: {"images": [{"filename": item[1], "subfolder": "", "type": "temp"}]}
                for node_id, node in prompt.items()
                if node["class_type"] in ("PreviewImage", "SaveImage")
            }
            self.running = []
            entry = {"prompt": item, "status": status, "outputs": {} if failed else outputs}
            self.history[item[1]] = entry

    async def _stats(self, _request: web.Request) -> web.Response:
        return web.json_response({"system": {"comfyui_version": "0.3.75"}})

    async def _object_info(self, _request: web.Request) -> web.Response:
        return web.json_response(self.nodes)

    async def _version(self, _request: web.Request) -> web.Response:
        if self.version is None:
            return web.Response(status=404)
        return web.json_response({"name": "ale-edit", "version": self.version})

    async def _prompt(self, request: web.Request) -> web.Response:
        body = await request.json()
        item = [0, body["prompt_id"], body["prompt"], body.get("extra_data", {}), []]
        self.pending.append(item)
        return web.json_response({"prompt_id": body["prompt_id"], "node_errors": {}})

    async def _history(self, _request: web.Request) -> web.Response:
        return web.json_response(self.history)

    async def _entry(self, request: web.Request) -> web.Response:
        found = self.history.get(request.match_info["id"])
        return web.json_response({request.match_info["id"]: found} if found else {})

    async def _queue(self, _request: web.Request) -> web.Response:
        queue = {"queue_running": self.running, "queue_pending": self.pending}
        return web.json_response(queue)

    async def _delete(self, request: web.Request) -> web.Response:
        gone = (await request.json())["delete"]
        self.pending = [item for item in self.pending if item[1] not in gone]
        return web.Response()

    async def _interrupt(self, request: web.Request) -> web.Response:
        asked = (await request.json())["prompt_id"]
        self.running = [item for item in self.running if item[1] != asked]
        return web.Response()

    async def _upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        file = form["image"]
        assert isinstance(file, web.FileField)
        self.uploads.append(f"{form['subfolder']}/{file.filename}")
        return web.json_response({"name": file.filename, "subfolder": form["subfolder"]})

    async def _view(self, request: web.Request) -> web.Response:
        query = request.query
        path = (query["type"], query.get("subfolder"), query["filename"])
        if "/".join(part for part in path if part) in self.files:
            return web.Response()
        entry = self.history.get(query["filename"])
        if entry is None:
            return web.Response(status=404)
        return web.Response(body=colour_of(entry["prompt"][2]))


def colour_of(prompt: dict[str, Any]) -> bytes:
    """The PNG that this server makes of a workflow."""
    digest = hashlib.sha256(json.dumps(prompt, sort_keys=True).encode()).digest()
    buffer = io.BytesIO()
    Image.new("RGB", (24, 16), tuple(digest[:3])).save(buffer, "PNG")
    return buffer.getvalue()


@asynccontextmanager
async def serving(*servers: FakeServer):
    for server in servers:
        await server.start()
    try:
        yield [server.url for server in servers]
    finally:
        for server in servers:
            await server.stop()
