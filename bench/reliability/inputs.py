"""Hostile inputs of all nodes of the pack, generated from what /object_info says that they take."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...headless import Workflow
from ...headless.pack import WORKFLOWS
from ...headless.schema import PACK, Info, choices_of, input_specs
from .files import LOADERS
from .hostile_nodes.models import BY_TYPE as MODELS
from .hostile_nodes.tensors import BY_TYPE as TENSORS
from .hostile_nodes.tensors import OTHER_THINGS
from .values import LITERALS, widget_values

STEPS = 2
VALUE, LOOK = "ALEReliabilityValue", "ALEReliabilityLook"
OUTPUTS = ("PreviewImage", "SaveImage", "MaskPreview", "PreviewAny")
FILE_LOADERS = (*LOADERS, "ALELoadInversion")
WHERE_FROM = {"ALECLIPSimilarityFromCLIPVision": "leakage_score"}
SAMPLED_BY_US = {"ALEObjectRestrictedEmbeddings": "background_blending"}
"""Nodes in workflows of others: ComfyUI's KSampler asks no text where it is from."""
CARRIERS = {"SamplerCustomAdvanced": ("sigmas", "latent_image")}
"""Stock nodes whose inputs reach our guider and sampler."""
SIZED = (
    *("ALEEdit", "ALEInfEdit", "ALEMasaCtrl", "ALEP2P", "ALEFPE", "ALEPnP", "ALESDEdit"),
    *("ALECPAM", "ALEMAGEdit", "ALEDiffEdit", "ALEDPL", "ALELEDITS", "ALEPix2PixZero"),
    "ALEPasteBackground",
)
"""Nodes whose picture has the size of the source's."""
FAMILIES = {
    "INT": "numbers",
    "FLOAT": "numbers",
    "STRING": "text",
    "BOOLEAN": "switches",
    "COMBO": "choices and files",
    "IMAGE": "images",
    "MASK": "masks",
    "LATENT": "latents, sigmas and conditionings",
    "SIGMAS": "latents, sigmas and conditionings",
    "CONDITIONING": "latents, sigmas and conditionings",
    "ALE_INVERSION": "inversions",
    "MODEL": "models of another family, or broken",
    "CLIP": "models of another family, or broken",
    "VAE": "models of another family, or broken",
}
OF_OTHERS = "edits and regions of another image, and other sockets"


@dataclass(frozen=True)
class HostileInput:
    """One input of one node of a workflow that runs, made hostile.

    family: what it is counted under. title: of the node in the workflow.
    """

    node: str
    input_name: str
    kind: str
    family: str
    title: str
    workflow: Workflow

    def __str__(self) -> str:
        return f"{self.node}.{self.input_name}: {self.kind}"


@dataclass(frozen=True)
class Base:
    """A workflow that runs, cut down to one node of the pack and what its outputs need."""

    node: str
    title: str
    workflow: Workflow


def bases(info: Info) -> list[Base]:
    """One of each node of the pack whose workflow needs no file, and of each carrier."""
    found = []
    for node in sorted(name for name in info if name.startswith(PACK) and name != VALUE):
        if node == LOOK or node in FILE_LOADERS:
            continue
        path = file_of(node, info)
        workflow = Workflow.load(path)
        if node in WHERE_FROM:
            add_similarity(workflow)
        found.append(cut_down(workflow, node, info))
    for node in CARRIERS:
        found.append(cut_down(Workflow.load(file_of("ALETwoBranchGuider", info)), node, info))
    return found


def file_of(node: str, info: Info) -> Path:
    """The workflow of a node's help page that needs no file."""
    if node == "ALEEdit":
        return WORKFLOWS / "ale_edit_one_node.json"
    folder = WORKFLOWS.parent / "nodes" / "api"
    if node in (others := {**WHERE_FROM, **SAMPLED_BY_US}):
        return folder / f"{others[node]}.json"
    files = sorted(folder.glob("*.json"))
    ready = [f for f in files if not Workflow.load(f).classes() & {*FILE_LOADERS, "LoadImage"}]
    named = {_plain(f.stem): f for f in ready}
    name = _plain(node.removeprefix(PACK))
    if name in named:
        return named[name]
    return next(f for f in ready if node in Workflow.load(f).classes())


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def add_similarity(workflow: Workflow) -> None:
    """A similarity model of a CLIP and a CLIP Vision, both good enough to be looked at."""
    workflow.add("Similarity", "ALECLIPSimilarityFromCLIPVision")
    workflow.connect("Similarity", "clip", "Demo Model Loader", 1)
    workflow.add("Vision", VALUE, {"kind": "any: nothing"})
    workflow.connect("Similarity", "clip_vision", "Vision")
    workflow.connect("Leakage Score", "similarity", "Similarity")


