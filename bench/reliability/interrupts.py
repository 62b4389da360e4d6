"""An edit interrupted at each of its steps, and the edit after it."""

from __future__ import annotations

import time
from typing import Any

from ...devtools.server import Server
from ...headless import ComfyClient, Interrupted, Workflow
from .demo_edit import SAMPLER, copy_with_seed, pixels_of, upload_demo

PROMPT_S = 5
"""Longer than this, and a person presses the button again."""


async def interrupt_at(client: ComfyClient, workflow: Workflow, step: int) -> float | None:
    """Interrupt a run once `step` steps are done; the seconds until it ended, None where it was
    done before."""
    run, asked_at = await client.queue(workflow), None
    try:
        async for progress in client.follow(run):
            if asked_at is None and progress.title == SAMPLER and progress.value >= step:
                asked_at = time.monotonic()
                await client.cancel(run)
    except Interrupted:
        assert asked_at is not None
        return time.monotonic() - asked_at
    return None


async def measure_interrupts(server: Server, count: int | None = None) -> dict[str, Any]:
    """Interrupt the demo edit at its first `count` steps, at all of them by default.

    Each step has its own noise: a server keeps the outputs of the run before, and an edit that it
    has made already would not be computed again.
    """
    async with ComfyClient(server.url) as client:
        workflow = await upload_demo(client)
        steps = next(
            n["inputs"]["steps"] for n in workflow.nodes.values() if "steps" in n["inputs"]
        )
        chosen = range(steps if count is None else min(count, steps))
        right, start = {}, time.monotonic()
        for step in chosen:
            right[step] = await pixels_of(client, await client.run(copy_with_seed(workflow, step)))
        edit_s = (time.monotonic() - start) / len(chosen)
        seconds, wrong, missed = {}, [], []
        for step in chosen:
            edit = copy_with_seed(workflow, step)
            taken = await interrupt_at(client, edit, step)
            if taken is None:
                missed.append(step)
            else:
                seconds[step] = round(taken, 2)
            if await pixels_of(client, await client.run(edit)) != right[step]:
                wrong.append(step)
    late = [step for step, taken in seconds.items() if taken > PROMPT_S]
    return {
        "steps": steps,
        "interrupted": len(seconds),
        "seconds an edit": round(edit_s, 2),
        "seconds until it ended": seconds,
        "different pictures": len(set(right.values())),
        "faults": [
            *(f"step {step}: the run was not interrupted" for step in missed),
            *(f"step {step}: {seconds[step]} s until the run ended" for step in late),
            *(f"step {step}: the next edit is another picture" for step in wrong),
        ],
    }
