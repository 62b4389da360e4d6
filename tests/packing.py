"""Packs the pack as it is published: what .comfyignore leaves of a clone."""

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def git(folder: Path, *arguments: str, text: str = "") -> list[str]:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], input=text, capture_output=True, text=True
    )
    assert done.returncode in (0, 1), done.stderr  # 1: check-ignore found nothing
    return [name for name in done.stdout.split("\0") if name]


def packed_names(files: list[str], rules: Path, empty: Path) -> list[str]:
    """What these rules leave of the files; git reads them, in a repository without others."""
    git(empty, "init", "--quiet")
    check = ["-c", f"core.excludesFile={rules}", "check-ignore", "--no-index", "--stdin", "-z"]
    ignored = set(git(empty, *check, text="\0".join(files)))
    return [name for name in files if name not in ignored]


def pack(folder: Path) -> Path:
    """The published archive, unpacked again below this folder."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("needs git and a clone")
    (folder / "empty").mkdir()
    listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    files = [name for name in listed if (ROOT / name).is_file()]
    with zipfile.ZipFile(folder / "node.zip", "w") as archive:
        for name in packed_names(files, ROOT / ".comfyignore", folder / "empty"):
            archive.write(ROOT / name, name)
    with zipfile.ZipFile(folder / "node.zip") as archive:
        archive.extractall(folder / "ale-edit")
    return folder / "ale-edit"
