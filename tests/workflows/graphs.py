"""Workflow files, the nodes they use, and the front end's conversion of UI to API format.

Imported by tests as `ale_edit.tests.workflows.graphs`.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import ale_edit
from ale_edit.editors import EDITORS

Json = dict[str, Any]

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "workflows"
GALLERY = sorted(path.stem for path in FOLDER.glob("*.json"))
"""Workflows for tasks, which the template browser lists."""
OF_NODES = sorted(path.stem for path in (FOLDER / "nodes").glob("*.json"))
"""Those of single nodes and editors, which the help pages link to."""
NAMES = sorted(GALLERY + OF_NODES)
NOTES = ("MarkdownNote", "Note")  # nodes that only the front end knows
WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
CORE_EXTRAS = (
    "comfy_extras.nodes_custom_sampler",
    "comfy_extras.nodes_mask",
    "comfy_extras.nodes_model_advanced",
    "comfy_extras.nodes_preview_any",
)


def folder_of(name: str) -> Path:
    """Where a workflow is with its picture; in api/ beside them is its API form."""
    return FOLDER / "nodes" if name in OF_NODES else FOLDER


def ui_path(name: str) -> Path:
    return folder_of(name) / f"{name}.json"


def api_path(name: str) -> Path:
    return folder_of(name) / "api" / f"{name}.json"


def picture_path(name: str) -> Path:
    return folder_of(name) / f"{name}.jpg"


def read_ui(name: str) -> Json:
    return json.loads(ui_path(name).read_text(encoding="utf-8"))


def read_api(name: str) -> Json:
    return json.loads(api_path(name).read_text(encoding="utf-8"))


@cache
def our_nodes() -> dict[str, type]:
    """The pack's node classes by node id."""
    return _extension_nodes(ale_edit)


@cache
def node_class(name: str) -> type:
    """A node class of the pack or of ComfyUI itself; KeyError where there is none."""
    core = importlib.import_module("nodes").NODE_CLASS_MAPPINGS
    extras = (_nodes_of(importlib.import_module(module)) for module in CORE_EXTRAS)
    known: dict[str, type] = dict(core)
    for nodes in (*extras, our_nodes()):
        known.update(nodes)
    return known[name]


def _nodes_of(module: Any) -> dict[str, type]:
    """A module's nodes, whichever of ComfyUI's two forms it has."""
    mapped = getattr(module, "NODE_CLASS_MAPPINGS", None)
    return mapped if mapped is not None else _extension_nodes(module)


def _extension_nodes(module: Any) -> dict[str, type]:
    async def load() -> dict[str, type]:
        extension = await module.comfy_entrypoint()
        return {node.GET_SCHEMA().node_id: node for node in await extension.get_node_list()}

    return asyncio.run(load())


def inputs_of(class_type: str) -> Iterator[tuple[str, str, Json]]:
    """(name, type, options) of each input, in the order of the widgets."""
    given = node_class(class_type).INPUT_TYPES()
    for group in ("required", "optional"):
        for name, (kind, *options) in given.get(group, {}).items():
            yield name, "COMBO" if isinstance(kind, list) else kind, dict(*options)


def outputs_of(class_type: str) -> tuple[str, ...]:
    return tuple(node_class(class_type).RETURN_TYPES)


def widgets_of(class_type: str) -> list[str | None]:
    """What each entry of a node's widgets_values stands for: an input's name, or None for a widget
    of the front end alone."""
    widgets: list[str | None] = []
    uploads = False
    for name, kind, options in inputs_of(class_type):
        if kind not in WIDGET_TYPES or options.get("forceInput"):
            continue
        widgets.append(name)
        # these two names get a "control after generate" where the schema says nothing
        if options.get("control_after_generate", name in ("seed", "noise_seed")):
            widgets.append(None)
        uploads = uploads or options.get("image_upload", False)
    return [*widgets, None] if uploads else widgets


def to_api(ui: Json) -> Json:
    """The API format of a UI workflow, without titles, as the front end makes it."""
    origins = {link[0]: [str(link[1]), link[2]] for link in ui["links"]}
    api: Json = {}
    for node in ui["nodes"]:
        if node["type"] in NOTES:
            continue
        widgets = widgets_of(node["type"])
        values = zip(widgets, node["widgets_values"], strict=True)
        inputs = {name: value for name, value in values if name is not None}
        for entry in node["inputs"]:
            if entry["link"] is not None:
                inputs[entry["name"]] = origins[entry["link"]]
        api[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return api


def without_titles(api: Json) -> Json:
    kept = ("class_type", "inputs")
    return {number: {key: node[key] for key in kept} for number, node in api.items()}


NEED_CHECKPOINT = [
    name
    for name in NAMES
    if any(node["class_type"] == "CheckpointLoaderSimple" for node in read_api(name).values())
]


NEED_DETECTOR = [
    name
    for name in NAMES
    if {"ALEGroundingDINOLoader", "ALESAMLoader"}
    & {node["class_type"] for node in read_api(name).values()}
]
"""Those that need files of GroundingDINO or Segment Anything."""
NEED_CLIP = [
    name
    for name in NAMES
    if {"ALECLIPSimilarityLoader", "CLIPVisionLoader"}
    & {node["class_type"] for node in read_api(name).values()}
]
"""Those that need files of CLIP."""
NEED_INVERSION = ["load_inversion"]
"""That which needs a file of Save Inversion."""
NEED_PAINT = ["ale_edit_drawn_masks", "compare_editors_own"]
"""Those whose objects a person paints in the mask editor."""
QUICK: dict[str, dict[str, dict[str, Any]]] = {
    "mag_edit": {"MAG-Edit": {"steps": 15, "inversion_method": "direct", "iterations": 3}},
    "dpl": {"DPL": {"steps": 8, "updates": 2, "null_updates": 2}},
    "pix2pix_zero": {"pix2pix-zero": {"steps": 10}},
}
"""By node, what a workflow is run with that takes minutes as it is."""
NEED_FILES = NEED_DETECTOR + NEED_CLIP + NEED_INVERSION
MINI_CLIP = "clip.safetensors" in (ROOT / "demo/weights/weights.json").read_text(encoding="utf-8")
NEED_MINI_CLIP = [
    name
    for name in NAMES
    if any(
        node["class_type"] == "ALELeakageScore" and "similarity" not in node["inputs"]
        for node in read_api(name).values()
    )
]
"""Those that need the demo world's mini CLIP."""


FURTHER = {
    "ALEInvertImage": ("edit_friendly_inversion",),
    "ALESampleFromInversion": ("edit_friendly_inversion",),
}
"""Workflows of a node's choices, beside its own."""


def own_workflow(node_id: str) -> str:
    """The small workflow that is about this node."""
    if node_id == "ALEEdit":
        return "ale_edit_one_node"
    if node_id == "ALEGroundedSAMMasks":
        return "text_to_regions"
    for editor in EDITORS:
        if editor.node_id == node_id:
            return editor.name.replace("-", "_")
    words = re.findall(r"LCM|DINO|SAM|CLIP|[A-Z][a-z]+", node_id.removeprefix("ALE"))
    return "_".join(words).lower()


def real_nodes(ui: Json) -> list[Json]:
    return [node for node in ui["nodes"] if node["type"] not in NOTES]
