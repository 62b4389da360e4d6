"""A small server that speaks ComfyUI's protocol as the script of a test says.

Imported by tests as `ale_edit.tests.headless.scripted_server`.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from ale_edit.headless import (
    ComfyClient,
    Progress,
    Workflow,
)

WORKFLOW = Workflow(
    {
        "1": {"class_type": "Load", "inputs": {}, "_meta": {"title": "The image"}},
        "2": {"class_type": "Sample", "inputs": {}, "_meta": {"title": "Sampling"}},
    },
    "test.json",
)
FAILURE = {
    "prompt_id": "p1",
    "node_id": "2",
    "node_type": "Sample",
    "exception_message": "no masks\n",
    "exception_type": "ValueError",
    "traceback": ["line 1"],
}


COMBO = ["COMBO", {"options": ["c"], "multiselect": False}]  # a choice of a V3 node


class FakeComfyUI:
    """Queues one run, p1; a test sets what happens to it."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self.outputs: dict[str, Any] = {}
        self.reply: tuple[int, dict[str, Any]] = (200, {"prompt_id": "p1", "node_errors": {}})
        self.with_socket = True
        self.drops_socket = False
        self.later_events: list[tuple[str, dict[str, Any]]] = []  # once a dropped one is back
        self.pause_s = 0.0  # between these
        self.troubles = 0  # how often the history is not to be had
        self.ahead: list[str] = []
        self.logins: list[str] = []
        self.refusals = 0
        self.finishes = True
        self.queued = True
        self.calls: list[tuple[str, Any]] = []
        self._sockets: list[web.WebSocketResponse] = []
        self._done = False
        self.runner: web.AppRunner | None = None

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/system_stats", self.stats),
                web.get("/object_info", self.object_info),
                web.get("/object_info/{node}", self.node_info),
                web.get("/ws", self.socket),
                web.post("/prompt", self.prompt),
                web.get("/history/{id}", self.history),
                web.get("/queue", self.queue),
                web.post("/queue", self.record),
                web.post("/interrupt", self.record),
                web.post("/upload/image", self.upload),
                web.get("/view", self.view),
            ]
        )
        return app

    async def stats(self, request: web.Request) -> web.Response:
        self.logins.append(request.headers.get("Authorization", ""))
        system = {"comfyui_version": "0.3.75", "python_version": "3.11.7 (main)"}
        return web.json_response({"system": {**system, "pytorch_version": "2.11.0"}})

    async def object_info(self, _request: web.Request) -> web.Response:
        return web.json_response({"Load": {}, "Sample": {}})

    async def node_info(self, request: web.Request) -> web.Response:
        name = request.match_info["node"]
        inputs = {"required": {"file": [["a", "b"], {}]}, "optional": {"mode": COMBO}}
        return web.json_response({"Load": {"input": inputs}} if name == "Load" else {})

    async def socket(self, request: web.Request) -> web.StreamResponse:
        self.logins.append(request.headers.get("Authorization", ""))
        if not self.with_socket:
            self.refusals += 1
            return web.Response(status=403)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self._sockets.append(socket)
        await socket.send_bytes(b"a preview")
        async for _message in socket:
            pass
        return socket

    async def prompt(self, request: web.Request) -> web.Response:
        self.calls.append(("/prompt", await request.json()))
        self._task = asyncio.create_task(self.play())
        return web.json_response(self.reply[1], status=self.reply[0])

    async def play(self) -> None:
        await asyncio.sleep(0.05)
        for kind, content in self.events:
            for socket in self._sockets:
                await socket.send_str(json.dumps({"type": kind, "data": content}))
        if self.drops_socket:
            for socket in self._sockets:
                await socket.close()
            self._sockets.clear()
        if self.later_events:
            while not self._sockets:
                await asyncio.sleep(0.01)
            for kind, content in self.later_events:
                await self._sockets[0].send_str(json.dumps({"type": kind, "data": content}))
                await asyncio.sleep(self.pause_s)
        await asyncio.sleep(0.05)
        self._done = self.finishes

    async def history(self, request: web.Request) -> web.Response:
        if self.troubles:
            self.troubles -= 1
            return web.Response(status=502)
        entry = {"outputs": self.outputs, "status": {"messages": self.messages}}
        return web.json_response({request.match_info["id"]: entry} if self._done else {})

    async def queue(self, _request: web.Request) -> web.Response:
        ids = [*self.ahead, *(["p1"] if self.queued else [])]
        items = [[number, name, {}, {}, []] for number, name in enumerate(ids)]
        pending = items[:0:-1]  # a heap: not in the order of the queue
        return web.json_response({"queue_running": items[:1], "queue_pending": pending})

    async def record(self, request: web.Request) -> web.Response:
        self.calls.append((request.path, await request.json()))
        return web.Response()

    async def upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        self.calls.append(("/upload/image", {**form}))
        return web.json_response({"name": "a.png", "subfolder": form["subfolder"]})

    async def view(self, request: web.Request) -> web.Response:
        return web.Response(body=json.dumps(dict(request.query)).encode())


@asynccontextmanager
async def serving(fake: FakeComfyUI):
    fake.runner = web.AppRunner(fake.app(), shutdown_timeout=0.1)
    await fake.runner.setup()
    site = web.TCPSite(fake.runner, "127.0.0.1", 0)
    await site.start()
    port = fake.runner.addresses[0][1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await fake.runner.cleanup()


def with_client(fake: FakeComfyUI, job: Callable[[ComfyClient], Awaitable[Any]]) -> Any:
    async def whole() -> Any:
        async with serving(fake) as url, ComfyClient(url) as client:
            return await asyncio.wait_for(job(client), 20)

    return asyncio.run(whole())


def run(fake: FakeComfyUI) -> tuple[list[Any], list[Progress]]:
    seen: list[Progress] = []
    return with_client(fake, lambda client: client.run(WORKFLOW, seen.append)), seen
