"""One item at one server, against a small server that speaks ComfyUI's protocol."""

import asyncio
import io
import pickle
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from aiohttp import web
from PIL import Image

from ale_edit.headless import (
    Interrupted,
    NodeFailed,
    NoImage,
    OtherVersion,
    PackMissing,
    ServerGone,
    WorkflowRejected,
    work,
)
from ale_edit.headless.pictures import as_png
from ale_edit.headless.work import RunResult, RunStopped, WorkItem, look, make
from ale_edit.tests.headless.scripted_server import FakeComfyUI
from ale_edit.tests.headless.scripted_server import serving as serving_fake

NODES = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "ale-edit/a.png"}},
    "2": {"class_type": "ALERegions", "inputs": {"edits": 1}, "_meta": {"title": "Save edited"}},
}
VERSION = "1.2.3"
NEEDED = {"LoadImage": frozenset({"image"}), "ALERegions": frozenset({"edits"})}
IMAGE = as_png(Image.new("RGB", (8, 8), "red"))


class Server:
    """Ends every run at once; a test changes what it is and says."""

    def __init__(self) -> None:
        self.nodes: dict[str, Any] = {
            "LoadImage": {"input": {"required": {"image": []}}},
            "ALERegions": {
                "input": {"required": {"edits": []}, "optional": {"more": []}},
                "python_module": "custom_nodes.my-edits",
            },
        }
        self.has: set[str] = set()
        self.uploads: list[str] = []
        self.failure: dict[str, Any] | None = None
        self.ending = "execution_error"
        self.version: str | None = VERSION
        self.queued = 0
        self.url = ""

    def app(self) -> web.Application:
        app = web.Application()
        app.add_routes(
            [
                web.get("/system_stats", self.stats),
                web.get("/object_info", self.object_info),
                web.get("/extensions/my-edits/version.json", self.told_version),
                web.post("/upload/image", self.upload),
                web.post("/prompt", self.prompt),
                web.get("/queue", self.queue),
                web.get("/history", self.all_history),
                web.get("/history/{id}", self.history),
                web.get("/view", self.view),
            ]
        )
        return app

    async def stats(self, _request: web.Request) -> web.Response:
        return web.json_response({"system": {"comfyui_version": "0.3.75"}})

    async def object_info(self, _request: web.Request) -> web.Response:
        return web.json_response(self.nodes)

    async def told_version(self, _request: web.Request) -> web.Response:
        if self.version is None:
            raise web.HTTPNotFound
        return web.json_response({"name": "ale-edit", "version": self.version})

    async def upload(self, request: web.Request) -> web.Response:
        form = await request.post()
        picture: Any = form["image"]
        name = f"{form['subfolder']}/{picture.filename}"
        Image.open(io.BytesIO(picture.file.read())).load()
        self.uploads.append(name)
        self.has.add(name)
        return web.json_response({"name": picture.filename, "subfolder": form["subfolder"]})

    async def prompt(self, request: web.Request) -> web.Response:
        body = await request.json()
        if (name := body["prompt"]["1"]["inputs"]["image"]) not in self.has:
            problem = {"message": "Invalid image file", "details": name}
            errors = {"1": {"class_type": "LoadImage", "errors": [problem]}}
            return web.json_response({"error": {}, "node_errors": errors}, status=400)
        self.queued += 1
        return web.json_response({"prompt_id": "p", "node_errors": {}})

    async def queue(self, _request: web.Request) -> web.Response:
        return web.json_response({"queue_running": [], "queue_pending": []})

    async def all_history(self, _request: web.Request) -> web.Response:
        prompt = [0, "p", NODES, {"ale_edit": "my tag"}, []]
        return web.json_response({"p": {"prompt": prompt, "status": {"status_str": "success"}}})

    async def history(self, _request: web.Request) -> web.Response:
        messages = [[self.ending, self.failure]] if self.failure else []
        image = {"filename": "x.png", "subfolder": "", "type": "temp"}
        entry = {"outputs": {"2": {"images": [image]}}, "status": {"messages": messages}}
        return web.json_response({"p": entry, "prompt": entry})

    async def view(self, _request: web.Request) -> web.Response:
        return web.Response(body=IMAGE)


