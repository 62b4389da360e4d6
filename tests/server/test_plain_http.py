"""docs/headless.md's plain HTTP, and what ComfyUI reports of cached nodes, on a server as people
start it: with its cache."""

import asyncio
import io
import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ale_edit.bench.demo_scenes import demo_input
from ale_edit.headless import ComfyClient, SavedImage, Workflow, WorkflowRejected
from ale_edit.headless.pictures import as_png
from ale_edit.tests.server.conftest import new_server
from ale_edit.tests.versions import REPORTS_CACHED_NODES

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / "workflows" / "api" / "ale_edit_words_demo.json"
PREVIEWED = "Grounded-SAM Masks"  # a node in the middle of the graph
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with new_server(tmp_path_factory.mktemp("comfyui"), caches=True) as server:
        yield server


def quick(seed: int) -> Workflow:
    workflow = Workflow.load(WORKFLOW)
    workflow.fill("ALE Edit", steps=2, seed=seed)
    return workflow


def post(server: Any, body: dict[str, Any], path: str = "/prompt") -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(
        server.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request) as reply:
            return reply.status, json.loads(reply.read() or b"{}")
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


def get(server: Any, path: str) -> Any:
    with urllib.request.urlopen(server.url + path) as reply:
        return json.load(reply)


def wait_for(found: Callable[[], Any]) -> Any:
    for _ in range(1200):
        if value := found():
            return value
        time.sleep(0.1)
    raise TimeoutError


