"""The pack inside a real, unmodified ComfyUI: it loads, its workflows run, its errors are clear."""

import asyncio
import io
import json
import urllib.request

import aiohttp
import numpy as np
import pytest
from PIL import Image

from ale_edit.bench.demo_scenes import demo_input
from ale_edit.bench.main_job import fill_workflow, upload
from ale_edit.devtools.locales import LANGUAGES, flatten, read
from ale_edit.headless import Interrupted, NodeFailed, Workflow, WorkflowRejected
from ale_edit.tests.workflows.graphs import (
    GALLERY,
    MINI_CLIP,
    NAMES,
    NEED_CHECKPOINT,
    NEED_FILES,
    NEED_MINI_CLIP,
    OF_NODES,
    QUICK,
    api_path,
    our_nodes,
    read_ui,
)

FEW_STEPS = 3


def pixels(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))


@pytest.fixture
def workflow(with_client) -> Workflow:
    """The main workflow on demo scene 0, in few steps."""
    source, edits = demo_input(0)

    async def job(client) -> Workflow:
        masks = [await upload(client, edit.mask) for edit in edits]
        triples = [(e.source, e.target, mask) for e, mask in zip(edits, masks, strict=True)]
        return fill_workflow(await upload(client, source), triples)

    filled = with_client(job)
    filled.fill("Schedule", steps=FEW_STEPS)
    return filled


def test_the_pack_loads_without_an_error(server, with_client):
    loaded = with_client(lambda client: client._json("GET", "/object_info"))
    of_pack = {
        name for name, node in loaded.items() if node["python_module"] == "custom_nodes.ale-edit"
    }
    assert of_pack == set(our_nodes())
    # what comes after belongs to the jobs of other tests
    log = server.log.read_text(encoding="utf-8").split("To see the GUI go to")[0]
    assert "Import times for custom nodes" in log
    assert "IMPORT FAILED" not in log and "Traceback" not in log and "ALE-Edit could not" not in log


def test_comfyui_serves_our_translations(with_client):
    served = with_client(lambda client: client._json("GET", "/i18n"))
    assert {name: flatten(texts) for name, texts in served.items()} == {
        name: read(name) for name in ("en", *LANGUAGES)
    }


def test_every_node_has_its_help_page(server):
    for name in our_nodes():
        with urllib.request.urlopen(f"{server.url}/extensions/ale-edit/docs/{name}.md") as page:
            assert page.status == 200 and page.read().startswith(b"#")


def test_the_workflows_for_tasks_are_offered_as_templates(with_client):
    offered = with_client(lambda client: client._json("GET", "/workflow_templates"))
    assert sorted(offered["ale-edit"]) == GALLERY


@pytest.mark.parametrize("name", OF_NODES)
def test_the_workflow_of_a_node_is_where_its_help_page_links_to(server, name):
    address = f"{server.url}/api/workflow_templates/ale-edit/nodes/{name}.json"
    with urllib.request.urlopen(address) as answer:
        assert json.load(answer) == read_ui(name)


def overlapping_regions() -> dict:
    """Regions of two masks of 64x64, of which 8 of 32 columns are shared."""
    size = {"width": 64, "height": 64}
    half = {"value": 1.0, "width": 32, "height": 64}
    placed = {"destination": ["1", 0], "source": ["2", 0], "y": 0, "operation": "add"}
    edit = {"target": "red-colored box"}
    nodes = [
        ("SolidMask", {"value": 0.0, **size}),
        ("SolidMask", half),
        ("MaskComposite", {**placed, "x": 0}),
        ("MaskComposite", {**placed, "x": 24}),
        ("ALEEditObject", {**edit, "source": "box", "mask": ["3", 0]}),
        ("ALEEditObject", {**edit, "source": "star", "mask": ["4", 0], "previous": ["5", 0]}),
        ("ALERegions", {"edits": ["6", 0], "dilation": 0.0, "feather": 0.0}),
        ("PreviewImage", {"images": ["7", 3]}),
    ]
    return {
        str(number): {"class_type": kind, "inputs": inputs}
        for number, (kind, inputs) in enumerate(nodes, start=1)
    }


def test_a_notice_reaches_a_client_with_the_ids_of_its_node_and_prompt(server):
    async def whole():
        async with (
            aiohttp.ClientSession(server.url) as session,
            session.ws_connect("/ws?clientId=listener") as socket,
        ):
            job = {"prompt": overlapping_regions(), "client_id": "listener"}
            async with session.post("/prompt", json=job) as response:
                prompt_id = (await response.json())["prompt_id"]
            texts, notices = [], []
            async for message in socket:
                if message.type is aiohttp.WSMsgType.BINARY:
                    texts.append(message.data)
                    continue
                event = message.json()
                if event["type"] == "ale_edit.notice":
                    notices.append(event["data"])
                if event["type"] in ("execution_success", "execution_error"):
                    break
        return prompt_id, texts, notices

    prompt_id, texts, notices = asyncio.run(asyncio.wait_for(whole(), 60))
    (notice,) = notices
    words = 'Regions: some grown masks overlap: those of "box" and "star" (25 % of "box"'
    assert notice["text"].startswith(words)
    assert (notice["node"], notice["prompt_id"]) == ("7", prompt_id)
    assert [text for text in texts if words.encode() in text]  # what the page shows on the node


