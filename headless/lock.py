"""Keeps two processes from writing to one folder at the same time."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FILE = ".lock"


class FolderInUse(ValueError):
    """Another process is writing to the folder."""


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Be the only one who writes to a folder, which is made; one that stays empty is removed.

    The system releases the lock when this process ends, however it ends. Raises FolderInUse, or
    ValueError where the folder is a file.
    """
    check_folder(folder)
    path = folder / FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except (FileExistsError, FileNotFoundError) as error:  # another one just removed the folder
        raise _refusal(folder) from error
    with file:
        if not _try_lock(file.fileno()) or not _is_there(path, file.fileno()):
            raise _refusal(folder)
        try:
            yield
        finally:
            with suppress(OSError):  # Windows removes no open file: it stays, and hurts nobody
                path.unlink()
    with suppress(OSError):
        folder.rmdir()


def _refusal(folder: Path) -> FolderInUse:
    return FolderInUse(
        f"Another process is writing to {folder}. Wait until it has ended, or give another --out."
    )


def check_folder(folder: Path) -> None:
    """ValueError where a file has its place."""
    if folder.is_file():
        raise ValueError(f"{folder} is a file. Give a folder to --out.")


def _is_there(path: Path, descriptor: int) -> bool:
    """Whether the locked file is the one at its path, and not one just removed by another."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _try_lock(descriptor: int) -> bool:
    """False where another process has the lock; a folder that knows no locks gives it to all."""
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True
