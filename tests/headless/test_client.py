"""The client against a small server that speaks ComfyUI's protocol as the script of a test says."""

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from ale_edit.headless import (
    ComfyClient,
    Interrupted,
    NodeFailed,
    PackMissing,
    Progress,
    Run,
    RunLost,
    ServerGone,
    Workflow,
    WorkflowRejected,
)
from ale_edit.headless.connection import without_password
from ale_edit.headless.edits import MASKED
from ale_edit.tests.headless.fake_server import FakeServer
from ale_edit.tests.headless.fake_server import serving as serving_many

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


@pytest.fixture
def fake() -> FakeComfyUI:
    return FakeComfyUI()


def test_progress_is_followed_by_title_and_images_come_from_the_history(fake):
    fake.events = [
        ("status", {"status": {}}),
        ("of another pack", "a text"),
        ("executing", {"node": "1", "prompt_id": "p1"}),
        ("executing", {"node": "1", "prompt_id": "another run"}),
        ("progress", {"node": "2", "prompt_id": "p1", "value": 3, "max": 15}),
        ("executing", {"node": None, "prompt_id": "p1"}),
        ("execution_success", {"prompt_id": "p1"}),
    ]
    fake.outputs = {"2": {"images": [{"filename": "x.png", "subfolder": "s", "type": "output"}]}}
    images, seen = run(fake)
    assert seen == [Progress("The image"), Progress("Sampling", 3, 15)]
    assert [(image.title, image.filename) for image in images] == [("Sampling", "x.png")]


def test_the_clients_workflow_and_id_are_queued(fake):
    fake.events = [("execution_success", {"prompt_id": "p1"})]
    run(fake)
    ((path, body),) = fake.calls
    assert path == "/prompt" and body["prompt"] == WORKFLOW.nodes and body["client_id"]


@pytest.mark.parametrize("trouble", ["no socket", "socket drops", "silent end"])
def test_without_a_websocket_the_history_is_asked(fake, trouble):
    fake.with_socket = trouble != "no socket"
    fake.drops_socket = trouble == "socket drops"
    fake.outputs = {"1": {"images": [{"filename": "x.png", "subfolder": "", "type": "temp"}]}}
    images, _ = run(fake)
    assert [image.kind for image in images] == ["temp"]


def test_a_node_that_fails_is_named_with_its_message(fake):
    fake.events = [("execution_error", FAILURE)]
    fake.messages = [("execution_start", {}), ("execution_error", FAILURE)]
    with pytest.raises(NodeFailed, match=r"'Sampling' \(Sample\): no masks$") as caught:
        run(fake)
    assert caught.value.exception_type == "ValueError"
    assert caught.value.traceback == ("line 1",)


def test_a_failed_node_is_told_with_its_id_inputs_and_the_input_that_it_names(fake):
    failure = {
        **FAILURE,
        "exception_message": "Sample: the steps input is 99. Lower it.",
        "current_inputs": {"steps": [99], "model": ["x"]},
    }
    fake.messages = [("execution_error", failure)]
    with pytest.raises(NodeFailed, match="'Sampling' .Sample., input 'steps': .*Lower") as caught:
        run(fake)
    error = caught.value.error
    assert (error.node_id, error.input_name) == ("2", "steps")
    assert caught.value.inputs == {"steps": [99], "model": ["x"]}
    assert not caught.value.is_full_disk


@pytest.mark.parametrize("message", ["no masks", "the mask input is empty", "input of the node"])
def test_an_input_that_the_node_does_not_have_is_not_named(fake, message):
    failure = {**FAILURE, "exception_message": message, "current_inputs": {"steps": [99]}}
    fake.messages = [("execution_error", failure)]
    with pytest.raises(NodeFailed) as caught:
        run(fake)
    assert caught.value.error.input_name is None


def test_a_websocket_that_drops_is_opened_again_and_progress_goes_on(fake):
    fake.drops_socket = True
    fake.events = [("progress", {"node": "2", "prompt_id": "p1", "value": 1, "max": 9})]
    fake.later_events = [
        ("progress", {"node": "2", "prompt_id": "p1", "value": 5, "max": 9}),
        ("execution_success", {"prompt_id": "p1"}),
    ]
    _, seen = run(fake)
    assert seen == [Progress("Sampling", 1, 9), Progress("Sampling", 5, 9)]


