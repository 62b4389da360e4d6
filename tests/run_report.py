"""What a run of the tests says of itself: on which ComfyUI it ran, and what it did not run."""

from __future__ import annotations

import importlib.metadata
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ale_edit.devtools.host import comfyui_version, format_version

CURES = {  # by marker of a skipped test
    "browser": "Debian: apt-get install chromium; ALE_EDIT_CHROMIUM can name another program",
    "comfy": "run `python3 dev.py test`",
    "gpu": "run them on a machine with a CUDA device",
    "server": "run `python3 dev.py test`",
    "weights": "let ALE_EDIT_WEIGHTS name a folder of checkpoints",
}
COSTS = {  # of what the usual run leaves out
    "ci": "a quarter of an hour; `dev.py test --ci` runs all of it, as CI does",
    "fullsize": "10 GB of memory",
    "gpu": "a CUDA device",
    "reference": "5 GB of disk",
    "weights": "real checkpoints",
}


def host_line(comfyui: str | None) -> str:
    """The host of this run, with the versions that a failure may depend on."""
    if not comfyui:
        return "no ComfyUI (COMFYUI_PATH is not set)"
    packages = {"front end": "comfyui_frontend_package", "PyTorch": "torch"}
    versions = [f"{name} {_version(package)}" for name, package in packages.items()]
    version = format_version(comfyui_version(Path(comfyui)))
    return f"ComfyUI {version}, {', '.join(versions)} ({comfyui})"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def not_run_line(skipped: Iterable[Any], expression: str, ignored: Iterable[str] = ()) -> str:
    """What was skipped, left out by the marker expression, or ignored, and how to include it.

    skipped: pytest's reports of skipped tests.
    """
    counts = Counter(_marker(report.keywords) for report in skipped)
    others = counts.pop("", 0)
    parts = [f"skipped {n} {name} ({CURES[name]})" for name, n in sorted(counts.items())]
    if others:
        parts.append(f"skipped {others} more (-rs says why)")
    if left_out := re.findall(r"\bnot (\w+)", expression):
        names = [f"{name} ({COSTS[name]})" if name in COSTS else name for name in left_out]
        parts.append(f"left out {', '.join(names)}: `python3 dev.py test -m NAME` includes one")
    if ignored := list(ignored):
        parts.append(f"left out tests/{{{','.join(ignored)}}}: `python3 dev.py test` has a ComfyUI")
    return f"Not run: {'; '.join(parts)}." if parts else "Nothing was skipped or left out."


def _marker(keywords: Mapping[str, object]) -> str:
    return next((name for name in CURES if name in keywords), "")