def run_to_end(server: Any, body: dict[str, Any]) -> dict[str, Any]:
    """The run's entry of the history."""
    _, answer = post(server, body)

    async def wait() -> dict[str, Any]:
        async with ComfyClient(server.url) as client:
            while not (entry := await client._ask(f"/history/{answer['prompt_id']}")):
                await asyncio.sleep(0.1)
            return entry[answer["prompt_id"]]

    return asyncio.run(asyncio.wait_for(wait(), 120))


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_the_commands_of_the_page_run_twice(server, tmp_path):
    page = (ROOT / "docs" / "headless.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"```sh\n(.+?)```", page, re.DOTALL)
    upload = re.search(r"`(curl -s \$AT/upload/image [^`]+)`", " ".join(page.split()))
    assert upload is not None
    script = script.replace("http://127.0.0.1:8188", server.url).replace("/tmp/", f"{tmp_path}/")
    (tmp_path / "ComfyUI" / "custom_nodes").mkdir(parents=True)
    (tmp_path / "ComfyUI" / "custom_nodes" / "ale-edit").symlink_to(ROOT)
    Image.new("RGB", (64, 64)).save(tmp_path / "photo.png")
    begin = f"set -eu; AT={server.url}\n{upload[1]} > {tmp_path}/uploaded.json\n"
    for _ in range(2):
        done = subprocess.run(
            ["bash", "-c", begin + script],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads((tmp_path / "reply.json").read_text())["node_errors"] == {}
        assert Image.open(tmp_path / "edited.png").size == (128, 128)
        (tmp_path / "edited.png").unlink()
    uploaded = json.loads((tmp_path / "uploaded.json").read_text())
    assert (uploaded["subfolder"], uploaded["name"]) == ("my-tool", "photo.png")


def test_without_a_client_id_0_3_75_leaves_cached_nodes_out_of_the_history(server):
    nodes = quick(seed=11).nodes
    first, again, with_id = (
        run_to_end(server, {"prompt": nodes, **more}) for more in ({}, {}, {"client_id": "me"})
    )
    assert "8" in first["outputs"]
    assert again["status"]["status_str"] == "success"
    assert ("8" in again["outputs"]) == REPORTS_CACHED_NODES
    assert with_id["outputs"]["8"] == first["outputs"]["8"]


def test_a_wrong_value_is_in_node_errors_though_the_rest_runs_and_unknown_inputs_are_ignored(
    server,
):
    workflow = quick(seed=12)
    workflow.inputs("ALE Edit")["stepz"] = 3
    status, answer = post(server, {"prompt": workflow.nodes, "client_id": "me"})
    assert (status, answer["node_errors"]) == (200, {})
    workflow.fill("ALE Edit", steps=999)
    status, answer = post(server, {"prompt": workflow.nodes, "client_id": "me"})
    (error,) = answer["node_errors"]["7"]["errors"]
    assert status == 200 and error["extra_info"]["input_name"] == "steps"
    workflow.keep_only("Edited image")
    status, answer = post(server, {"prompt": workflow.nodes, "client_id": "me"})
    assert status == 400 and set(answer["node_errors"]) == {"7"}


def test_a_node_that_does_not_exist_is_named_by_the_error(server):
    workflow = quick(seed=15)
    workflow.nodes["7"]["class_type"] = "ALEEdt"
    status, answer = post(server, {"prompt": workflow.nodes, "client_id": "me"})
    message = answer["error"]["message"]  # 0.33 names the node by its title
    assert status == 400 and ("ALEEdt" in message or "'ALE Edit' not found" in message)


def test_a_stopped_run_says_so_and_a_removed_one_has_no_history(server):
    def queued() -> tuple[list[str], list[str]]:
        lists = get(server, "/queue")
        running, waiting = ([e[1] for e in lists[f"queue_{n}"]] for n in ("running", "pending"))
        return running, waiting

    bodies = []
    for seed in (16, 17):
        workflow = quick(seed)
        workflow.fill("ALE Edit", steps=50)
        bodies.append({"prompt": workflow.nodes, "client_id": "me"})
    first, second = (post(server, body)[1]["prompt_id"] for body in bodies)
    wait_for(lambda: queued() == ([first], [second]))
    post(server, {"delete": [second]}, "/queue")
    assert queued() == ([first], [])
    post(server, {"prompt_id": first}, "/interrupt")
    entry = wait_for(lambda: get(server, f"/history/{first}"))[first]
    assert entry["status"]["status_str"] == "error"
    assert "execution_interrupted" in [name for name, _ in entry["status"]["messages"]]
    assert "execution_error" not in [name for name, _ in entry["status"]["messages"]]
    assert get(server, f"/history/{second}") == {} and queued() == ([], [])


def test_an_uploaded_picture_takes_the_place_of_the_scene(server):
    """As the page says, and as its check says if the picture is not there."""
    image, edits = demo_input(1)
    workflow = quick(seed=13)
    workflow.nodes["2"] = {"class_type": "LoadImage", "inputs": {"image": "my-tool/scene.png"}}
    lines = [f"{edit.source} -> {edit.target}" for edit in edits]
    workflow.nodes["3"]["inputs"]["text"] = "\n".join(lines)

    async def job() -> tuple[str, bytes]:
        async with ComfyClient(server.url) as client:
            with pytest.raises(WorkflowRejected) as caught:
                await client.check_workflow(workflow)
            await client.check_workflow(workflow, ["my-tool/scene.png"])
            await client.upload_image(as_png(image), "scene.png", "my-tool")
            await client.check_workflow(workflow)
            saved = await client.run(workflow)
            (edited,) = [image for image in saved if image.title == "Edited image"]
            return str(caught.value), await client.fetch(edited)

    error, edited = asyncio.run(job())
    assert "'LoadImage' (LoadImage), input 'image': 'my-tool/scene.png' is not a file" in error
    assert Image.open(io.BytesIO(edited)).size == image.size


def test_a_run_returns_the_same_images_whatever_comfyui_has_cached(server):
    """ComfyUI reports the preview on a node in the middle only if it computes that node."""
    workflow = quick(seed=14)
    workflow.fill("Edit List", text="pink-colored box -> green-colored box")

    async def job() -> list[tuple[list[SavedImage], set[str]]]:
        found = []
        async with ComfyClient(server.url) as client:
            for _ in range(2):
                run = await client.queue(workflow)
                images, entry = await client.finish(run), await client._entry(run)
                assert entry is not None
                found.append((images, set(entry["outputs"])))
        return found

    (first, reported), (second, later) = asyncio.run(job())
    assert reported - later == {workflow.find(PREVIEWED)}
    assert [image.title for image in first] == ["Source", "Edited image", "Where the objects are"]
    assert second == first
