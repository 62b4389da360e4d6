"""One real ComfyUI for all tests of this folder, started as dev.py starts it, caching nothing."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ale_edit.devtools.host import Host, device_options
from ale_edit.devtools.server import Server
from ale_edit.headless import ComfyClient, SavedImage, Workflow

COMFYUI = Path(os.environ["COMFYUI_PATH"])
RUN_TIMEOUT_S = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folder = Path(__file__).parent
    for item in items:
        if folder in item.path.parents:
            item.add_marker(pytest.mark.server)


def new_server(base: Path, *options: str, caches: bool = False) -> Any:
    host = Host(COMFYUI, Path(sys.executable))
    always = ["--disable-api-nodes", *device_options(host), *([] if caches else ["--cache-none"])]
    return Server(host, base, options=[*always, *options])


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models that the server looks into besides its own; empty at first."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("checkpoints", "loras", "clip_vision", "text_encoders", "lpips"):
        (folder / kind).mkdir()
    return folder


def extra_models(models: Path) -> list[str]:
    """Options that make a server look into this folder of models."""
    kinds = ("checkpoints", "loras", "grounding-dino", "sams", "clip_vision", "text_encoders")
    kinds += ("lpips",)
    places = {"base_path": str(models), **{kind: kind for kind in kinds}}
    config = models / "extra_model_paths.yaml"
    config.write_text(json.dumps({"tests": places}), encoding="utf-8")  # JSON is YAML
    return ["--extra-model-paths-config", str(config)]


@pytest.fixture(scope="session")
def server(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        if "OMP_NUM_THREADS" not in os.environ:
            patch.setenv("OMP_NUM_THREADS", "2")
        base = tmp_path_factory.mktemp("comfyui")
        with new_server(base, *extra_models(models)) as server:
            yield server


Job = Callable[[ComfyClient], Awaitable[Any]]


@pytest.fixture
def with_client(server: Any) -> Callable[[Job], Any]:
    """Run a coroutine function with a client of the server, and return what it returns."""

    def call(job: Job) -> Any:
        async def whole() -> Any:
            async with ComfyClient(server.url) as client:
                return await asyncio.wait_for(job(client), RUN_TIMEOUT_S)

        server.check_alive("between two tests")
        return asyncio.run(whole())

    return call


@pytest.fixture
def run(with_client: Callable[[Job], Any]) -> Callable[[Workflow], dict[str, bytes]]:
    """Run a workflow; gives the image files it saved by the saving node's title."""

    def call(workflow: Workflow) -> dict[str, bytes]:
        async def job(client: ComfyClient) -> dict[str, bytes]:
            saved: list[SavedImage] = await client.run(workflow)
            return {image.title: await client.fetch(image) for image in saved}

        return with_client(job)

    return call