def cut_down(workflow: Workflow, node: str, info: Info) -> Base:
    """Few steps, one node of the class, and a Look for each output that depends on it."""
    for each in workflow.nodes.values():
        if isinstance(each["inputs"].get("steps"), int):
            each["inputs"]["steps"] = STEPS
        if node == "ALEEditList" and "objects" in each["inputs"]:
            each["inputs"]["objects"] = 1  # most hostile texts hold one edit
        if node == each["class_type"] == "ALEEditList":
            each["inputs"]["text"] = "red-colored ball -> blue-colored ball"
    title = node_id = next(k for k, n in workflow.nodes.items() if n["class_type"] == node)
    below = downstream(workflow, node_id)
    looked_at = [
        next(v for v in workflow.nodes[k]["inputs"].values() if isinstance(v, list))
        for k in below
        if workflow.nodes[k]["class_type"] in OUTPUTS
    ]
    ends = [k for k in below if info[workflow.nodes[k]["class_type"]].get("output_node")]
    ends = [k for k in ends if workflow.nodes[k]["class_type"] not in OUTPUTS]
    looked_at += [
        [k, 0] for k in {*ends, node_id} if info[workflow.nodes[k]["class_type"]]["output"]
    ]
    kept: set[str] = set()
    for wanted in [*ends, *(link[0] for link in looked_at)]:
        one = workflow.copy()
        one.keep_only(wanted)
        kept |= set(one.nodes)
    workflow.nodes = {k: n for k, n in workflow.nodes.items() if k in kept}
    for link in {tuple(link) for link in looked_at}:
        new = workflow.add("Look", LOOK, {"value": list(link), "sizes": "[]"})
        workflow.rename(new, f"Look at {link[0]}, {link[1]}")
    return Base(node, title, workflow)


def downstream(workflow: Workflow, node_id: str) -> list[str]:
    """A node and all that depend on it."""
    found, grown = {node_id}, True
    while grown:
        more = {
            k
            for k, n in workflow.nodes.items()
            for v in n["inputs"].values()
            if isinstance(v, list) and v[0] in found
        }
        grown = not more <= found
        found |= more
    return [k for k in workflow.nodes if k in found]


def generate(info: Info, files: Mapping[str, Sequence[str]]) -> list[HostileInput]:
    """All hostile inputs of all nodes. files: damaged files by loader."""
    found = [h for base in bases(info) for h in hostile_inputs(base, info)]
    for node, names in files.items():
        found += feed_damaged_files(node, names, info)
    return found


def hostile_inputs(base: Base, info: Info) -> Iterator[HostileInput]:
    only = CARRIERS.get(base.node)
    for name, (kind, options) in input_specs(info[base.node]).items():
        if only and name not in only:
            continue
        family = FAMILIES.get("COMBO" if isinstance(kind, list) else kind, OF_OTHERS)
        made = itertools.chain(
            _widgets(base, name, (kind, options)),
            _tensors(base, name, kind),
            _links(base, name, kind),
        )
        for what, workflow in made:
            yield HostileInput(base.node, name, what, family, base.title, workflow)


def _widgets(base: Base, name: str, spec: tuple[Any, Any]) -> Iterator[tuple[str, Workflow]]:
    kind, options = spec
    for what, value in widget_values(kind, options).items():
        if what == "a number" and value in (choices_of(spec) or ()):
            continue
        yield what, change_input(base, name, value)


