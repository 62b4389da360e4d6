"""Damaged files of models, for the loaders of the pack."""

from __future__ import annotations

import io
import json
import pickle
import random
import struct
import zipfile
from pathlib import Path

LOADERS = {
    "ALECLIPSimilarityLoader": "clip_vision",
    "ALEGroundingDINOLoader": "grounding-dino",
    "ALESAMLoader": "sams",
}
"""The folder of models that each looks into."""
CLIP_CONFIG = {"model_type": "clip", "projection_dim": 32}


class Unknown:
    """What a pickle must not make."""

    def __reduce__(self) -> tuple[object, ...]:
        return print, ("a damaged file was executed",)


def contents(seed: int) -> dict[str, bytes]:
    """Damaged files by name, without their ending."""
    noise = random.Random(seed).randbytes(4096)
    header = json.dumps(
        {"weight": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
    ).encode()
    whole = struct.pack("<Q", len(header)) + header + bytes(16)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("data.pkl", noise)
    return {
        "empty": b"",
        "one_byte": b"\0",
        "noise": noise,
        "text": b"<html>404: not found</html>",
        "pickle": pickle.dumps({"weight": 1}),
        "code": pickle.dumps(Unknown()),
        "archive": archive.getvalue(),
        "other_weights": whole,
        "cut_off": whole[:-7],
        "header_beyond": struct.pack("<Q", 1 << 60) + header,
    }


def write_damaged(models: Path, seed: int) -> dict[str, list[str]]:
    """Write damaged files for every loader below a folder of models; their names by loader."""
    found: dict[str, list[str]] = {}
    for loader, folder in LOADERS.items():
        place = models / folder
        place.mkdir(parents=True, exist_ok=True)
        found[loader] = [
            write_folder(place / name, content)
            if loader == "ALECLIPSimilarityLoader"
            else write_file(place, name, content)
            for name, content in contents(seed).items()
        ]
    return found


def write_folder(folder: Path, content: bytes) -> str:
    """A published folder whose weights are this; the one of text has a damaged config.json too."""
    folder.mkdir()
    config = b"{" if folder.name == "text" else json.dumps(CLIP_CONFIG).encode()
    (folder / "config.json").write_bytes(config)
    (folder / "model.safetensors").write_bytes(content)
    return f"{folder.name}/"


def write_file(folder: Path, name: str, content: bytes) -> str:
    ending = ".safetensors" if name in ("other_weights", "cut_off") else ".pth"
    (folder / f"{name}{ending}").write_bytes(content)
    return name + ending


def write_damaged_inversions(output: Path, seed: int) -> dict[str, list[str]]:
    """Write damaged files for Load Inversion into a server's folder of outputs."""
    place = output / "inversions"
    place.mkdir(parents=True, exist_ok=True)
    names = []
    for name, content in contents(seed).items():
        names.append(f"{name}.safetensors")
        (place / names[-1]).write_bytes(content)
    return {"ALELoadInversion": names}
