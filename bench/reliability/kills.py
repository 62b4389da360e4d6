"""Programs of this pack killed at random moments, and run again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from ...devtools.folders import ROOT
from ...headless.pictures import is_intact
from .demo_edit import hash_pixels

LEFT_BEHIND = ("*.part", ".lock")
RUN_S = 1800  # no run of this bench takes so long


def run_killed(command: Sequence[str], cwd: Path, after_s: float | None = None) -> tuple[int, str]:
    """Run one of the pack's programs in a folder; kill it with SIGKILL after some seconds.

    The exit code, below 0 where it was killed, and what it wrote.
    """
    log = cwd / "log.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=cwd, stdout=file, stderr=file, stdin=subprocess.DEVNULL
        )
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


def pictures_in(folder: Path) -> dict[str, str]:
    """A hash of the pixels of each picture below a folder, by its place in there."""
    files = sorted(folder.rglob("*.png"))
    return {path.relative_to(folder).as_posix(): hash_pixels(path.read_bytes()) for path in files}


def damaged_in(folder: Path) -> list[str]:
    """Pictures that are not whole."""
    files = sorted(folder.rglob("*.png"))
    return [path.name for path in files if not is_intact(path.read_bytes())]


def left_in(folder: Path) -> list[str]:
    """What a run that ended well must not leave behind."""
    return sorted(path.name for pattern in LEFT_BEHIND for path in folder.rglob(pattern))


def moments(count: int, longest_s: float, seed: int) -> list[float]:
    """Seconds after which to kill."""
    rng = random.Random(seed)
    return [rng.uniform(0.0, longest_s) for _ in range(count)]


def timed(command: Sequence[str], cwd: Path) -> tuple[int, str, float]:
    start = time.monotonic()
    code, said = run_killed(command, cwd)
    return code, said, time.monotonic() - start
