"""`dev.py bench speed`: what editing costs beside plain sampling, as tables and as JSON."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import torch
from comfy.model_patcher import ModelPatcher

from ...demo.models import load_demo_model
from .counts import ROWS_SIZE, count_operations, count_rows
from .editors import MEMORY_SIZE, count_editor_rows, measure_editor_memory
from .memory import MEMORY_TARGET, measure_memory
from .models import COUNTS, STEPS, UNETS, UNetShape, shapes
from .times import (
    RATIOS,
    RE_EDIT_ROUNDS,
    RE_EDITED,
    measure_families,
    measure_ratios,
    measure_re_edit,
    measure_row_policies,
)
from .whole import demo_edit_seconds, import_seconds, machine, versions

TARGETS = {"k3_over_plain": 1.05, "k10_over_plain": 1.08}
RE_EDIT_TARGET = 0.6
ROW_TARGETS = {
    "ale": 60, "infedit": 90, "masactrl": 60, "p2p": 75, "fpe": 75, "pnp": 60, "sdedit": 18,
    "diffedit": 36, "ledits": 60, "cpam": 75,
}  # fmt: skip
IMPORT_TARGET_S = 0.1
MOST_ROUNDS = 25

Report: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class MeasurementPlan:
    """How much is measured: tiny latents only, and at most so many rounds.

    ends_at: seconds of time.monotonic from which on larger shapes are left out; by default never.
    """

    is_quick: bool
    rounds: int
    ends_at: float = math.inf

    @property
    def shapes(self) -> list[UNetShape]:
        return shapes(self.is_quick)

    @property
    def smallest(self) -> dict[str, UNetShape]:
        """The smallest shape of each UNet."""
        found: dict[str, UNetShape] = {}
        for shape in self.shapes:
            found.setdefault(shape.unet, shape)
        return found

    @property
    def quick_ones(self) -> list[UNetShape]:
        """The smallest shape of each UNet, and the next one of the first."""
        first = self.shapes[0].unet
        return [*self.smallest.values(), *[s for s in self.shapes if s.unet == first][1:2]]

    def measure_all(self, measure: Callable[[UNetShape], Report]) -> Report:
        """What `measure` finds of each of `quick_ones`, and the shapes that were left out."""
        found, left_out = [], []
        for shape in self.quick_ones:
            if found and time.monotonic() > self.ends_at:
                left_out.append(str(shape))
            else:
                found.append(measure(shape))
        return {"shapes": found, "left_out": left_out}


@lru_cache(maxsize=4)
def make_model(unet: str, dtype: torch.dtype) -> ModelPatcher:
    return UNETS[unet](dtype)


def model_for(shape: UNetShape) -> ModelPatcher:
    return make_model(shape.unet, shape.dtype)


# -- the parts -------------------------------------------------------------------------------------


def run_ratios(run: MeasurementPlan) -> Report:
    found = [measure_ratios(model_for(shape), shape, run.rounds) for shape in run.shapes]
    worst = {name: max(ratios[name] for ratios in found) for name in RATIOS}
    return {"ratios": {**worst, "shapes": found}}


def ratio_lines(report: Report) -> list[str]:
    ratios = report["ratios"]
    return [
        "| ALE evaluation over plain, same rows | plain | K=1 | K=3 | K=10 |",
        "|---|---|---|---|---|",
        *ratio_rows(ratios["shapes"]),
        "| worst | | " + " | ".join(f"{ratios[name]:.3f}" for name in RATIOS) + " |",
        "| target | | " + " | ".join(str(TARGETS.get(name, "")) for name in RATIOS) + " |",
    ]


def ratio_rows(found: Sequence[Report]) -> list[str]:
    """A table's rows of measure_ratios."""
    return [
        f"| {ratios['shape']} | {1000 * ratios['plain_seconds']:.0f} ms | "
        + " | ".join(f"{ratios[name]:.3f}" for name in RATIOS)
        + " |"
        for ratios in found
    ]


