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


def run_on(server: Any, name: str, target: str = "", **inverting: Any) -> dict[str, np.ndarray]:
    """The pictures of a workflow on a server, by title. target: another target prompt. inverting:
    inputs of Invert Image."""

    async def job() -> dict[str, np.ndarray]:
        async with ComfyClient(server.url) as client:
            workflow = load_workflow(name)
            if inverting:
                workflow.fill("Invert Image", **inverting)
            if target:
                workflow.fill("Target prompt", text=target)
            images = await client.run(workflow)
            return {image.title: numbers(await client.fetch(image)) for image in images}

    return asyncio.run(job())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["direct", "edit-friendly"])
def test_a_stored_inversion_survives_a_restart(tmp_path: Path, method: str):
    with new_server(tmp_path) as first:
        run_on(first, "save_inversion", method=method)
        at_once = run_on(first, "invert_image", method=method)
    with new_server(tmp_path) as second:
        later = run_on(second, "load_inversion")
    assert np.array_equal(later["Edited image"], at_once["Edited image"])
    assert not np.array_equal(later["Edited image"], later["Source"])


@pytest.mark.slow
def test_the_source_prompt_at_the_source_guidance_gives_the_picture_back(tmp_path: Path):
    """As the note of the workflow says, but for the loss of the VAE. The target prompt edits it."""
    with new_server(tmp_path) as server:
        edited = run_on(server, "edit_friendly_inversion")
        kept = run_on(server, "edit_friendly_inversion", target=SOURCE_PROMPT)
    loss, change = (np.abs(r["Edited image"] - r["Source"]).mean() for r in (kept, edited))
    print(f"change of the picture: {change:.1f} of 255, under the source prompt {loss:.1f}")
    assert loss < 3 and change > 2 * loss
