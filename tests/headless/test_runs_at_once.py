"""Several runs at the same time on one client: each gets its own progress, images and errors."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from ale_edit.headless import ComfyClient, NodeFailed, Progress, SavedImage
from ale_edit.tests.headless.scripted_server import FAILURE, WORKFLOW, FakeComfyUI, with_client

STEPS = 3


class FakeQueue(FakeComfyUI):
    """Works on all runs at once, and tells each client of the steps of all."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: dict[str, list[tuple[str, Any]]] = {}  # with their messages in the history
        self.failing: list[bool] = []  # of the runs, in the order in which they come
        self.running: dict[str, asyncio.Task[None]] = {}

    async def prompt(self, request: web.Request) -> web.Response:
        name = (await request.json())["prompt_id"]
        fails = self.failing.pop(0) if self.failing else False
        self.running[name] = asyncio.create_task(self.work(name, fails=fails))
        return web.json_response({"prompt_id": name, "node_errors": {}})

    async def work(self, name: str, *, fails: bool) -> None:
        for step in range(1, STEPS + 1):
            await asyncio.sleep(0.02)
            await self.send("progress", node="2", prompt_id=name, value=step, max=STEPS)
        failure = {**FAILURE, "prompt_id": name}
        self.ended[name] = [("execution_error", failure)] if fails else []
        del self.running[name]
        await self.send("execution_success", prompt_id=name)

    async def send(self, kind: str, **content: Any) -> None:
        of_others = ("no JSON", "7", '{"type": "x", "data": {"prompt_id": [1]}}', "{}")
        for socket in list(self._sockets):
            for text in (*of_others, json.dumps({"type": kind, "data": content})):
                if not socket.closed:
                    await socket.send_str(text)

    async def history(self, request: web.Request) -> web.Response:
        name = request.match_info["id"]
        if name not in self.ended:
            return web.json_response({})
        image = {"filename": name, "subfolder": "", "type": "output"}
        status = {"messages": self.ended[name]}
        return web.json_response({name: {"outputs": {"1": {"images": [image]}}, "status": status}})

    async def queue(self, _request: web.Request) -> web.Response:
        items = [[number, name, {}, {}, []] for number, name in enumerate(self.running)]
        return web.json_response({"queue_running": items, "queue_pending": []})


async def follow_all(
    client: ComfyClient, count: int
) -> tuple[list[list[SavedImage] | BaseException], list[list[Progress]]]:
    seen: list[list[Progress]] = [[] for _ in range(count)]
    runs = [client.run(WORKFLOW, seen[number].append) for number in range(count)]
    return await asyncio.gather(*runs, return_exceptions=True), seen


@pytest.mark.parametrize("count", [2, 7])
def test_each_of_several_runs_at_once_gets_its_own_progress_and_images(count):
    fake = FakeQueue()
    found, seen = with_client(fake, lambda client: follow_all(client, count))
    names = [image.filename for images in found for image in images]
    assert sorted(names) == sorted(fake.ended) and len(set(names)) == count
    assert seen == [[Progress("Sampling", step, STEPS) for step in range(1, STEPS + 1)]] * count


def test_a_run_that_fails_beside_another_fails_alone():
    fake = FakeQueue()
    fake.failing = [True, False]
    found, _ = with_client(fake, lambda client: follow_all(client, 2))
    kinds = sorted(type(result).__name__ for result in found)
    assert kinds == [NodeFailed.__name__, "list"]


def test_several_runs_end_though_their_websocket_drops(monkeypatch):
    fake = FakeQueue()

    async def job(client: ComfyClient) -> Any:
        task = asyncio.create_task(follow_all(client, 3))
        await asyncio.sleep(0.03)
        for socket in fake._sockets:
            await socket.close()
        fake._sockets.clear()
        return await task

    found, seen = with_client(fake, job)
    assert sorted(images[0].filename for images in found) == sorted(fake.ended)
    right = {Progress("Sampling", step, STEPS) for step in range(1, STEPS + 1)}
    assert all({step for step in steps if not step.ahead} <= right for steps in seen)
    assert len(fake._sockets) == 1  # opened again once, for all of them


def test_a_run_may_be_followed_after_another_that_was_queued_later():
    fake = FakeQueue()

    async def job(client: ComfyClient) -> list[int]:
        first, second = await client.queue(WORKFLOW), await client.queue(WORKFLOW)
        values = []
        for run in (second, first):
            values += [progress.value async for progress in client.follow(run)]
        return values

    assert with_client(fake, job) == [1, 2, 3, 1, 2, 3]
