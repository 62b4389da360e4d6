"""Programs of this pack killed at random moments, and run again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

from ...devtools.folders import ROOT
from ...headless.pictures import is_intact

LEFT_BEHIND = ("*.part", ".lock")
ROUNDING = 1
"""Of 255. A server that has the source of an edit from the edit before computes in smaller batches,
which rounds otherwise."""
RUN_S = 1800  # no run of this bench takes so long


def run_killed(
    command: Sequence[str],
    cwd: Path,
    after_s: float | None = None,
    begins: Callable[[], bool] = lambda: True,
) -> tuple[int, str]:
    """Run one of the pack's programs in a folder; kill it with SIGKILL some seconds after `begins`.

    The exit code, below 0 where it was killed, and what it wrote.
    """
    log = cwd / "log.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=cwd, stdout=file, stderr=file, stdin=subprocess.DEVNULL
        )
        while after_s is not None and process.poll() is None and not begins():
            time.sleep(0.05)
        try:
            process.wait(RUN_S if after_s is None else after_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
            process.wait()
    return process.returncode, log.read_text(encoding="utf-8", errors="replace")


def was_killed(code: int) -> bool:
    return code == -signal.SIGKILL if os.name != "nt" else code == 1


def program(name: str) -> str:
    return str(ROOT / name)


def pictures_in(folder: Path) -> dict[str, Path]:
    """Every picture below a folder, by its place in there."""
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.png")}


def compare(found: Path, right: Path) -> tuple[int, list[str]]:
    """How many pictures differ from the right ones by rounding, and what else differs."""
    ours, theirs = pictures_in(found), pictures_in(right)
    rounded, faults = 0, [f"{name} is there once only" for name in sorted({*ours} ^ {*theirs})]
    for name in sorted({*ours} & {*theirs}):
        worst = difference(ours[name], theirs[name])
        rounded += 0 < worst <= ROUNDING
        faults += [f"{name} is another picture, by {worst} of 255"] if worst > ROUNDING else []
    return rounded, faults


def difference(one: Path, other: Path) -> int:
    """The largest difference of a pixel's channel; 255 where the pictures are of other shapes."""
    with Image.open(one) as first, Image.open(other) as second:
        if (first.size, first.mode) != (second.size, second.mode):
            return 255
        counts = ImageChops.difference(first, second).histogram()
    return max(level % 256 for level, count in enumerate(counts) if count)


def find_damaged(folder: Path) -> list[str]:
    """Pictures that are not whole."""
    files = sorted(folder.rglob("*.png"))
    return [path.name for path in files if not is_intact(path.read_bytes())]


def find_leftovers(folder: Path) -> list[str]:
    """What a run that ended well must not leave behind."""
    return sorted(path.name for pattern in LEFT_BEHIND for path in folder.rglob(pattern))


def report_failure(code: int, said: str) -> dict[str, Any]:
    """The report where the run without a kill failed."""
    return {"kills": 0, "each": 0, "made before each kill": [], "differ by rounding": 0} | {
        "faults": [f"the run without a kill ended with {code}: {said[-300:]}"]
    }


def time_run(command: Sequence[str], cwd: Path) -> tuple[int, str, float]:
    start = time.monotonic()
    code, said = run_killed(command, cwd)
    return code, said, time.monotonic() - start
