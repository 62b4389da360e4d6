"""`bench demo` killed at random moments and given again, beside a run without a kill."""

from __future__ import annotations

import json
import random
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from ...devtools.server import Server
from .kills import damaged_in, left_in, pictures_in, program, run_killed, timed, was_killed

METHODS = ("naive", "ale")
TAG = "ale_edit"  # of a run at the server: what it makes, and where


def command(out: Path, edits: int, server: Server) -> list[str]:
    start = [program("dev.py"), "_run", "ale_edit.bench.demo_bench", "--methods", *METHODS]
    return [*start, "--edits", str(edits), "--out", str(out), "--server", server.url]


def runs_by_tag(server: Server) -> Counter[str]:
    """How often the server ran what each tag stands for."""
    with urllib.request.urlopen(f"{server.url}/history", timeout=60) as reply:
        history = json.load(reply)
    tags = (entry["prompt"][3].get(TAG) for entry in history.values())
    return Counter(tag for tag in tags if tag)


def report_in(out: Path) -> dict[str, Any]:
    """The tables of a run: all figures of all methods, and what failed."""
    report = json.loads((out / "demo.json").read_text(encoding="utf-8"))
    return {name: report[name] for name in ("methods", "failed", "missing")}


def measure_bench_kills(
    server: Server, kills: int, seed: int, folder: Path, edits: int = 20
) -> dict[str, Any]:
    """Kill the bench `kills` times, and then let it end.

    A bench that ends before all kills are done is begun once more, in another folder.
    """
    before = runs_by_tag(server)
    whole, images = folder / "whole", len(METHODS) * edits
    code, said, seconds = timed(command(whole, edits, server), folder)
    if code:
        return {"kills": 0, "faults": [f"the run without a kill ended with {code}: {said[-300:]}"]}
    right, tables = pictures_in(whole), report_in(whole)
    rng, faults, made, outs = random.Random(seed), [], [], []
    while len(made) < kills:
        outs.append(folder / f"killed{len(outs)}")
        while len(made) < kills:
            after_s = rng.uniform(0.0, seconds / 4)
            code, said = run_killed(command(outs[-1], edits, server), folder, after_s)
            faults += [f"{name} is half-written" for name in damaged_in(outs[-1])]
            if not was_killed(code):
                break
            made.append(len(list(outs[-1].glob("demo/images/*/*.png"))))
        code, said = run_killed(command(outs[-1], edits, server), folder)
        if code:
            faults.append(f"the last run ended with {code}: {said[-300:]}")
            continue
        if pictures_in(outs[-1]) != right:
            faults.append("pictures are lost or other ones than without a kill")
        if report_in(outs[-1]) != tables:
            faults.append("the tables are other ones than without a kill")
        faults += [f"{name} was left behind" for name in left_in(outs[-1])]
    time.sleep(1)  # a run of ours that is still queued would be one too many
    ran = runs_by_tag(server) - before
    wanted = images * (1 + len(outs))
    if len(ran) != wanted or set(ran.values()) != {1}:
        twice = sum(count > 1 for count in ran.values())
        faults.append(f"the server made {len(ran)} of {wanted} pictures, {twice} more than once")
    return {
        "kills": len(made),
        "benches": len(outs),
        "images": images,
        "seconds of a whole run": round(seconds, 1),
        "made before each kill": made,
        "images made twice": sum(count > 1 for count in ran.values()),
        "faults": faults,
    }
