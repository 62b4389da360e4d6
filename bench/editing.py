"""The first pass: edits of a data set become images on disk, by way of one or more ComfyUIs.

Each image is out/images/METHOD/EDIT.png, written whole or not at all, and carries a fingerprint of
all that it was made from. A run that was stopped therefore resumes where it was: an image is made
again only if it is missing, damaged, or was made from something else.
"""

import asyncio
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from ..headless import ComfyClient, ComfyError, ServerGone, Workflow
from ..headless.editors import ALE, takes_masks
from ..headless.edits import (
    PROMPTS,
    Model,
    apply_own_settings,
    editor_workflow,
    fill_workflow,
    result_title,
    settings_of,
    use_prompts,
)
from ..headless.pack import pack_version
from ..headless.pictures import as_png, check_sent, open_whole, upload_name, write_whole
from ..headless.spreading import Spreader
from ..headless.tasks import Outcome, tag_of
from ..headless.work import RunResult, WorkItem
from ..headless.workers import Workers
from .dataset import Dataset, ImageEdit
from .methods import SAMPLING, Method
from .worlds import own_model

FINGERPRINT = "ale-edit fingerprint"
MADE_ON = "ale-edit made on"
UNUSED = ("Save reconstruction", "Save regions", "Decode source")
OBJECT = "object"  # where no phrase is looked at
NodeInputs = dict[str, dict[str, Any]]
"""Inputs by node title."""
STALE = "made from something else (other prompts, pictures, settings, weights or version)"


@dataclass(frozen=True)
class BenchTask:
    """One image to make; `prepare` gives its workflow, and pictures by their uploaded names."""

    edit: ImageEdit
    method: Method
    path: Path
    fingerprint: str
    prepare: Callable[[], tuple[Workflow, dict[str, Image.Image]]]

    @property
    def name(self) -> str:
        return f"{self.method.name}/{self.edit.name}"

    @property
    def group(self) -> str:
        """Jobs of one edit share their pictures, and most of them a source branch."""
        return self.edit.name

    @property
    def tag(self) -> str:
        return tag_of(self.fingerprint, self.path)

    def item(self, run: str) -> WorkItem:
        workflow, pictures = self.prepare()
        files = {name: _pack_picture(p.mode, p.size, p.tobytes()) for name, p in pictures.items()}
        return WorkItem(run, self.name, workflow.nodes, files, result_title(workflow), tag=self.tag)

    def keep(self, made: RunResult, server: str, versions: Mapping[str, str]) -> None:
        check_sent(made.image, server)
        write_result(self, made.image, versions)

    def note_failure(self, error: ComfyError, _server: str, _versions: Mapping[str, str]) -> str:
        return str(error)


# -- what is to be done ----------------------------------------------------------------------------


