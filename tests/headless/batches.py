"""Batches of edit.py for the tests.

Imported by tests as `ale_edit.tests.headless.batches`.
"""

import asyncio
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ale_edit.headless import (
    Progress,
)
from ale_edit.headless.batch import edit_jobs
from ale_edit.headless.jobs import Job, JobDefaults, build_jobs
from ale_edit.headless.manifest import FILE, Manifest
from ale_edit.headless.table import name_rows, read_table
from ale_edit.headless.tasks import Outcome
from ale_edit.tests.headless.fake_server import FakeServer, serving
from ale_edit.tests.headless.inputs import write_csv, write_inputs


def jobs_of(folder: Path, count: int, **columns: str) -> list[Job]:
    rows = [{**row, **columns} for row in write_inputs(folder / "in", count)]
    return build_jobs(
        name_rows(read_table(write_csv(folder / "in" / "edits.csv", rows))), JobDefaults()
    )


def failure(message: str) -> dict[str, Any]:
    return {
        "node_id": "9",
        "node_type": "ALERegions",
        "exception_message": message,
        "exception_type": "ValueError",
        "traceback": [],
        "current_inputs": {"edits": ["x"], "dilation": [0.01]},
    }


class Bench:
    """A batch into a folder, with all that it told."""

    def __init__(self, out: Path, patience_s: float = 5):
        self.out, self.patience_s = out, patience_s
        self.told: list[str] = []
        self.done: list[str] = []
        self.steps: list[tuple[str, Progress]] = []
        self.manifest = Manifest(out, self.told.append)

    async def run(self, urls: Sequence[str], jobs: Sequence[Job], *, redo: bool = False) -> Outcome:
        work = partial(
            edit_jobs,
            self.manifest.pending(jobs, redo=redo),
            urls,
            self.manifest,
            tell=self.told.append,
            on_done=lambda job, _outcome: self.done.append(job.name),
            on_progress=lambda name, step: self.steps.append((name, step)),
            patience_s=self.patience_s,
            recheck_s=0.3,
            redo=redo,
        )
        return await asyncio.wait_for(asyncio.to_thread(work), 60)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.out / FILE).read_text().splitlines()]


def run(bench: Bench, jobs: Sequence[Job], *servers: FakeServer) -> Outcome:
    async def whole() -> Outcome:
        async with serving(*servers) as urls:
            return await bench.run(urls, jobs)

    return asyncio.run(whole())
