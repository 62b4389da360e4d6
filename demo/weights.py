"""Reads and writes the demo model's weight files: fp16 safetensors with a table of hashes."""

import hashlib
import json
from pathlib import Path

from torch import Tensor

FOLDER = Path(__file__).parent / "weights"
TABLE = "weights.json"
PARTS = (
    "autoencoder",
    "text",
    "unet",
    "judge",
    "finder",
    "lcm",
    "clip",
)

_CURE = "Install the pack again; from a clone, `dev.py train-demo` trains another model"


def read_weights(part: str, folder: Path = FOLDER) -> dict[str, Tensor]:
    """The tensors (fp32) of one part; ValueError with file and cure if it is not the one listed."""
    from safetensors.torch import load_file

    path = folder / f"{part}.safetensors"
    if not path.is_file():
        raise ValueError(f"The demo model's weight file {path} is missing. {_CURE}")
    listed = _read_table(folder).get(path.name)
    if listed is None:
        raise ValueError(f"The demo model's weight file {path} is not listed in {TABLE}. {_CURE}")
    size = path.stat().st_size
    if size != listed["bytes"]:
        raise ValueError(
            f"The demo model's weight file {path} has {size} bytes, not {listed['bytes']}. {_CURE}"
        )
    if _sha256(path) != listed["sha256"]:
        raise ValueError(
            f"The demo model's weight file {path} is not the listed one (SHA-256). {_CURE}"
        )
    tensors = load_file(path)
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def write_weights(part: str, tensors: dict[str, Tensor], folder: Path = FOLDER) -> Path:
    """Write one part as fp16 and list its size and hash; readers see the old file or the new."""
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{part}.safetensors"
    halves = {
        k: (v.half() if v.is_floating_point() else v).detach().cpu().contiguous().clone()
        for k, v in tensors.items()
    }
    _write_whole(path, save(halves))  # save_file would make a file that its owner alone can read
    table = _read_table(folder) if (folder / TABLE).is_file() else {}
    table[path.name] = {"sha256": _sha256(path), "bytes": path.stat().st_size}
    text = json.dumps(table, indent=2, sort_keys=True) + "\n"
    _write_whole(folder / TABLE, text.encode())
    return path


def weight_table(folder: Path = FOLDER) -> str:
    """The listed files with sizes and hashes, as Markdown for the model card."""
    lines = ["| file | bytes | SHA-256 |", "|---|---|---|"]
    for name, entry in sorted(_read_table(folder).items()):
        lines.append(f"| {name} | {entry['bytes']} | `{entry['sha256']}` |")
    return "\n".join(lines)


def _write_whole(path: Path, data: bytes) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(data)
    part.replace(path)


def _read_table(folder: Path) -> dict[str, dict]:
    try:
        return json.loads((folder / TABLE).read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(
            f"The list of demo weight files {folder / TABLE} cannot be read ({error}). {_CURE}"
        ) from error


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