@contextmanager
def serving(server: Server) -> Iterator[str]:
    loop, ready = asyncio.new_event_loop(), threading.Event()
    runner = web.AppRunner(server.app(), shutdown_timeout=0.1)

    async def start() -> None:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()

    def serve() -> None:
        loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(20)
    try:
        yield server.url
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    with serving(server):
        yield server


def item(**changes: Any) -> WorkItem:
    own = {"run": "r", "name": "ale/one", "nodes": NODES, "result": "Save edited"}
    return WorkItem(**{**own, "pictures": {"ale-edit/a.png": IMAGE}, **changes})


def failing(server: Server, kind: str) -> None:
    server.failure = {
        "node_id": "2",
        "node_type": "ALERegions",
        "exception_message": "it is empty",
        "exception_type": kind,
        "traceback": [],
    }


def test_an_item_gives_its_image_and_pictures_are_sent_once(server):
    first, second = make(item(), server.url), make(item(name="ale/two"), server.url)
    assert first.image == second.image == IMAGE and first.preview is None and first.seconds >= 0
    assert server.uploads == ["ale-edit/a.png"]


def test_a_server_that_forgot_its_inputs_is_sent_them_again(server):
    make(item(), server.url)
    server.has.clear()  # restarted with an empty folder
    assert make(item(), server.url).image == IMAGE
    assert server.uploads == ["ale-edit/a.png"] * 2


def test_a_workflow_that_is_refused_fails_with_the_reason(server):
    with pytest.raises(WorkflowRejected, match="Invalid image file: ale-edit/a.png") as caught:
        make(item(pictures={}), server.url)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value) and again.errors == caught.value.errors


def test_what_a_node_says_comes_with_the_failure_through_pickle_too(server):
    failing(server, "ValueError")
    with pytest.raises(NodeFailed) as caught:
        make(item(), server.url)
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        assert str(error) == "'Save edited' (ALERegions): it is empty"
        assert (error.error.title, error.exception_type) == ("Save edited", "ValueError")


def test_without_a_server_it_is_lost():
    with pytest.raises(ServerGone, match="No ComfyUI answers at http://127.0.0.1:1") as caught:
        make(item(), "http://127.0.0.1:1")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    with pytest.raises(ServerGone, match="No ComfyUI answers"):
        look("r", "http://127.0.0.1:1", {}, VERSION)


def test_a_run_without_an_image_says_so(server):
    with pytest.raises(NoImage, match="ended at .* but no image came from 'Save another'"):
        make(item(result="Save another"), server.url)


def test_a_look_says_versions_and_the_inputs_of_the_packs_nodes(server):
    facts = look("r", server.url, NEEDED, VERSION)
    assert facts.versions["comfyui"] == "0.3.75"
    assert facts.inputs == {"ALERegions": {"edits", "more"}}
    assert pickle.loads(pickle.dumps(facts)) == facts


def test_a_run_that_was_left_at_the_server_is_taken_over_by_its_tag(server):
    left = look("r", server.url, NEEDED, VERSION).left
    assert left == {"my tag": "p"}
    assert make(item(pictures={}), server.url, left["my tag"]).image == IMAGE
    assert not server.uploads and not server.queued


def test_where_the_run_that_was_left_is_gone_the_item_is_made(server):
    assert make(item(), server.url, "no such run").image == IMAGE
    assert server.uploads == ["ale-edit/a.png"] and server.queued == 1


def test_a_run_that_was_left_and_is_cancelled_now_is_not_made_again(server):
    failing(server, "InterruptProcessingException")
    server.ending = "execution_interrupted"
    with pytest.raises(Interrupted, match="was interrupted"):
        make(item(), server.url, "p")
    assert not server.uploads and not server.queued


def test_a_preview_comes_with_the_image_and_steps_are_told(server):
    made = make(item(previews=("Other", "Save edited")), server.url, None, lambda *_: pytest.fail())
    assert made == RunResult(IMAGE, IMAGE, made.seconds)


