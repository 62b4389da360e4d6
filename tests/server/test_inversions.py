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


def run_on(server: Any, name: str) -> dict[str, np.ndarray]:
    """The pictures of a workflow on a server, by title."""

    async def job() -> dict[str, np.ndarray]:
        async with ComfyClient(server.url) as client:
            images = await client.run(load_workflow(name))
            return {image.title: numbers(await client.fetch(image)) for image in images}

    return asyncio.run(job())


@pytest.mark.slow
def test_a_stored_inversion_survives_a_restart(tmp_path: Path):
    with new_server(tmp_path) as first:
        run_on(first, "save_inversion")
        at_once = run_on(first, "invert_image")
    with new_server(tmp_path) as second:
        later = run_on(second, "load_inversion")
    assert np.array_equal(later["Edited image"], at_once["Edited image"])
    assert not np.array_equal(later["Edited image"], later["Source"])