def run_re_edits(run: MeasurementPlan) -> Report:
    rounds = min(run.rounds, RE_EDIT_ROUNDS)
    return {
        "re_edits": run.measure_all(lambda shape: measure_re_edit(model_for(shape), shape, rounds))
    }


def re_edit_lines(report: Report) -> list[str]:
    heads = (f"{name}: first | again, of that" for name in RE_EDITED)
    return [
        f"| the same image again (target {RE_EDIT_TARGET}) | " + " | ".join(heads) + " |",
        "|---|" + "---|---|" * len(RE_EDITED),
        *(
            f"| {found['shape']} | "
            + " | ".join(
                f"{found[f'{name}_first_seconds']:.2f} s | {found[f'{name}_again_over_first']:.3f}"
                for name in RE_EDITED
            )
            + " |"
            for found in report["re_edits"]["shapes"]
        ),
        *omission_lines("re-edit", report["re_edits"]),
    ]


def omission_lines(part: str, found: Report) -> list[str]:
    shapes = "; ".join(found["left_out"])
    return ["", f"Left out, as time was up: {shapes} (--only {part})."] if shapes else []


def run_memory(run: MeasurementPlan) -> Report:
    return {"memory": run.measure_all(lambda shape: measure_memory(model_for(shape), shape))}


def memory_lines(report: Report) -> list[str]:
    memory, names = report["memory"], [f"k{k}_over_plain" for k in COUNTS]
    title = f"peak memory while sampling, over plain (aim {MEMORY_TARGET})"
    return [
        f"| {title} | plain | K=1 | K=3 | K=10 |",
        "|---|---|---|---|---|",
        *(
            f"| {found['shape']} | {found['plain_bytes'] / 1e6:.1f} MB | "
            + " | ".join(f"{found[name]:.3f}" for name in names)
            + " |"
            for found in memory["shapes"]
        ),
        *omission_lines("memory", memory),
    ]


def run_rows(run: MeasurementPlan) -> Report:
    return {"rows": count_rows(model_for(run.shapes[0]), ROWS_SIZE)}


def row_lines(report: Report) -> list[str]:
    rows = report["rows"]
    return [
        f"| UNet rows of an edit of {STEPS} steps | published | here |",
        "|---|---|---|",
        *(
            f"| {name} | {rows['published']} | {rows[name]} |"
            for name in ("no injection", "object", "color")
        ),
    ]


def run_editors(run: MeasurementPlan) -> Report:
    demo, small = load_demo_model(), run.shapes[0].size
    size = small if run.is_quick else MEMORY_SIZE
    return {
        "editors": {
            "rows": count_editor_rows(demo, small),
            "size": size,
            "memory": measure_editor_memory(demo, size),
        }
    }


def editor_lines(report: Report) -> list[str]:
    found = report["editors"]
    return [
        f"| UNet rows of an edit of {STEPS} steps, all branches guided | published | here |",
        "|---|---|---|",
        *(
            f"| {name} | {ROW_TARGETS.get(name, '')} | {count} |"
            for name, count in found["rows"].items()
        ),
        "",
        f"| peak memory over plain, demo, {found['size']}x{found['size']} | plain | the editor's "
        "| aim |",
        "|---|---|---|---|",
        *(
            f"| {name} | {memory['plain_bytes'] / 1e6:.1f} MB | {memory['over_plain']:.3f} | "
            f"{memory['target'] or ''} |"
            for name, memory in found["memory"].items()
        ),
    ]


def run_operations(_run: MeasurementPlan) -> Report:
    return {"operations": count_operations()}


def operation_lines(report: Report) -> list[str]:
    operations = report["operations"]
    layers = {"plain": operations["plain"]}
    for k in COUNTS:
        layers |= {f"K={k}, {form}": found for form, found in operations[f"k{k}"].items()}
    return [
        f"| one target row, {operations['layer']} | million operations | kernels |",
        "|---|---|---|",
        *(
            f"| {name} | {found['operations'] / 1e6:.1f} | {found['kernels']} |"
            for name, found in layers.items()
        ),
    ]


