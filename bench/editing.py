"""The first pass: edits of a data set become images on disk, by way of one or more ComfyUIs.

Each image is out/images/METHOD/EDIT.png, written whole or not at all, and carries a fingerprint of
all that it was made from. A run that was stopped therefore goes on where it was: an image is made
again only if it is missing, damaged, or was made from something else.
"""

import asyncio
import hashlib
import io
import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

from PIL import Image, PngImagePlugin

from ..headless import ComfyClient, ComfyError, Interrupted, NodeFailed, Workflow, WorkflowRejected
from .dataset import Dataset, ImageEdit, write_bytes
from .judging import weights_key
from .main_job import as_png, filled_workflow
from .methods import Method

FINGERPRINT = "ale-edit fingerprint"
RESULT = "Save edited"  # the workflow's node
UNUSED = ("Save reconstruction", "Save regions", "Decode source")
UPLOADS = "ale-edit"  # subfolder of the server's inputs
QUEUED = 2  # workflows at a server at once, so that it never waits for us
STALE = "made with other settings or weights"
HOPELESS = 3  # failures without any success, after which a run gives up


@dataclass(frozen=True)
class Job:
    """One image to make; `prepare` gives its workflow, and pictures by their uploaded names."""

    edit: ImageEdit
    method: Method
    path: Path
    fingerprint: str
    prepare: Callable[[], tuple[Workflow, dict[str, Image.Image]]]

    @property
    def name(self) -> str:
        return f"{self.method.name}/{self.edit.id}"


@dataclass
class Outcome:
    """What came of a run: images made, seconds it took, and failed jobs with the reason."""

    made: int = 0
    seconds: float = 0.0
    failed: dict[str, str] = field(default_factory=dict)


# -- what is to be done ----------------------------------------------------------------------------


class Plan:
    """All jobs of a data set and some methods, in an order in which ComfyUI can reuse most.

    context: what else an image depends on, such as the weights' hash.
    settings: inputs by node title that every method gets.
    """

    def __init__(
        self,
        dataset: Dataset,
        edits: Sequence[ImageEdit],
        methods: Sequence[Method],
        *,
        context: str = "",
        settings: dict[str, dict[str, object]] | None = None,
    ):
        self.dataset = dataset
        self.out = dataset.folder.parent
        self._context = context
        self._settings = settings or {}
        self._pictures = lru_cache(maxsize=4)(self._loaded)
        self.jobs = [
            self._job(edit, method)
            for edit in sorted(edits, key=lambda e: (e.image, e.type, e.id))
            for method in sorted(methods, key=_reuse_order)
        ]

    def _job(self, edit: ImageEdit, method: Method) -> Job:
        workflow, _ = self._prepared(edit, method)
        weights = [weights_key(*method.parts)] if method.parts else []
        made_from = json.dumps([workflow.nodes, self._context, *weights], sort_keys=True)
        fingerprint = hashlib.sha256(made_from.encode()).hexdigest()
        path = image_path(self.out, method.name, edit.id)
        return Job(edit, method, path, fingerprint, partial(self._prepared, edit, method))

    def _loaded(self, image: str) -> tuple[Image.Image, list[Image.Image]]:
        masks = [mask.convert("RGB") for mask in self.dataset.masks(image)]
        return self.dataset.picture(image), masks

    def _prepared(self, edit: ImageEdit, method: Method) -> tuple[Workflow, dict[str, Image.Image]]:
        picture, masks = self._pictures(edit.image)
        own = method.masks([masks[o.object] for o in edit.objects], edit.seed)
        names = [upload_name(mask) for mask in own]
        triples = [(o.source, o.target, n) for o, n in zip(edit.objects, names, strict=True)]
        source = upload_name(picture)
        workflow = filled_workflow(source, triples, seed=edit.seed, edit_type=edit.type)
        for title in UNUSED:
            workflow.remove(title)
        link = workflow.inputs(RESULT)["images"]
        workflow.replace(RESULT, "PreviewImage", {"images": link})  # leaves no file in output/
        for title, inputs in self._settings.items():
            workflow.fill(title, **inputs)
        method.apply(workflow)
        return workflow, {source: picture, **dict(zip(names, own, strict=True))}


def _reuse_order(method: Method) -> tuple[bool, str, str]:
    """Methods with one source branch side by side (host/source_branch.py keeps one)."""
    switches = method.inputs.get("Method", {})
    return switches.get("ore", True), switches.get("variant", ""), method.name


def image_path(out: Path, method: str, edit: str) -> Path:
    return out / "images" / method / f"{edit}.png"


def upload_name(picture: Image.Image) -> str:
    """A name made of its content, so that no two pictures share one."""
    content = f"{picture.mode}{picture.size}".encode() + picture.tobytes()
    return f"{UPLOADS}/{hashlib.sha256(content).hexdigest()[:24]}.png"


