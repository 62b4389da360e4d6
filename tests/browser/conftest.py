"""One real ComfyUI and one headless Chromium for all tests of this folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ale_edit.bench.demo_scenes import demo_input
from ale_edit.tests.browser.chromium import find_chromium, flags
from ale_edit.tests.browser.front_end import FrontEnd
from ale_edit.tests.server.conftest import extra_models, new_server

VIEW = {"width": 2000, "height": 1200}
SETTINGS = {
    "Comfy.TutorialCompleted": True,  # no dialog at the first start
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "LiteGraph.Canvas.MaximumFps": 10,  # drawing without a GPU takes a whole core
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,  # text however small, for the screenshots
}
CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"
LORA = "lcm-lora-sdv1-5.safetensors"
CLIP = "clip-vit-large-patch14"
FILES = (  # empty ones, for the lists
    f"checkpoints/{CHECKPOINT}",
    f"loras/{LORA}",
    "grounding-dino/groundingdino_swint_ogc.pth",
    "sams/sam_vit_b_01ec64.pth",
    "text_encoders/clip_l.safetensors",
    f"clip_vision/{CLIP}.safetensors",
    f"clip_vision/{CLIP}/model.safetensors",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    folder = Path(__file__).parent
    for item in items:
        if folder in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def screenshots(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """Where pictures go; laid out as the repository, so that `--screenshots .` renews its own."""
    chosen = request.config.getoption("--screenshots")
    folder = Path(chosen).resolve() if chosen else tmp_path_factory.mktemp("screenshots")
    for part in ("output/screenshots", "workflows/nodes", "docs/images"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    yield folder
    print(f"\nScreenshots: {folder}")


@pytest.fixture(scope="session")
def comfyui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A server with previews on, the files that the workflows name, and no model in them."""
    base, models = tmp_path_factory.mktemp("comfyui"), tmp_path_factory.mktemp("models")
    for name in FILES:
        (models / name).parent.mkdir(parents=True, exist_ok=True)
        (models / name).touch()
    config = models / "clip_vision" / CLIP / "config.json"
    config.write_text('{"model_type": "clip"}', encoding="utf-8")
    (base / "output" / "inversions").mkdir(parents=True)
    (base / "output" / "inversions" / "scene_00001_.safetensors").touch()
    (base / "input").mkdir()
    source, edits = demo_input(0)
    for name in ("ale_edit_source", "photo", "example"):
        source.save(base / "input" / f"{name}.png")
    for number, (name, edit) in enumerate(zip(("wolf", "moon"), edits, strict=True), 1):
        edit.mask.save(base / "input" / f"{name}.png")
        edit.mask.save(base / "input" / f"ale_edit_mask_{number}.png")
    settings = base / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps(SETTINGS), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        if "OMP_NUM_THREADS" not in os.environ:
            patch.setenv("OMP_NUM_THREADS", "2")
        options = ["--preview-method", "latent2rgb", *extra_models(models)]
        with new_server(base, *options) as server:
            yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Ends with its module: as long as it lives, no other test can run an event loop."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=flags())
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_of_all(browser: Any, comfyui: Any) -> Iterator[FrontEnd]:
    page = browser.new_page(viewport=VIEW)
    front_end = FrontEnd(page, comfyui.url)
    front_end.start()
    yield front_end
    page.close()


@pytest.fixture
def front_end(page_of_all: FrontEnd, comfyui: Any) -> FrontEnd:
    """The front end without dialogs and panels; errors are counted from here on."""
    comfyui.check_alive("between two tests")
    page_of_all.close_side_panels()  # first: an open one can hide the card of an error
    page_of_all.close_dialogs()
    page_of_all.errors.clear()
    return page_of_all
