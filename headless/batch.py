"""The jobs of edit.py as tasks of the spreader, noted in the manifest as soon as they are over."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from PIL import Image

from .client import ComfyClient, Progress
from .edits import REGIONS
from .errors import ComfyError, NodeError, NodeFailed, OtherVersion, WorkflowRejected
from .jobs import Job, digest_of
from .manifest import Manifest
from .pack import pack_version
from .pictures import as_png, check_sent, encode_again, keep_alpha
from .spreading import PATIENCE_S, RECHECK_S, Spreader
from .table import Problems
from .tasks import Outcome, TaskFailed, tag_of
from .work import RunResult, WorkItem
from .workers import local_workers

NO_ALPHA = "The result has a different shape from its source, so it does not get the alpha channel."


@dataclass(frozen=True)
class EditTask:
    """A job (tasks.Task). is_new: what a killed process left at a server is not taken."""

    job: Job
    manifest: Manifest
    is_new: bool
    alpha: list[Image.Image] = field(default_factory=list)  # of its source, while it is made

    @property
    def name(self) -> str:
        return self.job.name

    @property
    def group(self) -> str:
        """Rows of one image that follow each other share its upload and its latent."""
        return self.job.names[0]

    @property
    def tag(self) -> str:
        return "" if self.is_new else tag_of(self.job.fingerprint, self.manifest.out)

    def item(self, run: str) -> WorkItem:
        try:
            pictures, alpha = self.job.pictures(), self.job.alpha()
        except (ValueError, OSError) as error:
            raise TaskFailed(f"Changed since the check: {error}") from error
        digest = digest_of(alpha) if alpha is not None else None
        is_same = tuple(name for name, _ in pictures) == self.job.names
        if not is_same or digest != self.job.asked.get("alpha"):
            raise TaskFailed(
                "Its image or a mask has changed since the check. Run the command again."
            )
        self.alpha[:] = [] if alpha is None else [alpha]
        files = {name: as_png(picture) for name, picture in pictures}
        nodes, result = self.job.workflow.nodes, self.job.result
        return WorkItem(run, self.name, nodes, files, result, tuple(REGIONS), self.tag)

    def keep(self, made: RunResult, server: str, versions: Mapping[str, str]) -> None:
        check_sent(made.image, server)
        data = made.image if made.image.startswith(b"\x89PNG") else encode_again(made.image)
        about = {**_about(server, versions), "seconds": made.seconds}
        notices = [*self.job.notices, *made.notices]
        for alpha in self.alpha:
            whole = keep_alpha(data, alpha)
            if whole is None:
                notices.append(NO_ALPHA)
                self.manifest.tell(f"{self.job.row.place} ({self.name}): {NO_ALPHA}")
            data = whole or data
        about |= {"notices": notices} if notices else {}
        self.manifest.add_done(self.job, data, about, made.preview)

    def note_failure(self, error: ComfyError, server: str, versions: Mapping[str, str]) -> str:
        about = {**_about(server, versions), "error": describe_error(error)}
        self.manifest.add_failed(self.job, about)
        return f"{self.job.row.place} ({self.name}): {error}"


def edit_jobs(
    jobs: Sequence[Job],
    servers: Sequence[str],
    manifest: Manifest,
    *,
    tell: Callable[[str], None],
    on_done: Callable[[Job, Outcome], None] = lambda _job, _outcome: None,
    on_progress: Callable[[str, Progress], None] | None = None,
    patience_s: float = PATIENCE_S,
    recheck_s: float = RECHECK_S,
    redo: bool = False,
    any_version: bool = False,
) -> Outcome:
    """Make all, and write each image as soon as it is there (spreading.Spreader).

    on_done: called for each job that was made or failed. on_progress: gets a job's name and each
    step of its run, in another thread.
    """
    needed = dict.fromkeys({name for job in jobs for name in job.workflow.classes()})
    tasks = [EditTask(job, manifest, redo) for job in jobs]
    with local_workers(servers, on_progress) as workers:
        return Spreader(
            tasks,
            needed,
            None if any_version else pack_version(),
            workers,
            lambda task, outcome: on_done(task.job, outcome),
            tell,
            patience_s=patience_s,
            recheck_s=recheck_s,
        ).run()


def describe_error(error: ComfyError) -> dict[str, Any]:
    """An error as the manifest has it: message, and node, class and input where it has them."""
    entry: dict[str, Any] = {"message": str(error)}
    if isinstance(error, NodeFailed):
        node: NodeError | None = error.error
        entry["exception"] = error.exception_type
    else:
        node = error.errors[0] if isinstance(error, WorkflowRejected) and error.errors else None
    if node is not None:
        entry |= {"node": node.title, "class": node.class_type, "input": node.input_name}
    return entry


def _about(server: str, versions: Mapping[str, str]) -> dict[str, Any]:
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"server": server, "versions": dict(versions), "finished": now}


async def check_servers(
    servers: Sequence[str], jobs: Sequence[Job], *, any_version: bool = False
) -> None:
    """Raise unless every server answers, has the nodes of all jobs and would take their values."""
    found: dict[str, str] = {}
    for url in servers:
        async with ComfyClient(url) as client:
            await client.check({name for job in jobs for name in job.workflow.classes()})
            found[client.url] = await client.pack_version() or "unknown"
            if not any_version:
                await client.check_version(pack_version())
            await _check_values(client, jobs)
    if len(set(found.values())) > 1 and not any_version:
        told = ", ".join(f"{version} at {url}" for url, version in found.items())
        raise OtherVersion(f"The servers have different versions of the pack: {told}. Update them.")


async def _check_values(client: ComfyClient, jobs: Sequence[Job]) -> None:
    places: dict[str, list[str]] = {}  # of the rows with a problem
    for job in jobs:
        try:
            await client.check_workflow(job.workflow, job.names)
        except WorkflowRejected as error:
            for one in error.errors:
                places.setdefault(f"{one}: {one.message}.", []).append(job.row.place)
    if places:
        told = [f"{first}{_others(more)}: {text}" for text, (first, *more) in places.items()]
        raise Problems([f"ComfyUI at {client.url} cannot run this:", *told])


def _others(places: Sequence[str]) -> str:
    count = len(places)
    return f" (and {count} more {'row' if count == 1 else 'rows'})" if places else ""