def test_what_nodes_say_comes_with_the_image_once_and_with_the_nodes_title():
    fake = FakeComfyUI()
    fake.outputs = {"2": {"images": [{"filename": "a.png", "subfolder": "", "type": "temp"}]}}
    texts = ["two masks overlap", "Save edited: it is small", "two masks overlap"]
    fake.events = [
        *(("ale_edit.notice", {"node": "2", "text": t, "prompt_id": "p1"}) for t in texts),
        ("execution_success", {"prompt_id": "p1"}),
    ]
    told = ("Save edited: two masks overlap", "Save edited: it is small")

    async def whole() -> RunResult:
        async with serving_fake(fake) as url:
            return await asyncio.to_thread(make, item(pictures={}), url)

    made = asyncio.run(whole())
    assert made.notices == told and pickle.loads(pickle.dumps(made)) == made


def test_a_server_without_the_pack_is_told(server):
    del server.nodes["ALERegions"]
    with pytest.raises(PackMissing, match="has no node ALERegions. Put the pack that has it into"):
        look("r", server.url, NEEDED, VERSION)


def test_a_server_that_tells_another_version_of_the_pack_is_refused_or_accepted(server):
    server.version = "1.2.4"
    assert look("r", server.url, NEEDED, None).versions["ale_edit"] == "1.2.4"
    with pytest.raises(
        OtherVersion, match=r"has version 1.2.4 of the pack, this is 1.2.3: .* update one"
    ):
        look("r", server.url, NEEDED, VERSION)


def test_a_server_that_tells_no_version_is_known_by_its_nodes(server):
    server.version = None
    assert look("r", server.url, NEEDED, VERSION).inputs == {"ALERegions": {"edits", "more"}}


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ({"required": {"edits": [], "mode": []}}, "'mode'"),  # a newer one wants more
        ({"required": {}, "optional": {"more": []}}, "'edits'"),  # an older one has less
    ],
)
def test_a_server_with_another_version_of_the_pack_is_refused(server, inputs, named):
    server.nodes["ALERegions"] = {"input": inputs}
    with pytest.raises(
        OtherVersion, match=f"another version of the pack: .*ALERegions differs in {named}"
    ):
        look("r", server.url, NEEDED, VERSION)


def test_other_packs_may_have_other_inputs(server):
    server.nodes["LoadImage"] = {"input": {"required": {"file": []}}}
    look("r", server.url, NEEDED, VERSION)


def test_what_answers_but_is_no_comfyui_is_named():
    class Other(Server):
        async def stats(self, _request: web.Request) -> web.Response:
            return web.json_response({"hello": 1})

    with serving(Other()) as url, pytest.raises(ServerGone, match="is not ComfyUI"):
        look("r", url, NEEDED, VERSION)


class Slow(Server):
    """Takes no picture before a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked, self.may_take = threading.Event(), threading.Event()

    async def upload(self, request: web.Request) -> web.Response:
        self.is_asked.set()
        await asyncio.to_thread(self.may_take.wait, 20)
        return await super().upload(request)


def test_a_thread_that_waits_for_another_ones_upload_can_be_stopped():
    server = Slow()
    with serving(server) as url, ThreadPoolExecutor(2) as pool:
        first = pool.submit(make, item(run="another run"), url)
        assert server.is_asked.wait(20)
        second = pool.submit(make, item(run="a stopped run"), url)
        while not work._RUNNING.get("a stopped run"):
            time.sleep(0.01)
        time.sleep(0.3)  # it has come to the upload, and waits
        work.stop("a stopped run")
        try:
            with pytest.raises(RunStopped):
                second.result(5)
            assert not first.done()
        finally:
            server.may_take.set()
        assert first.result(20).image == IMAGE
    assert server.uploads == ["ale-edit/a.png"]


def test_two_threads_send_a_picture_once():
    server = Slow()
    with serving(server) as url, ThreadPoolExecutor(2) as pool:
        both = [pool.submit(make, item(), url) for _ in range(2)]
        assert server.is_asked.wait(20)
        time.sleep(0.3)
        server.may_take.set()
        assert [future.result(20).image for future in both] == [IMAGE, IMAGE]
    assert server.uploads == ["ale-edit/a.png"]


def test_after_a_run_was_stopped_nothing_of_it_is_sent(server):
    work.stop("stopped run")
    with pytest.raises(RunStopped):
        make(item(run="stopped run"), server.url)
    assert not server.uploads
    assert make(item(), server.url).image == IMAGE