class Plan:
    """All tasks of a data set and some methods, in an order in which ComfyUI can reuse most.

    out: where images/METHOD/EDIT.png go.
    context: what else an image depends on, such as the weights' hash.
    settings: inputs by node title, for the methods whose workflow has such a node.
    checkpoint: of the servers; without it the demo model.
    """

    def __init__(
        self,
        dataset: Dataset,
        edits: Sequence[ImageEdit],
        methods: Sequence[Method],
        out: Path,
        *,
        context: str = "",
        settings: NodeInputs | None = None,
        checkpoint: str | None = None,
    ):
        self.dataset, self.out = dataset, out
        self._context, self._checkpoint = context, checkpoint
        self._settings = settings or {}
        self._pictures = lru_cache(maxsize=4)(self._load_pictures)
        self._first = edits[0]
        self._placeholders = [""] * (1 + len(edits[0].objects))  # where no picture is looked at
        self._check_settings(methods)
        self.tasks = [
            self._task(edit, method)
            for edit in sorted(edits, key=lambda e: (e.image, e.edit_type, e.name))
            for method in sorted(methods, key=_reuse_order)
        ]

    def workflow(self, edit: ImageEdit, method: Method) -> Workflow:
        return self._prepare(edit, method)[0]

    def _task(self, edit: ImageEdit, method: Method) -> BenchTask:
        workflow, _ = self._prepare(edit, method)
        weights = [own_model().weights_key(*method.parts)] if method.parts else []
        made_from = json.dumps([workflow.nodes, self._context, *weights], sort_keys=True)
        fingerprint = hashlib.sha256(made_from.encode()).hexdigest()
        path = image_path(self.out, method.name, edit.name)
        return BenchTask(edit, method, path, fingerprint, partial(self._prepare, edit, method))

    def _load_pictures(self, image: str) -> tuple[Image.Image, list[Image.Image]]:
        masks = [mask.convert("RGB") for mask in self.dataset.masks(image)]
        return self.dataset.picture(image), masks

    def _check_settings(self, methods: Sequence[Method]) -> None:
        """Raise ValueError where no method has the node of some settings."""
        editors = dict.fromkeys(method.editor for method in methods)
        workflows = [
            self._fill_workflow(self._first, editor, self._placeholders) for editor in editors
        ]
        for title in self._settings:
            if not any(_has(workflow, title) for workflow in workflows):
                workflows[0].find(title)

    @cached_property
    def _sampling(self) -> dict[str, Any]:
        """The steps and guidance of `ale`, whatever the edits are."""
        objects = tuple(replace(o, source=OBJECT, target=OBJECT) for o in self._first.objects)
        edit = replace(self._first, objects=objects)
        found = settings_of(self._fill_workflow(edit, ALE, self._placeholders))
        return {name: found[name] for name in SAMPLING}

    def _prepare(self, edit: ImageEdit, method: Method) -> tuple[Workflow, dict[str, Image.Image]]:
        picture, masks = self._pictures(edit.image)
        pictures = [picture]
        if takes_masks(method.editor):
            pictures += method.masks([masks[o.number] for o in edit.objects], edit.seed)
        names = [upload_name(picture) for picture in pictures]
        workflow = self._fill_workflow(edit, method.editor, names)
        method.apply(workflow, [o.target for o in edit.objects])
        return workflow, dict(zip(names, pictures, strict=True))

    def _fill_workflow(self, edit: ImageEdit, editor: str, names: Sequence[str]) -> Workflow:
        """An editor's workflow for an edit, with what holds for all methods. names: of the uploaded
        image, then of the masks, which only some editors take."""
        source, *masks = names
        edits: list[tuple[str, ...]] = [(o.source, o.target) for o in edit.objects]
        if takes_masks(editor):
            edits = [(*pair, mask) for pair, mask in zip(edits, masks, strict=True)]
        if editor == ALE:
            triples = [(given[0], given[1], given[2]) for given in edits]
            workflow = fill_workflow(
                source,
                triples,
                seed=edit.seed,
                edit_type=edit.edit_type,
                checkpoint=self._checkpoint,
            )
        else:
            workflow = editor_workflow(editor, source, edits, Model(self._checkpoint))
            apply_own_settings(workflow, {"seed": edit.seed, **self._sampling})
        if edit.source_prompt or edit.target_prompt:
            prompts = (edit.source_prompt, edit.target_prompt)
            use_prompts(workflow, dict(zip(PROMPTS, prompts, strict=True)))
        for title in set(UNUSED) & set(workflow.titles()):
            workflow.remove(title)
        result = result_title(workflow)
        images = workflow.inputs(result)["images"]
        workflow.replace(result, "PreviewImage", {"images": images})  # no file in output/
        for title, inputs in self._settings.items():
            if _has(workflow, title):
                workflow.fill(title, **inputs)
        return workflow


def _has(workflow: Workflow, name: str) -> bool:
    """Whether a node has this title, or else this id."""
    return name in workflow.titles() or name in workflow.nodes


@lru_cache(maxsize=64)
def _pack_picture(mode: str, size: tuple[int, int], pixels: bytes) -> bytes:
    return as_png(Image.frombytes(mode, size, pixels))


