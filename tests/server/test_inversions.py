"""An inversion that one server saved serves another one."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ale_edit.headless import ComfyClient
from ale_edit.tests.server.conftest import new_server
from ale_edit.tests.server.test_editor_workflows import numbers
from ale_edit.tests.server.test_pack_in_comfyui import load_workflow

SOURCE_PROMPT = "purple-colored cross"


def run_on(server: Any, name: str, **inputs: dict[str, Any]) -> dict[str, np.ndarray]:
    """The pictures of a workflow on a server, by title. inputs: other ones, by title of the node,
    with _ for each space."""

    async def job() -> dict[str, np.ndarray]:
        async with ComfyClient(server.url) as client:
            workflow = load_workflow(name)
            for title, own in inputs.items():
                workflow.fill(title.replace("_", " "), **own)
            images = await client.run(workflow)
            return {image.title: numbers(await client.fetch(image)) for image in images}

    return asyncio.run(job())


METHODS = ("direct", "edit-friendly")


@pytest.mark.slow
def test_stored_inversions_survive_a_restart(tmp_path: Path):
    with new_server(tmp_path) as first:
        at_once = {}
        for method in METHODS:
            made_by = {"Invert_Image": {"method": method}}
            run_on(first, "save_inversion", **made_by)
            at_once[method] = run_on(first, "invert_image", **made_by)
    with new_server(tmp_path) as second:
        for number, method in enumerate(METHODS, 1):
            named = {"Load_Inversion": {"name": f"scene_{number:05}_.safetensors"}}
            later = run_on(second, "load_inversion", **named)
            assert np.array_equal(later["Edited image"], at_once[method]["Edited image"])
            assert not np.array_equal(later["Edited image"], later["Source"])


@pytest.mark.slow
def test_the_source_prompt_at_the_source_guidance_gives_the_picture_back(tmp_path: Path):
    """As the note of the workflow says, but for the loss of the VAE. The target prompt edits it."""
    with new_server(tmp_path) as server:
        edited = run_on(server, "edit_friendly_inversion")
        prompt = {"Target_prompt": {"text": SOURCE_PROMPT}}
        kept = run_on(server, "edit_friendly_inversion", **prompt)
    loss, change = (np.abs(r["Edited image"] - r["Source"]).mean() for r in (kept, edited))
    print(f"change of the picture: {change:.1f} of 255, under the source prompt {loss:.1f}")
    assert loss < 3 and change > 2 * loss
