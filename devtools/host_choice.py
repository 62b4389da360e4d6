"""Which host a command runs on: one that is on this machine, or one of dev.py's own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .folders import cache_folder, data_folder
from .host import Host, comfyui_version, format_version, missing_modules, venv_python
from .messages import DevError, say
from .own_host import choose_own_host

COMFYUI_FLOOR = (0, 3, 75)


def find_host(comfyui: str | None) -> Host:
    chosen = comfyui or os.environ.get("COMFYUI_PATH")
    return (
        check_existing_host(Path(chosen))
        if chosen
        else choose_own_host(cache_folder(), data_folder())
    )


def check_existing_host(comfyui: Path) -> Host:
    """A ComfyUI that is already on this machine; its own interpreter, or else the current one."""
    comfyui = comfyui.expanduser().resolve()
    if not (comfyui / "main.py").is_file() or not (comfyui / "comfy").is_dir():
        raise DevError(
            f"{comfyui} is not a ComfyUI folder (no main.py or comfy/ in it). "
            "Give --comfyui the folder that has them."
        )
    version = comfyui_version(comfyui)
    if version < COMFYUI_FLOOR:
        raise DevError(
            f"ComfyUI at {comfyui} is {format_version(version)}; the pack needs "
            f"{format_version(COMFYUI_FLOOR)} or newer. Update it."
        )
    own = [comfyui / ".venv", comfyui / "venv"]
    candidates = [path for folder in own for path in [venv_python(folder)] if path.is_file()]
    candidates += [
        path for path in [comfyui.parent / "python_embeded" / "python.exe"] if path.is_file()
    ]
    python = [*candidates, Path(sys.executable)][0]
    if missing := missing_modules(python, ["torch", "aiohttp"]):
        raise DevError(
            f"{python} cannot run ComfyUI at {comfyui}: it has no {', '.join(missing)}. "
            "Run dev.py with the Python that ComfyUI uses."
        )
    say(f"ComfyUI {format_version(version)} at {comfyui}, run by {python}")
    return Host(comfyui, python)
