"""The editors that rows may name: ALE-Edit, and those that are one node with a workflow of its own.

An editor is found by its workflow, workflows/nodes/api/NAME.json, whose node ALENAME takes a model,
an image, its edits and a number of steps; the node's other inputs are the editor's settings. Two
words of a name have a hyphen between them, in the file an underscore and in the node nothing. So a
new editor needs no line here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from .pack import ROOT
from .workflow import Workflow

ALE = "ale"
"""ALE-Edit, by the workflows of edits.py; what a row has that names no editor."""
WORKFLOWS = ROOT / "workflows" / "nodes" / "api"
TASK = frozenset(("model", "clip", "vae", "image", "edits", "negative"))
"""What every editor is given by other nodes."""
MASKLESS = {"priors": "clusters"}
"""A setting with which an editor that takes masks does not need them."""
REGIONS_INPUT = "regions"
"""What an editor that acts in masks of the objects is given, too."""
ABILITIES: Mapping[str, frozenset[str]] = {"cpam": frozenset(("add", "remove"))}
"""What editors can do with an edit of which a side is empty: Editor.abilities of the pack, which
cannot be imported here without PyTorch."""


@dataclass(frozen=True)
class EditorFile:
    """One editor: its name, where its workflow is, and the title, class and settings of its node
    there. takes_masks: whether it has a use for a mask of each edit."""

    name: str
    path: Path
    title: str
    class_type: str
    settings: Mapping[str, Any]
    takes_masks: bool

    @property
    def needs_masks(self) -> bool:
        return self.takes_masks and not MASKLESS.items() <= self.settings.items()


@lru_cache(maxsize=1)
def editor_files() -> dict[str, EditorFile]:
    """The editors besides ALE-Edit, by name."""
    paths = sorted(WORKFLOWS.glob("*.json"))
    found = (_read_editor(path.stem.replace("_", "-"), path) for path in paths)
    return {editor.name: editor for editor in found if editor is not None}


def _read_editor(name: str, path: Path) -> EditorFile | None:
    """The editor of a workflow; None where it is about another node."""
    workflow = Workflow.load(path)
    wanted = f"ale{name.replace('-', '')}"
    for node_id, node in workflow.nodes.items():
        class_type, inputs = node["class_type"], node["inputs"]
        if class_type.lower() == wanted and {*TASK, "steps"} - {"negative"} <= set(inputs):
            title = workflow.title(node_id)
            settings, takes_masks = read_settings(node), REGIONS_INPUT in inputs
            return EditorFile(name, path, title, class_type, settings, takes_masks)
    return None


def read_settings(node: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an editor's node that are not links."""
    return {name: value for name, value in node["inputs"].items() if not isinstance(value, list)}


def editor_names() -> tuple[str, ...]:
    return ALE, *editor_files()


def require_editor(name: str) -> str:
    """The name; ValueError, with those that there are, for any other."""
    if name not in editor_names():
        raise ValueError(f"There is no editor {name!r}. There are: {', '.join(editor_names())}.")
    return name


def require_abilities(name: str, edits: Sequence[tuple[str, ...]]) -> None:
    """Raise ValueError for an edit (source, target, ...) that adds or removes an object where the
    editor cannot do that."""
    for source, target, *_ in edits:
        needed = "add" if not source else "remove" if not target else ""
        if not needed or needed in ABILITIES.get(name, ()):
            continue
        missing, instead = ("source", "is now") if needed == "add" else ("target", "becomes")
        able = " or ".join(other for other, has in ABILITIES.items() if needed in has)
        raise ValueError(
            f"the edit '{source} -> {target}' has no {missing}, so it is to {needed} an object, "
            f"which the editor {name} cannot do. Use the editor {able}, or write what the object "
            f"{instead}."
        )


def takes_masks(name: str) -> bool:
    return name == ALE or editor_files()[name].takes_masks


def find_editor_node(workflow: Workflow) -> str | None:
    """The id of the node in a workflow that is an editor of editor_files; None without one."""
    classes = {editor.class_type for editor in editor_files().values()}
    found = (node_id for node_id, node in workflow.nodes.items() if node["class_type"] in classes)
    return next(found, None)


def setting_names() -> tuple[str, ...]:
    """The settings of all editors of editor_files."""
    names = (name for editor in editor_files().values() for name in editor.settings)
    return tuple(dict.fromkeys(names))