def _reuse_order(method: Method) -> tuple[bool, str, bool, str, str]:
    """Methods with one source branch side by side (host/sampling/source_branch.py keeps one)."""
    switches = method.inputs.get("Method", {})
    variant = switches.get("variant", "")
    return method.editor != ALE, method.editor, switches.get("ore", True), variant, method.name


def image_path(out: Path, method: str, edit: str) -> Path:
    return out / "images" / method / f"{edit}.png"


def find_pending(tasks: Sequence[BenchTask], tell: Callable[[str], None]) -> list[BenchTask]:
    """The tasks whose image is not there; images that must be made again are reported."""
    left = []
    for task in tasks:
        state = state_of(task)
        if state not in ("missing", "done"):
            verb = "was" if state == STALE else "is"
            tell(f"{task.path} {verb} {state}: it will be made again.")
        if state != "done":
            left.append(task)
    return left


def state_of(task: BenchTask) -> str:
    """ "done", "missing", or what is wrong with the image."""
    try:
        _, fingerprint = read_result(task.path)
    except FileNotFoundError:
        return "missing"
    except ValueError:
        return "damaged"
    return "done" if fingerprint == task.fingerprint else STALE


def read_result(path: Path) -> tuple[Image.Image, str]:
    """An image and its fingerprint; ValueError if any part of the file is damaged."""
    try:
        picture = open_whole(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is {error}. Run the bench again.") from error
    return picture.convert("RGB"), str(picture.info.get(FINGERPRINT, ""))


def read_versions(path: Path) -> str:
    """Versions of the server that an image says it was made on; empty where it does not."""
    try:
        with Image.open(path) as picture:
            return str(picture.info.get(MADE_ON, ""))
    except OSError:
        return ""


def write_result(task: BenchTask, image: bytes, versions: Mapping[str, str]) -> None:
    picture = Image.open(io.BytesIO(image)).convert("RGB")
    note = PngImagePlugin.PngInfo()
    note.add_text(FINGERPRINT, task.fingerprint)
    note.add_text(MADE_ON, ", ".join(f"{name} {version}" for name, version in versions.items()))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=note)
    write_whole(task.path, buffer.getvalue())


# -- doing it --------------------------------------------------------------------------------------


def check_servers(servers: Sequence[str], tasks: Sequence[BenchTask]) -> None:
    """Raise before anything is queued unless each server would take the values of these tasks, such
    as the checkpoint: WorkflowRejected, PackMissing or OtherVersion. The first task of each method
    and kind of edit is looked at. A server that is away is left to the run."""
    kinds: dict[Any, BenchTask] = {}
    for task in tasks:
        has_prompts = bool(task.edit.source_prompt or task.edit.target_prompt)
        kinds.setdefault((task.method.name, task.edit.edit_type, has_prompts), task)
    prepared = [task.prepare() for task in kinds.values()]

    async def check(url: str) -> None:
        with suppress(ServerGone):
            async with ComfyClient(url) as client:
                await client.check_version(pack_version())
                for workflow, pictures in prepared:
                    await client.check_workflow(workflow, pictures)

    async def check_all() -> None:
        await asyncio.gather(*(check(url) for url in servers))

    asyncio.run(check_all())


def edit_all(
    tasks: Sequence[BenchTask],
    workers: Workers,
    on_done: Callable[[BenchTask, Outcome], None],
    tell: Callable[[str], None] = print,
    **waiting: float,
) -> Outcome:
    """Run all tasks, and write each image as soon as it is there (headless/spreading.py; `waiting`
    is its patience_s and recheck_s). A task that fails at a node is noted and left out."""
    if not tasks:
        return Outcome()
    needed: dict[str, frozenset[str] | None] = {}
    for task in {task.method.name: task for task in tasks}.values():
        for node in task.prepare()[0].nodes.values():
            kind = node["class_type"]
            needed[kind] = (needed.get(kind) or frozenset()) | frozenset(node["inputs"])
    return Spreader(tasks, needed, pack_version(), workers, on_done, tell, **waiting).run()