def test_a_question_that_fails_for_a_moment_is_asked_again(fake, monkeypatch):
    monkeypatch.setattr("ale_edit.headless.connection.PAUSES_S", (0.01, 0.01))
    fake.with_socket, fake.troubles = False, 2
    fake.outputs = {"1": {"images": [{"filename": "x.png", "subfolder": "", "type": "temp"}]}}
    assert len(run(fake)[0]) == 1
    fake.troubles = 9
    with pytest.raises(ServerGone, match="answered 502 .*disk full"):
        run(fake)


def test_the_end_is_noticed_though_messages_about_others_never_cease(fake, monkeypatch):
    """A run that another process queued sends us no message of its own."""
    monkeypatch.setattr("ale_edit.headless.client.QUIET_S", 0.2)
    fake.later_events = [("status", {"status": {}})] * 200
    fake.pause_s, fake.finishes = 0.05, False
    saved: list[float] = []

    async def job(client: ComfyClient) -> None:
        run, start = await client.queue(WORKFLOW), time.monotonic()
        fake._done = True
        await client.finish(run)
        saved.append(time.monotonic() - start)

    with_client(fake, job)
    assert saved[0] < 5  # and not 10, when the messages end


def test_a_run_that_waits_says_how_many_come_before_it(fake, monkeypatch):
    monkeypatch.setattr("ale_edit.headless.client.QUIET_S", 0.1)
    fake.ahead, fake.finishes = ["running", "waiting", "waiting too"], False
    seen: list[Progress] = []

    def note(progress: Progress) -> None:
        seen.append(progress)
        fake.ahead = fake.ahead[1:]
        fake._done = not fake.ahead

    with_client(fake, lambda client: client.run(WORKFLOW, note))
    assert seen == [Progress("", ahead=3), Progress("", ahead=2), Progress("", ahead=1)]


@pytest.mark.parametrize(("with_socket", "drops"), [(True, True), (False, False)])
def test_a_run_that_the_server_knows_no_more_is_lost(fake, with_socket, drops, monkeypatch):
    """Perhaps the server was started anew, which closes its websockets."""
    monkeypatch.setattr("ale_edit.headless.client.QUIET_S", 0.1)
    fake.with_socket, fake.drops_socket = with_socket, drops
    fake.finishes, fake.queued = False, False
    with pytest.raises(RunLost, match="taken out of the queue, or ComfyUI at .* started anew"):
        run(fake)


def test_a_run_that_a_server_forgot_while_it_was_there_was_cancelled(fake, monkeypatch):
    monkeypatch.setattr("ale_edit.headless.client.QUIET_S", 0.1)
    fake.finishes, fake.queued = False, False
    with pytest.raises(Interrupted, match=r"^test.json was taken out of the") as caught:
        run(fake)
    assert not isinstance(caught.value, RunLost)


def test_a_run_of_an_earlier_process_counts_as_cancelled_once_it_was_seen(fake, monkeypatch):
    monkeypatch.setattr("ale_edit.headless.client.QUIET_S", 0.1)
    fake.ahead = ["theirs"]

    def take_out(_progress: Progress) -> None:
        fake.queued = False

    async def job(client: ComfyClient) -> None:
        with pytest.raises(Interrupted) as caught:
            await client.finish(Run("p1", WORKFLOW), take_out)
        assert not isinstance(caught.value, RunLost)
        with pytest.raises(RunLost):
            await client.finish(Run("p0", WORKFLOW))

    with_client(fake, job)


