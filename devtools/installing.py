"""Steps of the set-up: each one a command with its output in a log."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .messages import DevError
from .pins import CONSTRAINTS
from .uv import UvSettings, has_uv, pip_settings, translate

LEFT_OUT = {  # variables that would send packages elsewhere, or other versions here
    *("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_USER", "PIP_CONSTRAINT"),
    *("UV_CONSTRAINT", "UV_OVERRIDE", "UV_EXCLUDE_NEWER", "UV_SYSTEM_PYTHON"),
}
NO_NETWORK = (
    "NewConnectionError",
    "NameResolutionError",
    "name resolution",
    "Max retries exceeded",
    "ProxyError",
    "ConnectTimeout",
    "Read timed out",
    "Network is unreachable",
    "from versions: none",
)


def download(python: Path, log: Path, package: str, folder: Path) -> None:
    """Get one wheel, without what it depends on."""
    options = ["--no-input", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    run_logged([str(python), "-m", "pip", "download", *options, package], log)


def install(python: Path, log: Path, *packages: str) -> None:
    """Install packages (and pip's options) for this Python, each in its pinned version."""
    pinned = ["-c", str(CONSTRAINTS), *packages]
    if has_uv(python) and (settings := translate(pip_settings(python))):
        cache = log.parent.parent / "uv"  # beside the environments: their files are links to it
        uv = [str(python), "-m", "uv", "pip", "install", "--python", str(python)]
        try:
            run_logged([*uv, *settings.options, "--cache-dir", str(cache), *pinned], log, settings)
            return
        except DevError as error:
            with log.open("a", encoding="utf-8") as output:
                output.write(f"uv could not do it, so pip does: {error}\n")
    run_logged([str(python), "-m", "pip", "install", "--no-input", *pinned], log)


def install_uv(python: Path, log: Path) -> None:
    """So that install() is quick; where there is none for this machine or in the index, pip is."""
    with contextlib.suppress(DevError):
        install(python, log, "uv")


def run_logged(command: Sequence[str], log: Path, settings: UvSettings | None = None) -> None:
    """Run one set-up step, its output in the log; explain a failure in one sentence."""
    environ = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
    environ.update(settings.variables if settings else {})
    with log.open("a", encoding="utf-8") as output:
        output.write(f"$ {' '.join(command)}\n")
        output.flush()
        start = output.tell()
        code = subprocess.run(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environ,
            cwd=log.parent if settings else None,  # where no project has settings for uv
            close_fds=False,  # the lock of building.mark_unfinished is the step's, too
        ).returncode
    if code != 0:
        with log.open(encoding="utf-8", errors="replace") as output:
            output.seek(start)
            raise DevError(explain(command, output.read(), log))


def explain(command: Sequence[str], output: str, log: Path) -> str:
    if "No space left" in output or "Errno 28" in output:
        return (
            "The disk became full. Free some space, or set ALE_EDIT_CACHE to a folder on "
            f"another disk. Log: {log}"
        )
    if any(sign in output for sign in NO_NETWORK):
        return (
            "pip could not reach a package index (or it lacks a package). Check the network and "
            f"pip's settings, or give --comfyui an existing ComfyUI. Log: {log}"
        )
    if "ensurepip" in output:
        return (
            f"{sys.executable} has no ensurepip. Install its venv package "
            "(python3-venv on Debian and Ubuntu)."
        )
    last = next((line for line in reversed(output.splitlines()) if line.strip()), "no output")
    return f"`{' '.join(command[1:4])} ...` failed: {last.strip()}. Log: {log}"
