"""Chooses among dev.py's own environments: a sound one, a repaired one, or a new one.

A program may be using an environment at any time, and people leave files in it. Therefore only what
the set-up itself wrote and never finished is removed. A damaged environment is repaired in place
where that pulls nothing from under a running program; else a new one is made beside it.
"""

from __future__ import annotations

import json
import secrets
import shutil
import sys
from pathlib import Path

from . import installing
from .building import build, download_carrier, remove_unfinished
from .carrier import comfyui_files
from .environment import Damage, Environment, inspect
from .host import Host, format_version
from .locks import hold_lock
from .messages import DevError, say, time_step
from .pins import PYTHONS, pins_key

WEIGHTS = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")


def choose_own_host(cache: Path, data: Path) -> Host:
    """The environment for these pins in the cache folder, sound or repaired, or else a new one.

    Its models are in the data folder.
    """
    check_python(sys.version_info[:2])
    key = pins_key()
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DevError(
            f"The cache folder {cache} cannot be made ({error}). Set ALE_EDIT_CACHE to another."
        ) from error
    with hold_lock(cache / f"{key}.lock"):
        environment = find_sound(cache, key)
        if environment is None:
            environment = Environment(cache / f"{key}-{secrets.token_hex(3)}")
            build(environment, key)
    models = data / "models"
    prepare_models(models, environment)
    return Host(environment.comfyui, environment.python, models)


def check_python(version: tuple[int, ...]) -> None:
    if not PYTHONS[0] <= version[:2] <= PYTHONS[1]:
        raise DevError(
            f"This is Python {format_version(version[:2])}; set-up needs "
            f"{format_version(PYTHONS[0])} to {format_version(PYTHONS[1])}. "
            "Run dev.py with one of those, or give --comfyui an existing ComfyUI."
        )


def find_sound(cache: Path, key: str) -> Environment | None:
    """An environment without damage, or one that could be repaired."""
    finished, damaged = [], []
    for environment in map(Environment, sorted(cache.glob(f"{key}-*"))):
        if environment.stamp.exists():  # the set-up may have died before it took its mark away
            environment.lock_file.unlink(missing_ok=True)
        if environment.lock_file.exists():
            remove_unfinished(environment)
        else:
            finished.append(environment)
    for environment in finished:
        if damage := inspect(environment, key):
            damaged.append((environment, damage))
        else:
            return environment
    for environment, damage in damaged:
        if repair(environment, damage, key):
            return environment
    return None


def repair(environment: Environment, damage: Damage, key: str) -> bool:
    """Whether the environment is sound now. It deletes nothing, and a file is replaced at once."""
    folder, left = environment.folder, damage
    say(f"The environment in {folder} is damaged ({damage}).")
    if not damage.beyond_repair:
        with time_step("repairing it"):
            try:
                if damage.lost or damage.changed:
                    restore_files(environment, damage)
                if damage.packages:
                    pinned = ["==".join(name.rsplit("-", 1)) for name in damage.packages]
                    installing.install(environment.python, environment.log, "--no-deps", *pinned)
                left = inspect(environment, key)
            except OSError as error:
                left = Damage(beyond_repair=str(error))
        if not left:
            if damage.changed:
                say(f"The changed files are kept in {environment.changes_folder}.")
            return True
    say(
        f"It cannot be repaired while a program may be using it ({left}): a new one is made beside "
        f"it. Delete {folder} when nothing uses it."
    )
    return False


def restore_files(environment: Environment, damage: Damage) -> None:
    """Write ComfyUI's files as they were, each in one move; what was there is kept."""
    files = comfyui_files(download_carrier(environment))
    for name in damage.changed:
        copy = environment.changes_folder / f"{name}.{secrets.token_hex(3)}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(environment.comfyui / name, copy)
    for name in (*damage.lost, *damage.changed):
        path = environment.comfyui / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        part.write_bytes(files[name])
        part.replace(path)


def prepare_models(models: Path, environment: Environment) -> None:
    """A folder for a person's models, once, as ComfyUI's own is before anybody puts one there."""
    if models.exists():
        return
    stamp = json.loads(environment.stamp.read_text(encoding="utf-8"))
    models.mkdir(parents=True)
    for name in stamp["files"]:
        source, target = environment.comfyui / name, models.parent / name
        if name.startswith("models/") and source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)


def models_in_environments(cache: Path) -> list[Path]:
    """Weight files that a person put into an environment, of these pins or of others."""
    files = cache.glob("env-*/comfyui/models/**/*")
    return sorted(path for path in files if path.suffix in WEIGHTS)