def test_a_notice_of_a_node_comes_as_progress_with_its_title(fake):
    notice = {"node": "2", "text": "the masks overlap", "prompt_id": "p1"}
    fake.events = [
        ("executing", {"node": "2", "prompt_id": "p1"}),
        ("ale_edit.notice", {**notice, "prompt_id": "theirs"}),
        ("ale_edit.notice", notice),
        ("ale_edit.notice", {**notice, "node": "7:1"}),  # within a subgraph
        ("ale_edit.notice", {"prompt_id": "p1"}),
        ("execution_success", {"prompt_id": "p1"}),
    ]
    assert run(fake)[1] == [
        Progress("Sampling"),
        Progress("Sampling", notice="the masks overlap"),
        Progress("7:1", notice="the masks overlap"),
    ]


def test_a_refused_workflow_names_node_input_and_reason(fake):
    problem = {
        "message": "Value not in list",
        "details": "image: 'a.png' not in []",
        "extra_info": {"input_name": "image"},
    }
    errors = {"1": {"class_type": "Load", "errors": [problem]}}
    fake.reply = (
        400,
        {"error": {"message": "Prompt failed", "details": ""}, "node_errors": errors},
    )
    expected = r"'The image' \(Load\), input 'image': Value not in list: image: 'a.png' not in"
    with pytest.raises(WorkflowRejected, match=expected) as caught:
        run(fake)
    assert caught.value.errors[0].input_name == "image"


def test_a_refusal_without_a_node_gives_the_general_reason(fake):
    reason = {"message": "Prompt has no outputs", "details": ""}
    fake.reply = (400, {"error": reason, "node_errors": {}})
    with pytest.raises(WorkflowRejected, match="Prompt has no outputs"):
        run(fake)


def test_a_workflow_that_is_refused_in_part_is_not_run_in_part(fake):
    problem = {"message": "Bad", "details": "", "extra_info": {}}
    errors = {"1": {"class_type": "Load", "errors": [problem]}}
    fake.reply = (200, {"prompt_id": "p1", "node_errors": errors})
    with pytest.raises(WorkflowRejected, match="'The image'"):
        run(fake)
    assert ("/queue", {"delete": ["p1"]}) in fake.calls


def test_an_interrupted_run_says_so(fake):
    fake.events = [("execution_interrupted", {"prompt_id": "p1"})]
    fake.messages = [("execution_interrupted", {"prompt_id": "p1"})]
    with pytest.raises(Interrupted, match="test.json was interrupted"):
        run(fake)


def test_cancelling_the_task_cancels_the_run(fake):
    fake.finishes = False

    async def job(client: ComfyClient) -> None:
        task = asyncio.create_task(client.run(WORKFLOW))
        await asyncio.sleep(0.3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with_client(fake, job)
    assert ("/interrupt", {"prompt_id": "p1"}) in fake.calls


def test_missing_nodes_are_named(fake):
    with pytest.raises(PackMissing, match="has no node ALEEditObject, ALERegions"):
        with_client(fake, lambda client: client.check(["Load", "ALERegions", "ALEEditObject"]))


def test_a_workflow_is_checked_before_it_is_queued(fake):
    with pytest.raises(PackMissing, match="has no node Elsewhere"):
        workflow = Workflow({"1": {"class_type": "Elsewhere", "inputs": {}}})
        with_client(fake, lambda client: client.check_workflow(workflow))
    server, wrong = FakeServer(), Workflow.load(MASKED)
    wrong.fill("Schedule", steps=99)

    async def job() -> None:
        async with serving_many(server) as urls, ComfyClient(urls[0]) as client:
            assert await client.pack_version() == server.version
            await client.check_workflow(Workflow.load(MASKED))
            await client.check_workflow(wrong)

    expected = "cannot run ale_edit.json. 'Schedule' .ALELCMSchedule., input 'steps': 99 is not"
    with pytest.raises(WorkflowRejected, match=expected) as caught:
        asyncio.run(job())
    assert caught.value.errors[0].node_id == wrong.find("Schedule") and not server.ran


@pytest.mark.parametrize(("name", "offered"), [("file", ["a", "b"]), ("mode", ["c"])])
def test_the_choices_of_an_input_are_read(fake, name, offered):
    assert with_client(fake, lambda client: client.choices("Load", name)) == offered


@pytest.mark.parametrize("place", [("Load", "other"), ("Other", "file")])
def test_choices_of_an_input_that_is_not_there_are_an_error(fake, place):
    with pytest.raises(PackMissing, match=f"no input '{place[1]}' of a node {place[0]}"):
        with_client(fake, lambda client: client.choices(*place))


def test_versions_are_read(fake):
    versions = with_client(fake, lambda client: client.versions())
    assert versions == {"comfyui": "0.3.75", "python": "3.11.7", "pytorch": "2.11.0"}


def test_an_upload_returns_the_name_that_load_image_takes(fake):
    name = with_client(fake, lambda client: client.upload_image(b"png", "a.png"))
    assert name == "ale-edit/a.png"


def test_a_saved_image_is_fetched_by_name_folder_and_kind(fake):
    fake.outputs = {"1": {"images": [{"filename": "x", "subfolder": "s", "type": "output"}]}}

    async def job(client: ComfyClient) -> bytes:
        (image,) = await client.run(WORKFLOW)
        return await client.fetch(image)

    query = {"filename": "x", "subfolder": "s", "type": "output"}
    assert json.loads(with_client(fake, job)) == query


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:1", "No ComfyUI answers at http://127.0.0.1:1"),
        ("127.0.0.1:1", "is not an address"),
        ("nonsense", "is not an address"),
    ],
)
def test_an_address_where_nothing_answers_is_an_error(url, expected):
    async def job() -> None:
        async with ComfyClient(url):
            pass

    with pytest.raises(ServerGone, match=expected):
        asyncio.run(job())


