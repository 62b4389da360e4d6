"""One environment of dev.py: its places, and what is not as the set-up left it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .carrier import digest
from .host import venv_python

LISTED = 3  # names in a message
PEOPLES = ("custom_nodes", "input", "models", "output", "temp", "user")  # in ComfyUI's folder


@dataclass(frozen=True)
class Environment:
    """The places in an environment's folder."""

    folder: Path

    @property
    def comfyui(self) -> Path:
        return self.folder / "comfyui"

    @property
    def venv(self) -> Path:
        return self.folder / "venv"

    @property
    def python(self) -> Path:
        return venv_python(self.venv)

    @property
    def wheel(self) -> Path:
        return self.folder / "wheel"

    @property
    def log(self) -> Path:
        return self.folder / "setup.log"

    @property
    def stamp(self) -> Path:
        """There as soon as the set-up is complete."""
        return self.folder / "stamp.json"

    @property
    def lock_file(self) -> Path:
        """There, and locked, as long as the set-up or a process that it started is at work."""
        return self.folder / "unfinished"

    @property
    def changes_folder(self) -> Path:
        """Where a repair keeps what it replaced."""
        return self.folder / "changed"

    def packages(self) -> set[str]:
        """The installed packages, as NAME-VERSION."""
        places = [*self.venv.glob("lib*/python*/site-packages"), self.venv / "Lib/site-packages"]
        found = [path for place in places for path in place.glob("*.dist-info")]
        return {path.name.removesuffix(".dist-info") for path in found}


@dataclass(frozen=True)
class Damage:
    """What is not as the set-up left it. beyond_repair: what a repair cannot mend in place."""

    lost: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    beyond_repair: str = ""

    def __str__(self) -> str:
        parts = [self.beyond_repair] if self.beyond_repair else []
        for names, text in (
            (self.changed, "changed in comfyui/"),
            (self.lost, "missing from comfyui/"),
            (self.packages, "no longer installed"),
        ):
            if names:
                more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
                parts.append(f"{text}: {', '.join(names[:LISTED])}{more}")
        return "; ".join(parts)

    def __bool__(self) -> bool:
        return bool(str(self))


def inspect(environment: Environment, key: str) -> Damage:
    """Compares what the set-up left with what is there; files that others added do not count."""
    try:
        return compare(environment, key)
    except (ValueError, KeyError, TypeError):
        return Damage(beyond_repair="stamp.json cannot be read")
    except OSError as error:
        return Damage(beyond_repair=f"{error.filename or 'a file'} cannot be opened")


def compare(environment: Environment, key: str) -> Damage:
    stamp = json.loads(environment.stamp.read_text(encoding="utf-8"))
    if stamp["key"] != key:
        return Damage(beyond_repair="stamp.json is that of other pins")
    files, packages = dict(stamp["files"]), set(stamp["packages"])
    if subprocess.run([str(environment.python), "-c", ""], capture_output=True).returncode:
        return Damage(beyond_repair="its Python does not run")
    there = environment.packages()
    names = {name.rpartition("-")[0] for name in there}
    gone = sorted(packages - there)
    if replaced := [name for name in gone if name.rpartition("-")[0] in names]:
        return Damage(beyond_repair=f"other versions are installed of {', '.join(replaced)}")
    paths = {
        name: environment.comfyui / name for name in files if name.split("/")[0] not in PEOPLES
    }
    lost = [name for name, path in paths.items() if not path.is_file()]
    changed = [name for name in paths if name not in lost and digest(paths[name]) != files[name]]
    return Damage(tuple(lost), tuple(changed), tuple(gone))
