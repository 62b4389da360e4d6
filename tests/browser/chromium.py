"""Finds a Chromium and the driver for it, or says why there is none.

Imported by tests as `ale_edit.tests.browser.chromium`. As a program it prints the browser's place,
and ends with 1 where there is none.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

VARIABLE = "ALE_EDIT_CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
)
FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def find_chromium() -> str | None:
    """The browser's program: the one that ALE_EDIT_CHROMIUM names, else one of this machine."""
    if chosen := os.environ.get(VARIABLE):
        return shutil.which(chosen)
    found = (shutil.which(name) for name in NAMES)
    return next((path for path in (*found, *PLACES) if path and Path(path).is_file()), None)


def flags() -> list[str]:
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    return [*FLAGS, *(["--no-sandbox"] if is_root else [])]


def why_no_browser() -> str | None:
    """The reason to skip, or None where a browser can be driven."""
    if importlib.util.find_spec("playwright") is None:
        return "needs the Python package playwright (dev.py's own environment has it)"
    if find_chromium() is None:
        if chosen := os.environ.get(VARIABLE):
            return f"{VARIABLE} names {chosen!r}, which is no program here"
        return f"needs a Chromium or Chrome; none was found, {VARIABLE} can name one"
    return None


if __name__ == "__main__":
    found = find_chromium()
    print(f"Chromium: {found}")
    sys.exit(0 if found else 1)