def run_whole(run: MeasurementPlan) -> Report:
    return {
        "import_seconds": import_seconds(1 if run.is_quick else 3),
        "demo_edit_seconds": None if run.is_quick else demo_edit_seconds(),
    }


def whole_lines(report: Report) -> list[str]:
    edit_s = report["demo_edit_seconds"]
    return [
        f"Import of the pack: {report['import_seconds']:.3f} s (target {IMPORT_TARGET_S}). "
        f"Edit of the demo scene: {'not run' if edit_s is None else f'{edit_s} s'}."
    ]


def run_families(run: MeasurementPlan) -> Report:
    return {"families": measure_families(run.is_quick, run.rounds)}


def family_lines(report: Report) -> list[str]:
    head = "| ALE evaluation over plain, by family | plain | K=1 | K=3 | K=10 |"
    return [head, "|---|---|---|---|---|", *ratio_rows(report["families"])]


def run_policies(run: MeasurementPlan) -> Report:
    """Also at half the smallest size."""
    halves = [replace(shape, size=shape.size // 2) for shape in run.smallest.values()]
    chosen = [*halves, *run.shapes]
    return {
        "policies": [measure_row_policies(model_for(shape), shape, run.rounds) for shape in chosen]
    }


def policy_lines(report: Report) -> list[str]:
    return [
        "| a step without injection | four rows in one call | three in two, of that |",
        "|---|---|---|",
        *(
            f"| {found['shape']} | {1000 * found['four_rows_seconds']:.0f} ms | "
            f"{found['three_over_four_rows']:.3f} |"
            for found in report["policies"]
        ),
    ]


@dataclass(frozen=True)
class ReportPart:
    """A part of the report: what is measured, and its lines of Markdown."""

    measure: Callable[[MeasurementPlan], Report]
    lines: Callable[[Report], list[str]]


PARTS = {
    "ratios": ReportPart(run_ratios, ratio_lines),
    "operations": ReportPart(run_operations, operation_lines),
    "rows": ReportPart(run_rows, row_lines),
    "whole": ReportPart(run_whole, whole_lines),
    "memory": ReportPart(run_memory, memory_lines),
    "re-edit": ReportPart(run_re_edits, re_edit_lines),
    "editors": ReportPart(run_editors, editor_lines),
    "families": ReportPart(run_families, family_lines),
    "policies": ReportPart(run_policies, policy_lines),
}
DEFAULT = ("ratios", "operations", "rows", "whole", "memory", "re-edit")
"""What a run without --only measures; the others are for a question of their own."""
ENOUGH_S = 330
"""After so long a run without --only measures no further shape of its last parts. It is to end
within eight minutes on two cores."""


# -- the report ------------------------------------------------------------------------------------


def measure(names: Sequence[str], run: MeasurementPlan) -> Report:
    report: Report = {}
    for name in names:
        report |= PARTS[name].measure(run)
    return {**report, "machine": machine(), "versions": versions()}


def write_tables(names: Sequence[str], report: Report) -> str:
    """The report in Markdown, as docs/performance.md holds it."""
    parts = ["\n".join(PARTS[name].lines(report)) for name in names]
    return "\n\n".join([*parts, f"{report['machine']} {report['versions']}"])


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="dev.py bench speed", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the report as JSON")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=PARTS,
        metavar="PART",
        help=f"of {', '.join(PARTS)}; default: all but editors, families and policies",
    )
    parser.add_argument("--quick", action="store_true", help="tiny latents: counts, no true times")
    parser.add_argument(
        "--rounds",
        type=int,
        metavar="N",
        help=f"at most N evaluations of each (default {MOST_ROUNDS})",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="of a CPU; with 1, processor time is measured"
    )
    options = parser.parse_args(argv)
    names = list(dict.fromkeys(options.only or DEFAULT))
    ends_at = math.inf if options.only else time.monotonic() + ENOUGH_S
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    rounds = options.rounds or (1 if options.quick else MOST_ROUNDS)
    with torch.inference_mode():
        report = measure(names, MeasurementPlan(options.quick, rounds, ends_at))
    print(write_tables(names, report))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0
