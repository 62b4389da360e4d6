"""Rows of a table become jobs: a filled workflow, the pictures it needs, and what it was made from.

Everything that can be wrong with files and settings is found here, before anything is queued.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from .editors import ALE, editor_files, require_editor, takes_masks
from .edits import (
    CUSTOM_TYPE,
    OWN_MASK,
    REGIONS,
    RESULTS,
    Model,
    apply_setting,
    editor_workflow,
    fill_edits,
    mask_node,
    mask_workflow,
    places,
    result_title,
    settings_of,
    use_prompts,
    words_workflow,
)
from .masks import as_read_by, read_mask, tell_of_whole_masks
from .pictures import alpha_of, open_picture, upload_name
from .table import Problems, Row
from .workflow import Workflow

DEFAULT_TYPE = "object"  # keeps the least of a shape: a wrong guess leaves the least behind
UNUSED = ("Save reconstruction", "Decode source", "Detections")


@dataclass(frozen=True)
class JobDefaults:
    """What holds for all rows. workflow: one's own; result: title of the node with the image.

    editor: of the rows that name none; ALE-Edit's where nothing does.
    """

    model: Model = Model()
    settings: Mapping[str, Any] = field(default_factory=dict)
    workflow: Workflow | None = None
    result: str | None = None
    editor: str = ""

    def __post_init__(self) -> None:
        if self.editor:
            require_editor(self.editor)
            self.check_editor(self.editor, "--editor")

    def check_editor(self, name: str, place: str) -> None:
        """Raise ValueError where an editor is named beside a workflow of one's own."""
        if name and self.workflow is not None:
            raise ValueError(
                f"{place} is {name!r}, and --workflow brings an editor of its own. Leave one out."
            )

    def editor_of(self, row: Row) -> str:
        return row.editor or self.editor or ALE


@dataclass(frozen=True)
class Job:
    """One image to make. asked: what it is made from, as the manifest has it; fingerprint: of all.

    pictures opens what is to be uploaded; names: what the workflow calls it, in the same order.
    alpha opens the alpha channel that the result gets; None where the image is opaque.
    notices: what is to be known of its files.
    """

    row: Row
    workflow: Workflow
    result: str
    asked: dict[str, Any]
    fingerprint: str
    names: tuple[str, ...]
    pictures: Callable[[], list[tuple[str, Image.Image]]]
    alpha: Callable[[], Image.Image | None]
    notices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.row.name


def build_jobs(
    rows: Sequence[Row], defaults: JobDefaults, tell: Callable[[str], None] = lambda _text: None
) -> list[Job]:
    """The jobs of all rows; raises Problems with everything that is wrong with any of them.

    tell: gets a sentence for each picture that had to be converted or resized, or looks wrong.
    """
    jobs, problems, unused = [], [], set(defaults.settings)
    maskless: dict[str, list[Row]] = {}
    for row in rows:
        try:
            if row.masks and _ignores_masks(row, defaults):
                maskless.setdefault(defaults.editor_of(row), []).append(row)
            job = _job(row, defaults, unused, tell)
        except Problems as error:
            problems += [f"{row.place}: {sentence}" for sentence in error.sentences]
        except (ValueError, OSError) as error:
            problems.append(f"{row.place}: {error}")
        else:
            jobs.append(job)
    for editor, ignored in maskless.items():
        more = f" and {len(ignored) - 1} more" if len(ignored) > 1 else ""
        tell(f"{ignored[0].place}{more}: {_describe_unused_masks(editor)}")
    if unused and not problems:
        problems.append(f"--set {sorted(unused)[0]}: {_why_unused(jobs[0], sorted(unused)[0])}")
    if problems:
        raise Problems(list(dict.fromkeys(problems)))
    return jobs


def _ignores_masks(row: Row, defaults: JobDefaults) -> bool:
    return defaults.workflow is None and not takes_masks(defaults.editor_of(row))


def _describe_unused_masks(editor: str) -> str:
    return f"{editor_files()[editor].title} takes no masks: those given are not used."


def _job(row: Row, defaults: JobDefaults, unused: set[str], tell: Callable[[str], None]) -> Job:
    defaults.check_editor(row.editor, "editor")
    editor = defaults.editor_of(row)
    notices: list[str] = []
    if row.masks and _ignores_masks(row, defaults):
        notices.append(_describe_unused_masks(editor))
        row = replace(row, masks=())
    told = len(notices)  # by build_jobs, once for all rows
    names = tuple(name for name, _ in _load_pictures(row, defaults.workflow, notices.append))
    for notice in notices[told:]:
        tell(f"{row.place}: {notice}")
    workflow = _fill_workflow(row, defaults, names[0], names[1:])
    if row.prompts:
        use_prompts(workflow, row.prompts)
    common = {name: value for name, value in defaults.settings.items() if _takes(workflow, name)}
    unused.difference_update(common)
    is_ale = defaults.workflow is None and editor == ALE
    default = {"type": DEFAULT_TYPE} if is_ale else {}
    for name, value in _settle_type({**common, **row.settings}, default).items():
        apply_setting(workflow, name, value)
    asked, alpha = _describe_request(row, defaults, workflow), _alpha(row)
    made_from = json.dumps(workflow.nodes, sort_keys=True)
    if alpha is not None:
        asked["alpha"] = digest_of(alpha)
        made_from += asked["alpha"]
    return Job(
        row,
        workflow,
        _result(workflow, defaults),
        asked,
        hashlib.sha256(made_from.encode()).hexdigest(),
        names,
        partial(_load_pictures, row, defaults.workflow, _ignore),
        partial(_alpha, row),
        tuple(notices),
    )


