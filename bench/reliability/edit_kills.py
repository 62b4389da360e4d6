"""edit.py killed at random moments: what it leaves behind, and the run after it."""

from __future__ import annotations

import csv
import json
import random
import shutil
from pathlib import Path
from typing import Any

from ...devtools.server import Server
from ..demo_scenes import demo_input
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

MANIFEST = "manifest.jsonl"


def write_table(folder: Path, rows: int) -> None:
    """Demo scenes with their edits and masks, as edits.csv."""
    folder.mkdir()
    with (folder / "edits.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(("image", "edits", "masks", "type", "steps"))
        for seed in range(rows):
            image, edits = demo_input(seed)
            image.save(folder / f"scene{seed}.png")
            masks = [f"scene{seed}_{number}.png" for number in range(len(edits))]
            for name, edit in zip(masks, edits, strict=True):
                edit.mask.save(folder / name)
            words = "; ".join(f"{edit.source} -> {edit.target}" for edit in edits)
            table.writerow((f"scene{seed}.png", words, "; ".join(masks), "color", 6))


def read_made_names(out: Path) -> list[str]:
    """The rows that the manifest says are made, one entry for each line; ValueError where a line
    is torn."""
    lines = (out / MANIFEST).read_text(encoding="utf-8").splitlines()
    return sorted(line["name"] for line in map(json.loads, lines) if line["status"] != "failed")


def measure_edit_kills(
    server: Server, kills: int, seed: int, folder: Path, rows: int = 3
) -> dict[str, Any]:
    """Kill edit.py `kills` times, each time in a new folder, and run it again there."""
    write_table(folder / "in", rows)

    def command(out: Path) -> list[str]:
        return [program("edit.py"), "in/edits.csv", "--out", out.name, "--server", server.url]

    faults, made, rounded, rng = [], [], 0, random.Random(seed)
    whole = folder / "whole"
    code, said, seconds = time_run(command(whole), folder)
    if code:
        return report_failure(code, said)
    names = read_made_names(whole)
    while len(made) < kills:
        number = len(made)
        out = folder / f"killed{number}"
        code, said = run_killed(command(out), folder, rng.uniform(0.0, seconds))
        if not was_killed(code):  # it had ended before
            shutil.rmtree(out)
            continue
        made.append(len(list(out.glob("*.png"))))
        faults += [f"kill {number}: {name} is half-written" for name in find_damaged(out)]
        code, said = run_killed(command(out), folder)
        if code:
            faults.append(f"kill {number}: the next run ended with {code}: {said[-300:]}")
            continue
        by_rounding, others = compare(out, whole)
        rounded += by_rounding
        faults += [f"kill {number}: {text}" for text in others]
        if read_made_names(out) != names:
            faults.append(f"kill {number}: the manifest names {read_made_names(out)}")
        faults += [f"kill {number}: {name} was left behind" for name in find_leftovers(out)]
    return {
        "kills": len(made),
        "each": rows,
        "seconds of a whole run": round(seconds, 1),
        "made before each kill": made,
        "differ by rounding": rounded,
        "faults": faults,
    }