def test_a_workflow_of_stock_nodes_runs(run):
    workflow = Workflow(
        {
            "1": {
                "class_type": "EmptyImage",
                "inputs": {"width": 24, "height": 16, "batch_size": 1, "color": 0xFF0000},
            },
            "2": {
                "class_type": "SaveImage",
                "inputs": {"images": ["1", 0], "filename_prefix": "x"},
            },
        }
    )
    image = pixels(run(workflow)["SaveImage"])
    assert image.shape == (16, 24, 3)
    assert (image == (255, 0, 0)).all()


def with_demo_input(workflow: Workflow, with_client) -> Workflow:
    """The workflow with uploaded demo files wherever it loads one."""
    source, edits = demo_input(0)
    pictures = {"LoadImage": [source], "LoadImageMask": [edit.mask for edit in edits]}

    async def job(client) -> None:
        for class_type, files in pictures.items():
            loaders = [n for n in workflow.nodes.values() if n["class_type"] == class_type]
            for number, node in enumerate(loaders):
                picture = files[number % len(files)]
                node["inputs"]["image"] = await upload(client, picture)

    with_client(job)
    return workflow


def load_workflow(name: str) -> Workflow:
    return Workflow.load(api_path(name))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in GALLERY else pytest.mark.ci)
        for name in NAMES
        if name not in NEED_CHECKPOINT + NEED_FILES
    ],
)
def test_every_workflow_of_the_demo_model_runs(name, with_client, run):
    if name in NEED_MINI_CLIP and not MINI_CLIP:
        pytest.skip("demo/weights has no clip.safetensors")
    workflow = load_workflow(name)
    for title, inputs in QUICK.get(name, {}).items():
        workflow.fill(title, **inputs)
    images = run(with_demo_input(workflow, with_client))
    assert images
    for title, file in images.items():
        assert pixels(file).std() > 5, f"{title} is one flat colour"


BAD_INPUT = [
    ({"Edit 1": {"source": "", "target": " "}}, "Edit 1"),
    ({"Edit 1": {"source": "", "target": "ring"}}, "Embeddings"),
    ({"Edit 1": {"target": "  "}}, "Embeddings"),
    ({"Source image": {"image": "no such file.png"}}, "Source image"),
    ({"Schedule": {"steps": 0}}, "Schedule"),
    # Not every ComfyUI checks the choices of V3 nodes itself (tests/versions.py).
    ({"Method": {"variant": "neither"}}, "Method"),
    ({"Method": {"end_of_text": "neither"}}, "Method"),
    ({"Method": {"overlap": "neither"}}, "Method"),
    ({"Blending": {"edge": "neither"}}, "Blending"),
    ({"Self-attention": {"edit_type": "neither"}}, "Self-attention"),
    ({"Mask 2": {"channel": "blue of a file"}}, "Mask 2"),
]


@pytest.mark.parametrize(("inputs", "title"), BAD_INPUT)
def test_bad_input_is_an_error_that_names_the_node(workflow, run, inputs, title):
    for node, values in inputs.items():
        workflow.fill(node, **values)
    with pytest.raises((NodeFailed, WorkflowRejected)) as caught:
        run(workflow)
    assert title in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_an_empty_mask_names_its_object_before_any_sampling(workflow, with_client, run):
    empty = Image.new("L", (128, 128))
    name = with_client(lambda client: upload(client, empty))
    workflow.fill("Mask 1", image=name)
    with pytest.raises(NodeFailed) as caught:
        run(workflow)
    assert workflow.inputs("Edit 1")["source"] in str(caught.value)
    assert caught.value.error.title != "Sample"


def test_the_server_is_well_after_an_error(workflow, run):
    broken = workflow.copy()
    broken.remove("Mask 1")
    with pytest.raises((NodeFailed, WorkflowRejected)):
        run(broken)
    assert pixels(run(workflow)["Save edited"]).std() > 5


def test_an_edit_a_second_edit_and_the_first_again_give_the_first_image_twice(workflow, run):
    other = workflow.copy()
    other.fill("Noise", noise_seed=7)
    other.fill("Edit 1", target="pink-colored heart")
    first, second, again = (pixels(run(w)["Save edited"]) for w in (workflow, other, workflow))
    assert (first == again).all()
    assert (first != second).any()


def test_an_interrupted_run_says_so_and_leaves_the_server_well(workflow, with_client, run):
    long = workflow.copy()
    long.fill("Schedule", steps=50)

    async def job(client) -> None:
        queued = await client.queue(long)
        with pytest.raises(Interrupted):
            async for progress in client.follow(queued):
                if progress.title == "Sample" and progress.value >= 1:
                    await client.cancel(queued)

    with_client(job)
    assert pixels(run(workflow)["Save edited"]).std() > 5


def test_a_cancelled_task_frees_the_server(workflow, with_client, run):
    long = workflow.copy()
    long.fill("Schedule", steps=50)

    async def job(client) -> None:
        sampling = asyncio.Event()
        task = asyncio.create_task(
            client.run(long, lambda p: sampling.set() if p.title == "Sample" else None)
        )
        await asyncio.wait_for(sampling.wait(), 300)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with_client(job)
    assert pixels(run(workflow)["Save edited"]).std() > 5


def test_no_python_file_of_comfyui_was_added_or_changed(server):
    newer = [
        path
        for path in server.host.comfyui.rglob("*.py")
        if path.stat().st_mtime > server.log.stat().st_ctime
    ]
    assert not newer