def _tensors(base: Base, name: str, kind: Any) -> Iterator[tuple[str, Workflow]]:
    """Values that only a node can hand over, made from what the input is given now."""
    good = base.workflow.nodes[base.title]["inputs"].get(name)
    if widget_values(kind, {}):
        return
    kinds = [] if base.node in CARRIERS else [f"any: {what}" for what in OTHER_THINGS]
    if good is not None or kind in ("IMAGE", "MASK"):
        kinds += [f"{kind}: {what}" for what in {**TENSORS, **MODELS}.get(kind, {})]
    if "SamplerCustomAdvanced" not in base.workflow.classes() and base.node not in SIZED:
        stock = (": answers", "CLIP: ")  # what ComfyUI's KSampler takes, or fails at, by itself
        kinds = [what for what in kinds if not any(words in what for words in stock)]
    for what in kinds:
        workflow = base.workflow.copy()
        value = workflow.add("Hostile", VALUE, {"kind": what})
        source = good or _good(workflow, kind)
        if source is not None:
            workflow.nodes[value]["inputs"]["good"] = source
        workflow.nodes[base.title]["inputs"][name] = [value, 0]
        yield what.partition(": ")[2], fit_look(workflow, base)


def _good(workflow: Workflow, kind: str) -> list[Any] | None:
    """A link to a good value of a type, for an input that is open: the demo scene's."""
    output = {"IMAGE": 0, "MASK": 1}.get(kind)
    if output is None:
        return None
    scenes = [k for k, n in workflow.nodes.items() if n["class_type"] == "ALEDemoScene"]
    scene = (
        scenes[0] if scenes else workflow.add("Scene", "ALEDemoScene", {"seed": 0, "objects": 2})
    )
    return [scene, output]


def _links(base: Base, name: str, kind: Any) -> Iterator[tuple[str, Workflow]]:
    if widget_values(kind, {}):
        yield "left out", change_input(base, name)
        return
    yield "left out", change_input(base, name)
    for what, value in LITERALS.items() if base.node not in CARRIERS else ():
        yield what, change_input(base, name, value)
    others: dict[str, tuple[str, dict[str, Any], int]] = {}
    if kind == "ALE_EDITS":
        for what, text in {
            "one object fewer": "pink-colored box -> cyan-colored box",
            "three objects": "a -> b\nc -> d\ne -> f",
            "the same source twice": "box -> ring\nbox -> star",
            "twenty objects": "\n".join(f"box {k} -> ring {k}" for k in range(20)),
        }.items():
            others[what] = ("ALEEditList", {"text": text}, 0)
    if kind == "ALE_REGIONS":
        yield from _other_regions(base, name)
    for what, (class_type, inputs, output) in others.items():
        workflow = base.workflow.copy()
        new = workflow.add("Other", class_type, inputs)
        workflow.nodes[base.title]["inputs"][name] = [new, output]
        yield what, fit_look(workflow, base)


def _other_regions(base: Base, name: str) -> Iterator[tuple[str, Workflow]]:
    """Regions of other masks than the image's."""
    sources = {
        "of one object": (1, "MASK: inverted"),
        "of four objects": (4, "MASK: double precision"),
        "of another shape": (2, "MASK: 256 x 128"),
        "of another size": (2, "MASK: 64 x 64"),
        "of the whole image": (1, "MASK: all 1"),
    }
    for what, (objects, kind) in sources.items():
        workflow = base.workflow.copy()
        scene = workflow.add("Other scene", "ALEDemoScene", {"seed": 3, "objects": objects})
        edits = workflow.add("Other edits", "ALEEditList", {"text": [scene, 2]})
        masks = workflow.add("Other masks", VALUE, {"kind": kind, "good": [scene, 1]})
        inputs = {"edits": [edits, 0], "masks": [masks, 0], "dilation": 0.01, "feather": 0.0}
        regions = workflow.add("Other regions", "ALERegions", inputs)
        workflow.nodes[base.title]["inputs"][name] = [regions, 0]
        yield what, fit_look(workflow, base)


def change_input(base: Base, name: str, *value: Any) -> Workflow:
    """The base with another value in an input, or without the input."""
    workflow = base.workflow.copy()
    inputs = workflow.nodes[base.title]["inputs"]
    if value:
        (inputs[name],) = value
    else:
        inputs.pop(name, None)
    return fit_look(workflow, base)


