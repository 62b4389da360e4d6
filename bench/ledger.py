"""Which files of a folder a command wrote there itself: it replaces no others.

Standard library only: dev.py checks the folder before there is any environment.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

LEDGER = ".made.json"  # name -> SHA-256 of what was written, and of what was there of it before


def check_places(out: Path, names: Iterable[str], inputs: Iterable[Path] = ()) -> None:
    """Raises ValueError where files of these names would replace one that was not written here."""
    made, inputs = _read(out), tuple(inputs)
    for path in (out / name for name in names):
        if not os.path.lexists(path):
            continue
        if any(source.exists() and path.exists() and path.samefile(source) for source in inputs):
            raise ValueError(f"{path} is an input, and would be overwritten. Give another --out.")
        if _digest(path) not in made.get(path.name, ()):
            raise ValueError(
                f"{path} is there, and no earlier run of this command wrote it. Give another --out,"
                " or move that file."
            )


def make_ledger(out: Path, contents: Mapping[str, bytes]) -> bytes:
    """The ledger of a folder before files of these contents are written. It knows the present ones
    too, so that a run that is killed meanwhile leaves no file that nobody wrote."""
    made = _read(out)
    for name, data in contents.items():
        present = {_digest(out / name)} & {*made.get(name, [])}
        made[name] = sorted(present | {hashlib.sha256(data).hexdigest()})
    return (json.dumps(made, indent=1) + "\n").encode("utf-8")


def _read(out: Path) -> dict[str, list[str]]:
    path = out / LEDGER
    if not path.exists():
        return {}
    try:
        made = json.loads(path.read_bytes())
        return {name: [str(digest) for digest in digests] for name, digests in made.items()}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged: it says which files of the folder were written there. Give "
            "another --out, or delete it and those files."
        ) from error


def _digest(path: Path) -> str:
    """Of a file; "" where there is none that can be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
