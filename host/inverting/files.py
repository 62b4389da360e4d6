"""Inversions as files: safetensors, with what they belong to as metadata."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import folder_paths
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ...inversion.stored import Inversion, Schedule, find_fault
from ..messages import NodeName

SAVE_NODE = NodeName("Save Inversion")
LOAD_NODE = NodeName("Load Inversion")
FOLDER = "inversions"
"""In ComfyUI's output folder."""
SUFFIX = ".safetensors"
FORMAT = "ale_edit.inversion"
VERSION = 1
LONGEST = 200  # bytes of a name, before its number
NOTHING = "no inversion was saved yet"
TENSORS = ("latents", "null_texts", "noise_maps", "word_vectors", "word_texts")


def save_inversion(inversion: Inversion, prefix: str) -> str:
    """Write an inversion beside those that are there: its name in the list of `list_inversions`.

    prefix: as in Save Image, which may hold folders. The file is whole or not there.
    """
    path = _new_path(prefix)
    tensors = {
        key: value.contiguous().cpu()
        for key in TENSORS
        if (value := getattr(inversion, key)) is not None
    }
    facts: dict[str, object] = {
        "version": VERSION,
        "method": inversion.method,
        "schedule": asdict(inversion.schedule),
        "sigmas": inversion.sigmas,
        "prompt": inversion.prompt,
        "model": inversion.model,
        "convention": inversion.convention,
        "guidance": inversion.guidance,
    }
    if inversion.word_rows:  # which earlier versions do not know
        facts["word_rows"] = inversion.word_rows
    partial = path.with_suffix(".part")
    try:
        save_file(tensors, partial, {FORMAT: json.dumps(facts)})
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path.relative_to(_root()).as_posix()


def _new_path(prefix: str) -> Path:
    """Where the next inversion of a prefix goes. Raises ValueError for an invalid file name."""
    parts = Path(os.path.normpath(f"{FOLDER}/{prefix}")).parts
    is_name = parts[0] == FOLDER and len(parts) > 1 and "\0" not in prefix
    if not is_name or any(len(os.fsencode(part)) > LONGEST for part in parts):
        raise ValueError(
            f'{SAVE_NODE}: the filename_prefix input is "{prefix}", which is not a valid file name '
            f"in {FOLDER} of ComfyUI's output folder. Type a short name of letters, numbers and _."
        )
    output = folder_paths.get_output_directory()
    place, name, number, *_ = folder_paths.get_save_image_path(f"{FOLDER}/{prefix}", output)
    return Path(place) / f"{name}_{_next_number(Path(place), name, number):05}_{SUFFIX}"


def list_inversions() -> list[str]:
    """The names of saved inversions, newest first; one entry that says so when there is none."""
    files = [path for path in _root().rglob(f"*{SUFFIX}") if path.is_file()]
    files.sort(key=lambda path: (-path.stat().st_mtime, path.name))
    return [path.relative_to(_root()).as_posix() for path in files] or [NOTHING]


def load_inversion(name: str) -> Inversion:
    """The inversion of a name in the list.

    Raises ValueError when there is none, or the file holds something else.
    """
    path = path_of(name)
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads((file.metadata() or {})[FORMAT])
            kept = set(file.keys())
            tensors = {key: file.get_tensor(key) for key in TENSORS if key in kept}
        if facts.pop("version") != VERSION:
            raise ValueError("version")
        facts["schedule"] = Schedule(**facts["schedule"])
        facts["sigmas"] = tuple(facts["sigmas"])
        facts["word_rows"] = tuple(facts.get("word_rows", ()))
        inversion = Inversion(**facts, **tensors)
        if fault := find_fault(inversion):
            raise ValueError(fault)
        return inversion
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{LOAD_NODE}: {path.name} holds no inversion of this version of the pack "
            f"({error}). Choose a file that Save Inversion wrote, or "
            "invert the image again."
        ) from error


def path_of(name: str) -> Path:
    """The file of a name in the list; ValueError when it is not there or lies elsewhere."""
    root = _root().resolve()
    path = root
    with suppress(OSError, ValueError):  # no name of a file, such as one that is too long
        path = (root / name).resolve()
    if name == NOTHING or not path.is_relative_to(root) or not _is_file(path):
        raise ValueError(
            f'{LOAD_NODE}: there is no inversion "{name}" in {FOLDER} of ComfyUI\'s output folder. '
            "Run a workflow with Save Inversion, press R, and choose it."
        )
    return path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # its name is too long
        return False


def _root() -> Path:
    return Path(folder_paths.get_output_directory()) / FOLDER


def _next_number(folder: Path, name: str, number: int) -> int:
    """The first free number; ComfyUI's own count knows files of images alone in some versions."""
    while (folder / f"{name}_{number:05}_{SUFFIX}").exists():
        number += 1
    return number
