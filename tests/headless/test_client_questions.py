"""What the client asks of a server, and addresses, passwords and connections that fail."""

import asyncio
import base64
import json
from typing import Any

import pytest
from aiohttp import web

from ale_edit.headless import (
    ComfyClient,
    PackMissing,
    ServerGone,
    Workflow,
    WorkflowRejected,
)
from ale_edit.headless.connection import hide_password
from ale_edit.headless.edits import MASKED
from ale_edit.tests.headless.fake_server import FakeServer
from ale_edit.tests.headless.fake_server import serving as serving_many
from ale_edit.tests.headless.scripted_server import (
    WORKFLOW,
    FakeComfyUI,
    serving,
    with_client,
)


@pytest.fixture
def fake() -> FakeComfyUI:
    return FakeComfyUI()


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
    address, coded = hide_password(url)
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
