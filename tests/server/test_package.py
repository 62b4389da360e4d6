"""The published package in a real ComfyUI: all nodes are there, and an edit runs."""

import asyncio
import io
import shutil
from pathlib import Path

import pytest
from PIL import Image

from ale_edit.headless import ComfyClient, Workflow
from ale_edit.tests.packing import ROOT, pack
from ale_edit.tests.server.conftest import new_server


@pytest.mark.slow
def test_the_package_brings_all_nodes_and_edits(tmp_path: Path):
    base = tmp_path / "base"
    (base / "custom_nodes").mkdir(parents=True)
    package = Path(shutil.move(pack(tmp_path), base / "custom_nodes" / "ale-edit"))
    pages = {path.stem for path in (ROOT / "web" / "docs").glob("*.md")}

    async def job(url: str) -> list[bytes]:
        async with ComfyClient(url) as client:
            assert {name for name in await client.nodes() if name.startswith("ALE")} == pages
            assert await client.check_version((await client.pack_version()) or "") is not None
            workflow = Workflow.load(package / "workflows" / "api" / "ale_edit_one_node.json")
            return [await client.fetch(image) for image in await client.run(workflow)]

    with new_server(base) as server:
        assert not (server.base / "custom_nodes" / "ale-edit").is_symlink()
        images = asyncio.run(asyncio.wait_for(job(server.url), 300))
    assert images and all(Image.open(io.BytesIO(image)).size for image in images)
