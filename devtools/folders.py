"""Where things are: this clone, and what dev.py keeps on this machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def cache_folder() -> Path:
    """Where environments live: ALE_EDIT_CACHE, or the platform's usual cache folder."""
    if chosen := os.environ.get("ALE_EDIT_CACHE"):
        return Path(chosen).expanduser().resolve()
    if os.name == "nt":
        return (
            Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "ale-edit"
        )
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "ale-edit"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ale-edit"


def link_folder(link: Path, target: Path) -> None:
    """A link that needs no special rights: a symbolic link, on Windows a junction."""
    if link.exists() and link.resolve() == target.resolve():
        return
    if link.is_symlink():
        link.unlink()
    if os.name == "nt":
        import _winapi

        _winapi.CreateJunction(str(target), str(link))
    else:
        link.symlink_to(target, target_is_directory=True)