def pending(jobs: Sequence[Job], tell: Callable[[str], None]) -> list[Job]:
    """The jobs whose image is not there; images that must be made again are told."""
    left = []
    for job in jobs:
        state = state_of(job)
        if state not in ("missing", "done"):
            tell(f"{job.path} is {state}: it is made again.")
        if state != "done":
            left.append(job)
    return left


def state_of(job: Job) -> str:
    """ "done", "missing", or what is wrong with the image."""
    try:
        _, fingerprint = read_result(job.path)
    except FileNotFoundError:
        return "missing"
    except ValueError:
        return "damaged"
    return "done" if fingerprint == job.fingerprint else STALE


def read_result(path: Path) -> tuple[Image.Image, str]:
    """An image and its fingerprint; ValueError if any part of the file is damaged."""
    data = path.read_bytes()
    try:
        with Image.open(io.BytesIO(data)) as checked:
            checked.verify()  # the checksum of every chunk
        picture = Image.open(io.BytesIO(data))
        picture.load()
    except Exception as error:  # Pillow raises half a dozen kinds for a damaged file
        raise ValueError(f"{path} is damaged ({error}). Run the bench again.") from error
    return picture.convert("RGB"), str(picture.info.get(FINGERPRINT, ""))


def write_result(job: Job, image: bytes) -> None:
    picture = Image.open(io.BytesIO(image)).convert("RGB")
    note = PngImagePlugin.PngInfo()
    note.add_text(FINGERPRINT, job.fingerprint)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=note)
    write_bytes(job.path, buffer.getvalue())


# -- doing it --------------------------------------------------------------------------------------


async def edit_all(
    servers: Sequence[str], jobs: Sequence[Job], on_done: Callable[[Job, Outcome], None]
) -> Outcome:
    """Run all jobs, and write each image as soon as it is there.

    A job that fails at a node is noted and left out; where the first ones all fail, and where a
    server is gone, the error is raised, and what was made stays.
    """
    outcome, queue = Outcome(), deque(jobs)
    start = time.monotonic()

    async def work(client: ComfyClient, sent: "_Uploads") -> None:
        while queue:
            job = queue.popleft()
            workflow, pictures = job.prepare()
            try:
                await sent.ensure(pictures)
                data = await _made(client, job, workflow)
            except (NodeFailed, WorkflowRejected) as error:
                outcome.failed[job.name] = str(error)
                if not outcome.made and len(outcome.failed) >= HOPELESS:
                    raise
                continue
            write_result(job, data)
            outcome.made += 1
            outcome.seconds = time.monotonic() - start
            on_done(job, outcome)

    async with AsyncExitStack() as stack:
        workers = []
        for url in servers:
            clients = [await stack.enter_async_context(ComfyClient(url)) for _ in range(QUEUED)]
            if jobs:
                await clients[0].check(jobs[0].prepare()[0].classes())
            sent = _Uploads(clients[0])
            workers += [work(client, sent) for client in clients]
        await _together(workers)
    return outcome


async def _together(workers: Sequence) -> None:
    """Run all; the first error stops the others and is raised."""
    tasks = [asyncio.ensure_future(worker) for worker in workers]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _made(client: ComfyClient, job: Job, workflow: Workflow) -> bytes:
    try:
        saved = await client.run(workflow)
    except Interrupted as error:
        raise ComfyError(f"{error} Somebody stopped it; run the bench again to go on.") from error
    found = [image for image in saved if image.title == RESULT]
    if not found:
        raise ComfyError(f"The run of {job.name} ended, but no image came from it.")
    return await client.fetch(found[0])


class _Uploads:
    """What one server was sent; every picture goes there once a run."""

    def __init__(self, client: ComfyClient):
        self._client = client
        self._sent: set[str] = set()
        self._lock = asyncio.Lock()

    async def ensure(self, pictures: Mapping[str, Image.Image]) -> None:
        async with self._lock:
            for name, picture in pictures.items():
                if name not in self._sent:
                    folder, file = name.rsplit("/", 1)
                    await self._client.upload_image(as_png(picture), file, folder)
                    self._sent.add(name)


class ProgressLine:
    """Counts images on one line, with the time left; in a file, a line each minute."""

    def __init__(self, total: int, is_terminal: bool, out: Callable[..., None] = print):
        self._total, self._is_terminal, self._out = total, is_terminal, out
        self._last = time.monotonic()

    def __call__(self, job: Job, outcome: Outcome) -> None:
        each = outcome.seconds / outcome.made
        left = round(each * (self._total - outcome.made - len(outcome.failed)))
        text = (
            f"{outcome.made}/{self._total} images, {each:.2f} s each, "
            f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"
        )
        if self._is_terminal:
            end = "\n" if outcome.made == self._total else ""
            self._out(f"\r{text:<78}", end=end, flush=True)
        elif time.monotonic() - self._last > 60 or outcome.made == self._total:
            self._last = time.monotonic()
            self._out(text, flush=True)