def _settle_type(given: Mapping[str, Any], default: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with a type: the one given, "custom" for a schedule of one's own, or the default."""
    if "schedule" not in given:
        return {**default, **given}
    settings = {"type": CUSTOM_TYPE, **given}
    if settings["type"] != CUSTOM_TYPE:
        raise ValueError(
            f"schedule counts with type={CUSTOM_TYPE} alone, and type is {settings['type']!r}. "
            f"Set type={CUSTOM_TYPE}, or leave schedule out."
        )
    return settings


def _load_pictures(
    row: Row, workflow: Workflow | None, tell: Callable[[str], None]
) -> list[tuple[str, Image.Image]]:
    """The row's image, then its masks as the workflow's nodes read them (None: the pack's own),
    checked, each with the name that it is uploaded by. Problems: of any of them."""
    image, masks, problems = None, [], []
    try:
        image = open_picture(row.image, tell).convert("RGB")
    except ValueError as error:
        problems.append(str(error))
    for path in row.masks:
        try:
            masks.append(read_mask(path, tell, image.size if image is not None else None))
        except ValueError as error:
            problems.append(str(error))
    if problems or image is None:
        raise Problems(problems)
    tell_of_whole_masks(dict(zip(row.masks, masks, strict=True)), tell)
    pictures = [image]
    for number, mask in enumerate(masks, 1):
        node = mask_node(workflow, number) if workflow is not None else OWN_MASK
        pictures.append(as_read_by(node, mask))
    return [(upload_name(picture), picture) for picture in pictures]


def _alpha(row: Row) -> Image.Image | None:
    return alpha_of(open_picture(row.image, _ignore))


def digest_of(alpha: Image.Image) -> str:
    return hashlib.sha256(f"{alpha.size}".encode() + alpha.tobytes()).hexdigest()


def _ignore(_text: str) -> None:
    """For what was said before."""


def _fill_workflow(row: Row, defaults: JobDefaults, image: str, masks: Sequence[str]) -> Workflow:
    edits = [(*edit, mask) for edit, mask in zip(row.edits, masks, strict=True)] if masks else []
    if defaults.workflow is not None:
        workflow = defaults.workflow.copy()
        fill_edits(workflow, image, edits or row.edits)
        return workflow
    editor = defaults.editor_of(row)
    if editor != ALE:
        workflow = editor_workflow(editor, image, edits or row.edits, defaults.model)
    elif edits:
        workflow = mask_workflow(image, edits, defaults.model)
    else:
        workflow = words_workflow(image, row.edits, defaults.model)
    for title in set(UNUSED) & set(workflow.titles()):
        workflow.remove(title)
    for title in set(RESULTS + REGIONS) & set(workflow.titles()):
        # a preview leaves no file in the server's output folder
        workflow.replace(title, "PreviewImage", {"images": workflow.inputs(title)["images"]})
    return workflow


def _takes(workflow: Workflow, name: str) -> bool:
    try:
        return bool(places(workflow, name))
    except ValueError:
        return False


def _why_unused(job: Job, name: str) -> str:
    try:
        places(job.workflow, name)
    except ValueError as error:
        return str(error)
    return "no row takes it."


def _result(workflow: Workflow, defaults: JobDefaults) -> str:
    """The title of the node that the edited image comes from."""
    if defaults.result is not None:
        workflow.find(defaults.result)
        return defaults.result
    return result_title(workflow)


def _describe_request(row: Row, defaults: JobDefaults, workflow: Workflow) -> dict[str, Any]:
    return {
        "image": _file(row.image),
        "masks": [_file(mask) for mask in row.masks],
        "edits": [list(edit) for edit in row.edits],
        "prompts": row.prompts,
        "settings": {
            **settings_of(workflow),
            **_pick_titled(defaults.settings),
            **_pick_titled(row.settings),
        },
        "workflow": workflow.name,
        **({"editor": defaults.editor_of(row)} if defaults.workflow is None else {}),
        "model": asdict(defaults.model) if defaults.workflow is None else None,
    }


def _pick_titled(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if "." in name}


def _file(path: Path) -> dict[str, str]:
    return {"file": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def changes(job: Job, before: Mapping[str, Any]) -> list[str]:
    """What differs between a job and what the manifest says an image was made from; a line that
    names no editor is ALE-Edit's."""
    before = {"editor": ALE, **before}

    def content(value: Any) -> Any:
        if isinstance(value, list):
            return [content(entry) for entry in value]
        return value["sha256"] if isinstance(value, dict) and "sha256" in value else value

    found = [key for key, now in job.asked.items() if content(now) != content(before.get(key))]
    return found or ["workflow"]
