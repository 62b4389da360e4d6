"""Where things are: this clone, and what dev.py keeps on this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def cache_folder() -> Path:
    """Where environments live: ALE_EDIT_CACHE, or the platform's usual cache folder."""
    return _folder("XDG_CACHE_HOME", ".cache", "Library/Caches")


def data_folder() -> Path:
    """Where a person's own files live: models, and the pictures and workflows of `serve`.

    No environment is in them, and no cleaner of caches looks there.
    """
    return _folder("XDG_DATA_HOME", ".local/share", "Library/Application Support")


def _folder(variable: str, usual: str, mac: str) -> Path:
    if chosen := os.environ.get("ALE_EDIT_CACHE"):
        return Path(chosen).expanduser().resolve()
    if os.name == "nt":
        local = os.environ.get("LOCALAPPDATA")
        return Path(local or Path.home() / "AppData" / "Local") / "ale-edit"
    if sys.platform == "darwin":
        return Path.home() / mac / "ale-edit"
    return Path(os.environ.get(variable) or Path.home() / usual) / "ale-edit"


def link_folder(link: Path, target: Path) -> None:
    """A link that needs no special rights: a symbolic link, on Windows a junction.

    A folder in its place stays: it is a person's.
    """
    if link.exists() and link.resolve() == target.resolve():
        return
    if is_link(link):
        (os.rmdir if os.name == "nt" else os.unlink)(link)
    elif link.is_dir():
        return
    if os.name == "nt":
        import _winapi

        _winapi.CreateJunction(str(target), str(link))
    else:
        link.symlink_to(target, target_is_directory=True)


def is_link(path: Path) -> bool:
    """Whether this is a symbolic link or a junction."""
    try:
        os.readlink(path)
    except OSError:
        return False
    return True
