"""`dev.py bench reliability`: hostile inputs, interrupts, many edits, programs killed midway."""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ...devtools.messages import say
from ...devtools.server import Server
from ..options import reliability_arguments
from .bench_kills import measure_bench_kills
from .edit_kills import measure_edit_kills
from .files import write_damaged
from .hostile import CLEAR, measure_hostile
from .interrupts import PROMPT_S, measure_interrupts
from .queued import MOST_GROWTH, WARM_UP, measure_queue
from .serving import about_this, serve

Report: TypeAlias = dict[str, Any]
SHOWN = 20  # faults of a part that are printed


@dataclass(frozen=True)
class Run:
    """How much is done, and from which seed. interrupts: None for every step of the edit.

    damaged: files of models that are none, by loader.
    """

    server: Server
    folder: Path
    damaged: dict[str, list[str]]
    seed: int
    inputs: int
    edits: int
    kills: int
    interrupts: int | None = None
    bench_edits: int = 8
    bench_scenes: int = 20
    rows: int = 3


@dataclass(frozen=True)
class Part:
    """A part of the report: what is measured, and its lines of Markdown."""

    measure: Callable[[Run], Report]
    lines: Callable[[Report], list[str]]


def run_queue(run: Run) -> Report:
    return asyncio.run(measure_queue(run.server, run.edits))


def queue_lines(found: Report) -> list[str]:
    grown = found["growth in per cent"]
    memory = "not measured, too few edits" if grown is None else f"{grown} % (limit {MOST_GROWTH})"
    inputs, pictures = found["inputs"], found["different pictures"]
    return [
        "| queued edits | inputs | different pictures | memory from edit "
        f"{WARM_UP} on | seconds an edit |",
        "|---|---|---|---|---|",
        f"| {found['edits']} | {inputs} | {pictures} | {memory} | {found['seconds an edit']} |",
    ]


def run_interrupts(run: Run) -> Report:
    return asyncio.run(measure_interrupts(run.server, run.interrupts))


def interrupt_lines(found: Report) -> list[str]:
    taken = sorted(found["seconds until it ended"].values()) or [float("nan")]
    wrong = sum("another picture" in fault for fault in found["faults"])
    right = found["interrupted"] - wrong
    return [
        "| steps of the edit | interrupted | seconds until it ended: median, most "
        f"(limit {PROMPT_S}) | next edit identical |",
        "|---|---|---|---|",
        f"| {found['steps']} | {found['interrupted']} | {taken[len(taken) // 2]}, {taken[-1]} | "
        f"{right} |",
    ]


def run_edit_kills(run: Run) -> Report:
    return measure_edit_kills(run.server, run.kills, run.seed, run.folder, run.rows)


def run_bench_kills(run: Run) -> Report:
    amounts = {"edits": run.bench_edits, "scenes": run.bench_scenes}
    return measure_bench_kills(run.server, run.kills, run.seed, run.folder, **amounts)


def kill_lines(program: str, what: str) -> Callable[[Report], list[str]]:
    def lines(found: Report) -> list[str]:
        made = ", ".join(map(str, found["made before each kill"]))
        rounded = f"{found['differ by rounding']}"
        return [
            f"| {program}: kills | {what} of {found['each']} done before each | lost, made twice, "
            "half-written, or other ones | of those compared, differ by rounding |",
            "|---|---|---|---|",
            f"| {found['kills']} | {made} | {len(found['faults'])} | {rounded} |",
        ]

    return lines


def run_hostile(run: Run) -> Report:
    return measure_hostile(run.server, run.inputs, run.seed, run.damaged)


def hostile_lines(found: Report) -> list[str]:
    heads = (*CLEAR, "faults")
    totals = {name: sum(row[name] for row in found["families"].values()) for name in heads}
    return [
        "| hostile inputs | number | " + " | ".join(heads) + " |",
        "|---|---|" + "---|" * len(heads),
        *(
            f"| {name} | {sum(row.values())} | " + " | ".join(str(row[h]) for h in heads) + " |"
            for name, row in found["families"].items()
        ),
        f"| all, of {found['nodes']} of {found['nodes of the pack']} nodes | {found['inputs']} | "
        + " | ".join(str(totals[h]) for h in heads)
        + " |",
        "",
        f"Drawn from {found['possible']} that can be generated, seed {found['seed']}. The server "
        f"{'lived' if found['server alive'] else 'died'}; afterwards "
        f"{found['good workflows']} good workflows, of all nodes drawn, ran"
        + (", others failed." if found["failed afterwards"] else ".")
        + f" Nodes without inputs: {', '.join(found['nodes without inputs']) or 'none'}.",
    ]


PARTS = {
    "queue": Part(run_queue, queue_lines),
    "interrupts": Part(run_interrupts, interrupt_lines),
    "edit-kills": Part(run_edit_kills, kill_lines("edit.py", "rows")),
    "bench-kills": Part(run_bench_kills, kill_lines("bench", "images")),
    "hostile": Part(run_hostile, hostile_lines),
}
"""In this order, on one server: memory counts from its start."""


def measure(names: Sequence[str], args: argparse.Namespace) -> Report:
    report: Report = {"seed": args.seed}
    with tempfile.TemporaryDirectory(prefix="ale-edit-") as temporary:
        folder = Path(temporary)
        damaged = write_damaged(folder / "models", args.seed)
        say("Starting ComfyUI ...")
        with serve(models=folder / "models") as server:
            for name in names:
                (folder / name).mkdir()
                amounts = QUICK if args.quick else {}
                given = {"inputs": args.inputs, "edits": args.edits, "kills": args.kills, **amounts}
                run = Run(server, folder / name, damaged, args.seed, **given)
                start = time.monotonic()
                report[name] = PARTS[name].measure(run)
                report[name]["seconds"] = round(time.monotonic() - start)
                faults = len(report[name]["faults"])
                say(f"{name}: {report[name]['seconds']} s, {faults or 'no'} faults")
    return {**report, "made on": about_this()}


QUICK: dict[str, Any] = {
    "inputs": 20,
    "edits": 3,
    "kills": 1,
    "interrupts": 2,
    "bench_edits": 1,
    "bench_scenes": 1,
    "rows": 1,
}


def write_tables(names: Sequence[str], report: Report) -> str:
    """The report in Markdown, as docs/reliability.md holds it."""
    parts = []
    for name in names:
        lines, faults = PARTS[name].lines(report[name]), report[name]["faults"]
        more = len(faults) - SHOWN
        lines += ["", *(f"- FAULT: {fault}" for fault in faults[:SHOWN])] if faults else []
        parts.append("\n".join([*lines, *([f"- and {more} more"] if more > 0 else [])]))
    return "\n\n".join([*parts, report["made on"]])


def main(argv: Sequence[str]) -> int:
    """1 where a part found a fault."""
    args = reliability_arguments(argv)
    names = [name for name in PARTS if name in args.only]
    report = measure(names, args)
    text = write_tables(names, report)
    print(text)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        content = json.dumps(report, indent=1, ensure_ascii=True) + "\n"
        args.out.write_text(content, encoding="utf-8")
        args.out.with_suffix(".md").write_text(text + "\n", encoding="utf-8")
    return 1 if any(report[name]["faults"] for name in names) else 0
