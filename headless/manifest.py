"""What was made, a line of JSON each, beside the images: manifest.jsonl (docs/headless.md).

An image is put into place only once its line is written, so that none is there without one. A line
that a killed run left unfinished is skipped.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .jobs import Job, changes
from .lock import check_folder
from .pictures import is_intact, write_whole
from .table import Problems

FILE = "manifest.jsonl"
AGAIN = "its row will run again"


class Manifest:
    """The manifest of a folder of results; `tell` gets a sentence for whatever will run again."""

    def __init__(self, out: Path, tell: Callable[[str], None]):
        self.out = out
        self.path = out / FILE
        self.tell = tell
        self._done = self._read()

    def image(self, job: Job) -> Path:
        return self.out / f"{job.name}.png"

    def regions(self, job: Job) -> Path:
        return self.out / "regions" / f"{job.name}.png"

    def _read(self) -> dict[str, dict[str, Any]]:
        """The newest line of each image that was made."""
        done: dict[str, dict[str, Any]] = {}
        if not self.path.exists():
            return done
        for number, line in enumerate(self.path.read_bytes().split(b"\n"), 1):
            try:
                entry = json.loads(line)
                if entry["status"] == "done":
                    _, _ = bytes.fromhex(entry["sha256"]), entry["fingerprint"]
                    done[entry["name"]] = dict(entry)
            except (ValueError, KeyError, TypeError):
                if line.strip():
                    self.tell(f"{self.path}, line {number} is damaged: skipped.")
        return done

    def check_places(self, jobs: Sequence[Job]) -> None:
        """Raise Problems where an image would take the place of a file that is not ours."""
        check_folder(self.out)
        inputs = {path.resolve(): job for job in jobs for path in (job.row.image, *job.row.masks)}
        problems = []
        for job in jobs:
            path = self.image(job)
            for made in (path, self.regions(job)):
                if (taken := inputs.get(made.resolve())) is not None:
                    problems.append(f"{made} is an input of {taken.row.place}.")
            if path.resolve() not in inputs and path.exists() and job.name not in self._done:
                problems.append(f"{path} is there, and {FILE} does not know it.")
        if problems:
            raise Problems([f"{p} Give another --out, or move that file." for p in problems])

    def pending(self, jobs: Sequence[Job], *, redo: bool = False) -> list[Job]:
        """The jobs whose image is to be made; says why one will run again."""
        left = []
        for job in jobs:
            state = "missing" if redo else self._state(job)
            if state not in ("missing", "done"):
                self.tell(f"{self.image(job)} {state}.")
            if state != "done":
                left.append(job)
        return left

    def _state(self, job: Job) -> str:
        """ "done", "missing", or what is wrong with the image, and what will become of it."""
        entry, path = self._done.get(job.name), self.image(job)
        if entry is None:
            return "missing"
        self._put_into_place(path, entry["sha256"])
        if not path.exists():
            return f"is gone: {AGAIN}"
        data = path.read_bytes()
        is_ours = hashlib.sha256(data).hexdigest() == entry["sha256"]
        if not is_ours and not is_intact(data):
            return f"is damaged: {AGAIN}"
        if entry["fingerprint"] != job.fingerprint:
            return (
                f"was made from something else ({', '.join(changes(job, entry))}): {AGAIN}, and "
                "the image that is there will be kept under another name"
            )
        if not is_ours:
            self.tell(
                f"{path} was changed by somebody: left as it is. Delete it to run its row again."
            )
        return "done"

    def _put_into_place(self, path: Path, digest: str) -> None:
        """Finish what a run did that was killed between the line and the image."""
        part = _part(path)
        if part.exists() and hashlib.sha256(part.read_bytes()).hexdigest() == digest:
            part.replace(path)

    def add_done(
        self, job: Job, image: bytes, about: Mapping[str, Any], regions: bytes | None = None
    ) -> None:
        """Write an image, the preview of its regions, and its line.

        An image that was made from something else, and a picture that is not ours, are set aside.
        """
        path = self.image(job)
        digest = hashlib.sha256(image).hexdigest()
        write_whole(_part(path), image)
        before = self._done.get(job.name, {})
        is_other = before.get("fingerprint", job.fingerprint) != job.fingerprint
        self._set_aside(path, digest if is_other else before.get("sha256"))
        if regions is not None:
            preview = self.regions(job)
            if "regions" not in before:
                self._set_aside(preview, hashlib.sha256(regions).hexdigest())
            write_whole(preview, regions)
            about = {**about, "regions": preview.relative_to(self.out).as_posix()}
        entry = {
            **{"name": job.name, "status": "done", "row": job.row.place},
            **{"output": path.name, "sha256": digest, **about, **job.asked},
            "fingerprint": job.fingerprint,
        }
        self._append(entry)
        _part(path).replace(path)
        self._done[job.name] = entry

    def _set_aside(self, path: Path, digest: str | None) -> None:
        """Rename a picture in the place of one of ours, unless it has this digest."""
        data = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(data).hexdigest() == digest or not is_intact(data):
            return
        kept = _free_name(path)
        path.replace(kept)
        self.tell(f"The image that was {path} is {kept.name} now.")

    def add_failed(self, job: Job, about: Mapping[str, Any]) -> None:
        entry = {"name": job.name, "status": "failed", "row": job.row.place, **about, **job.asked}
        self._append({**entry, "fingerprint": job.fingerprint})

    def _append(self, entry: Mapping[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            start = file.seek(0, os.SEEK_END)
            if start:
                file.seek(-1, os.SEEK_END)
            is_torn = start > 0 and file.read(1) != b"\n"
            line = json.dumps(entry, ensure_ascii=False) + "\n"
            file.write((b"\n" if is_torn else b"") + line.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".made")


def _free_name(path: Path) -> Path:
    number = 1
    while (kept := path.with_name(f"{path.stem}.kept-{number}{path.suffix}")).exists():
        number += 1
    return kept