def test_another_program_at_the_address_is_told_from_comfyui():
    async def job() -> None:
        runner = web.AppRunner(web.Application())
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            async with ComfyClient(f"http://127.0.0.1:{runner.addresses[0][1]}"):
                pass
        finally:
            await runner.cleanup()

    with pytest.raises(ServerGone, match="answered 404.*Check that the address"):
        asyncio.run(job())


def test_a_server_that_dies_during_the_run_is_an_error(fake):
    fake.finishes = False

    async def job() -> None:
        async with serving(fake) as url, ComfyClient(url) as client:
            run = await client.queue(WORKFLOW)
            following = asyncio.create_task(drain(client, run))
            await asyncio.sleep(0.3)
            assert fake.runner is not None
            await fake.runner.cleanup()
            await asyncio.wait_for(following, 20)

    async def drain(client: ComfyClient, run: Any) -> None:
        async for _ in client.follow(run):
            pass

    with pytest.raises(ServerGone, match="No ComfyUI answers"):
        asyncio.run(job())


def test_no_session_is_left_open_when_the_server_is_not_there(recwarn):
    async def job() -> None:
        with pytest.raises(ServerGone):
            async with ComfyClient("http://127.0.0.1:1"):
                pass

    asyncio.run(job())
    assert not [w for w in recwarn if issubclass(w.category, ResourceWarning)]


@pytest.mark.parametrize(
    ("url", "shown", "login"),
    [
        ("http://host:8188/", "http://host:8188", None),
        ("https://me:p%40ss@host/comfy/", "https://host/comfy", b"me:p@ss"),
        ("http://host/a@b", "http://host/a@b", None),
        ("me:secret@host:8188", "host:8188", b"me:secret"),  # refused, and shown then
    ],
)
def test_a_password_in_the_address_is_used_and_never_shown(url, shown, login):
    address, coded = without_password(url)
    assert address == shown
    assert (coded and base64.b64decode(coded)) == login


def test_the_server_is_told_user_and_password(fake):
    async def job() -> str:
        async with serving(fake) as url:
            fake.logins.clear()
            async with ComfyClient(url.replace("http://", "http://me:secret@")) as client:
                return client.url

    url = asyncio.run(job())
    assert "secret" not in url
    assert set(fake.logins) == {"Basic " + base64.b64encode(b"me:secret").decode()}


def test_a_websocket_that_is_refused_is_not_asked_for_again_and_again(fake):
    fake.with_socket = False

    async def job(client: ComfyClient) -> None:
        for _ in range(4):
            await client.queue(WORKFLOW)

    with_client(fake, job)
    assert fake.refusals == 2
