"""The demo edit: a scene of the demo world by workflows/api/ale_edit.json, for one server."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

from PIL import Image

from ...headless import ComfyClient, SavedImage, Workflow
from ...headless.edits import apply_setting, fill_workflow
from ...headless.pictures import upload
from ..demo_scenes import demo_input

SAMPLER, RESULT = "Sample", "Save edited"  # titles of the workflow


async def upload_demo(client: ComfyClient, scene: int = 0) -> Workflow:
    """Upload a scene with its masks; the workflow that edits it."""
    source, edits = demo_input(scene)
    masks = [await upload(client, edit.mask) for edit in edits]
    triples = [(e.source, e.target, mask) for e, mask in zip(edits, masks, strict=True)]
    return fill_workflow(await upload(client, source), triples)


def copy_with_seed(workflow: Workflow, seed: int) -> Workflow:
    """The same edit with other noise, which a server does not have in its cache."""
    made = workflow.copy()
    apply_setting(made, "seed", seed)
    return made


async def pixels_of(client: ComfyClient, saved: Sequence[SavedImage]) -> str:
    """A hash of the edited picture's pixels; empty where there is none."""
    for image in saved:
        if image.title == RESULT:
            return hash_pixels(await client.fetch(image))
    return ""


def hash_pixels(data: bytes) -> str:
    with Image.open(io.BytesIO(data)) as picture:
        content = f"{picture.mode}{picture.size}".encode() + picture.tobytes()
    return hashlib.sha256(content).hexdigest()
