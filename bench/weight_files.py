"""Files of tensors on this machine: read, and told apart. Code in a pickle is never run."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor


def read_tensors(path: Path) -> dict[str, Tensor]:
    """A state dict of a .safetensors file, or of one of torch.save; whatever these raise."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def version_of(paths: Iterable[Path]) -> str:
    """Changes with the names and the content of the files."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
    return digest.hexdigest()[:16]
