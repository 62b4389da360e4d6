"""Many queued edits: the server's memory, and whether the same edit is the same picture."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from ...devtools.server import Server
from ...headless import ComfyClient, Run, SavedImage
from ...headless.edits import apply_setting
from .demo_edit import copy_with_seed, pixels_of, upload_demo
from .serving import percent_growth, resident_bytes

STEPS = 4  # a run has its memory from the first
INPUTS = 4  # edits of different noise, in turn: none is in the server's cache
WARM_UP, WIDTH = 20, 10  # edits before memory counts; edits whose median is one figure
MOST_GROWTH = 2.0  # per cent
EDIT_S = 300  # after so long without it, an edit is missing


async def wait_for_images(client: ComfyClient, run: Run) -> list[SavedImage]:
    """What a queued run saved; nothing where it failed or takes too long."""
    deadline = time.monotonic() + EDIT_S
    while not (saved := await client.images(run)) and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    return saved


async def measure_queue(server: Server, count: int) -> dict[str, Any]:
    """Queue `count` edits at once, and look at each as it is done."""
    memory, found, missing = [], {k: set() for k in range(INPUTS)}, []
    async with ComfyClient(server.url) as client:
        workflow = await upload_demo(client)
        apply_setting(workflow, "steps", STEPS)
        start = time.monotonic()
        runs = [await client.queue(copy_with_seed(workflow, k % INPUTS)) for k in range(count)]
        for number, run in enumerate(runs):
            saved = await wait_for_images(client, run)
            memory.append(resident_bytes(server))
            if picture := await pixels_of(client, saved):
                found[number % INPUTS].add(picture)
            else:
                missing.append(number)
        seconds = time.monotonic() - start
    growth = percent_growth(memory, WARM_UP, WIDTH) if count > WARM_UP + WIDTH else None
    differing = [k for k, pictures in found.items() if len(pictures) > 1]
    grown = growth is not None and growth > MOST_GROWTH
    return {
        "edits": count,
        "inputs": min(INPUTS, count),
        "seconds an edit": round(seconds / count, 2),
        "different pictures": sum(map(len, found.values())),
        "growth in per cent": None if growth is None else round(growth, 2),
        "megabytes": [round(value / 1e6, 1) for value in memory],
        "faults": [
            *(f"edit {number} made no picture" for number in missing),
            *(f"input {k} made {len(found[k])} different pictures" for k in differing),
            *([f"memory grew by {growth:.1f} %"] if grown else []),
        ],
    }