def fit_look(workflow: Workflow, base: Base) -> Workflow:
    """Look expects, behind nodes of SIZED, the size of the demo scene or of the hostile image."""
    if base.node not in SIZED:
        return workflow
    kinds = [n["inputs"]["kind"] for n in workflow.nodes.values() if n["class_type"] == VALUE]
    sizes = [[1, 128, 128, 3]]
    for kind in kinds:
        type_of, _, what = kind.partition(": ")
        if type_of == "IMAGE":
            sizes = SIZES.get(what, sizes)
    for node in workflow.nodes.values():
        if node["class_type"] == LOOK and node["inputs"]["value"] == [base.title, 0]:
            node["inputs"]["sizes"] = json.dumps(sizes)
    return workflow


SIZES = {
    "7 x 5": [[1, 7, 5, 3]],
    "1 x 1": [[1, 1, 1, 3]],
    "61 x 67": [[1, 61, 67, 3]],
    "8 x 200": [[1, 8, 200, 3]],
    "256 x 128": [[1, 256, 128, 3]],
    "64 x 64": [[1, 64, 64, 3], [1, 128, 128, 3]],
    "batch of 3": [[3, 128, 128, 3]],
    "alpha": [[1, 128, 128, 3], [1, 128, 128, 4]],
    "video": [[1, 128, 128, 3]],
}
"""Sizes of what is made of an image of a kind."""


def feed_damaged_files(node: str, names: Sequence[str], info: Info) -> Iterator[HostileInput]:
    """A loader of damaged files, and hostile values in its other inputs."""
    specs = input_specs(info[node])
    name = next(iter(specs))
    others = {
        k: options.get("default", (choices_of((kind, options)) or [None])[0])
        for k, (kind, options) in specs.items()
        if k != name
    }
    for file in [*names, "not_there.safetensors", "", "../../secret.pth"]:
        kind = f"file {file}" if file else "no name"
        yield _load(node, {name: file, **others}, name, kind, FAMILIES["COMBO"])
    for other in others:
        kind, options = specs[other]
        family = FAMILIES["COMBO" if isinstance(kind, list) else kind]
        for what, value in widget_values(kind, options).items():
            yield _load(node, {name: names[0], **others, other: value}, other, what, family)


def _load(node: str, inputs: Mapping[str, Any], name: str, kind: str, family: str) -> HostileInput:
    workflow = Workflow({})
    loader = workflow.add("Loader", node, dict(inputs))
    workflow.add("Look", LOOK, {"value": [loader, 0], "sizes": "[]"})
    return HostileInput(node, name, kind, family, loader, workflow)


def nodes_of_pack(info: Info) -> set[str]:
    return {name for name in info if name.startswith(PACK)} - {LOOK, VALUE}


def nodes_without_inputs(info: Info) -> list[str]:
    """Their names as people see them."""
    found = [name for name in nodes_of_pack(info) if not input_specs(info[name])]
    return sorted(info[name]["display_name"] for name in found)


def find_left_out(found: Sequence[HostileInput], info: Info) -> list[str]:
    """NODE.INPUT of what the pack's nodes take and nothing hostile is generated for."""
    inputs = {(node, name) for node in nodes_of_pack(info) for name in input_specs(info[node])}
    return sorted(".".join(place) for place in inputs - {(h.node, h.input_name) for h in found})


def choose(found: Sequence[HostileInput], count: int, seed: int) -> list[HostileInput]:
    """`count` of them, drawn so that every node, and every input of it, comes in turn; sorted, so
    that a server keeps the models of the one before."""
    rng = random.Random(seed)
    left: dict[str, dict[str, list[HostileInput]]] = {}
    for hostile in found:
        left.setdefault(hostile.node, {}).setdefault(hostile.input_name, []).append(hostile)
    for inputs in left.values():
        for some in inputs.values():
            rng.shuffle(some)
    order: list[HostileInput] = []
    nodes = sorted(left)
    rng.shuffle(nodes)
    while len(order) < min(count, len(found)):
        for node in nodes:
            inputs = left[node]
            name = max(
                sorted(inputs), key=lambda n: (len(inputs[n]) > 0, -_count_taken(order, node, n))
            )
            if inputs[name]:
                order.append(inputs[name].pop())
    return sorted(order[:count], key=lambda h: h.node)


def _count_taken(order: Sequence[HostileInput], node: str, name: str) -> int:
    return sum(h.node == node and h.input_name == name for h in order)
