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
from .kills import (
    compare,
    find_damaged,
    find_leftovers,
    program,
    report_failure,
    run_killed,
    time_run,
    was_killed,
)

METHODS = ("naive", "ale")
MOST_MADE, LONGEST_S = 2, 2  # images, and then seconds, before the moment of a run comes
TAG = "ale_edit"  # of a run at the server: what it makes, and where


def command(out: Path, edits: int, scenes: int, server: Server) -> list[str]:
    start = [program("dev.py"), "_run", "ale_edit.bench.demo_bench", "--methods", *METHODS]
    start += ["--edits", str(edits), "--scenes", str(scenes)]
    return [*start, "--out", str(out), "--server", server.url]


def runs_by_tag(server: Server) -> Counter[str]:
    """How often the server ran what each tag stands for."""
    with urllib.request.urlopen(f"{server.url}/history", timeout=60) as reply:
        history = json.load(reply)
    tags = (entry["prompt"][3].get(TAG) for entry in history.values())
    return Counter(tag for tag in tags if tag)


def count_images(out: Path) -> int:
    return len(list(out.glob("demo/images/*/*.png")))


def tables_in(out: Path) -> list[str]:
    """The lines of all tables of a run's report."""
    lines = (out / "demo.md").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("|")]


def measure_bench_kills(
    server: Server, kills: int, seed: int, folder: Path, edits: int, scenes: int
) -> dict[str, Any]:
    """Kill the bench `kills` times, and then let it end.

    A bench that ends before all kills are done is begun once more, in another folder.
    """
    before = runs_by_tag(server)
    whole, images = folder / "whole", len(METHODS) * edits
    code, said, seconds = time_run(command(whole, edits, scenes, server), folder)
    if code:
        return report_failure(code, said)
    rng, faults, made, outs, rounded = random.Random(seed), [], [], [], 0
    while len(made) < kills:
        out = folder / f"killed{len(outs)}"
        outs.append(out)
        code = -1
        while len(made) < kills and code:
            wanted = min(count_images(out) + rng.randint(0, MOST_MADE), images - 1)
            code, said = run_killed(
                command(out, edits, scenes, server),
                folder,
                rng.uniform(0.0, LONGEST_S),
                lambda out=out, wanted=wanted: count_images(out) >= wanted,
            )
            faults += [f"{name} is half-written" for name in find_damaged(out)]
            if was_killed(code):
                made.append(count_images(out))
            elif code:
                faults.append(f"a run ended with {code}: {said[-300:]}")
        code, said = run_killed(command(out, edits, scenes, server), folder)
        if code:
            faults.append(f"the last run ended with {code}: {said[-300:]}")
            continue
        by_rounding, others = compare(out, whole)
        rounded += by_rounding
        faults += others
        if tables_in(out) != tables_in(whole):
            faults.append("the tables are other ones than without a kill")
        faults += [f"{name} was left behind" for name in find_leftovers(out)]
    time.sleep(1)  # a run of ours that is still queued would be one too many
    ran = runs_by_tag(server) - before
    wanted, twice = images * (1 + len(outs)), sum(count > 1 for count in ran.values())
    if len(ran) != wanted or twice:
        faults.append(f"the server made {len(ran)} of {wanted} pictures, {twice} more than once")
    return {
        "kills": len(made),
        "each": images,
        "benches": len(outs),
        "seconds of a whole run": round(seconds, 1),
        "made before each kill": made,
        "differ by rounding": rounded,
        "made twice": twice,
        "faults": faults,
    }
