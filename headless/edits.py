"""Fills the pack's workflows for one uploaded image and its edits.

workflows/api/ale_edit.json takes one mask per edit; ale_edit_words.json finds the objects from the
words of the edits; the other editors have a workflow each (editors.py), some with masks. A workflow
of one's own is filled by the same titles: "Source image"; and either "Edit 1", "Mask 1" and so on,
or "Edit List".
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .editors import (
    ALE,
    REGIONS_INPUT,
    editor_files,
    find_editor_node,
    read_settings,
    require_abilities,
    setting_names,
)
from .pack import WORKFLOWS
from .workflow import Workflow

MASKED = WORKFLOWS / "ale_edit.json"
BY_WORDS = WORKFLOWS / "ale_edit_words.json"
RESULTS = ("Save edited", "Edited image")  # titles of the nodes that save the edited image
REGIONS = ("Save regions", "Where the objects are")
LCM_GUIDANCE = {"source_guidance": 1.0, "target_guidance": 2.0}
DEMO_GUIDANCE = {"source_guidance": 3.0, "target_guidance": 5.0}  # that model is not distilled
DEMO_LOADER = "ALEDemoModelLoader"
PROMPTS_NODE = "ALEFullPrompts"
PROMPTS = ("source_prompt", "target_prompt")
OWN_MASK: dict[str, Any] = {
    "class_type": "LoadImageMask",
    "inputs": {"image": "", "channel": "red"},
}
"""What loads a mask in ale_edit.json."""
CUSTOM_TYPE = "custom"  # of edit: the schedule is the one given, not the type's own

# A setting's name -> the nodes' inputs that it stands for, whichever of them a workflow has.
SETTINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "type": (("ALESelfAttentionInjection", "edit_type"), ("ALEEdit", "edit_type")),
    "schedule": (("ALESelfAttentionInjection", "schedule"), ("ALEEdit", "schedule")),
    "seed": (("RandomNoise", "noise_seed"), ("ALEEdit", "seed")),
    "steps": (("ALELCMSchedule", "steps"), ("ALEEdit", "steps")),
    "strength": (("ALELCMSchedule", "strength"), ("ALEEdit", "strength")),
    "source_guidance": (
        ("ALETwoBranchGuider", "source_guidance"),
        ("ALEEdit", "source_guidance"),
    ),
    "target_guidance": (
        ("ALETwoBranchGuider", "target_guidance"),
        ("ALEEdit", "target_guidance"),
    ),
    "dilation": (
        ("ALERegions", "dilation"),
        ("ALEGroundedSAMMasks", "dilation"),
        ("ALEEdit", "dilation"),
    ),
    "variant": (("ALEMethodSettings", "variant"), ("ALEEdit", "variant")),
}
KNOWN = (
    f"There are: {', '.join(SETTINGS)}; and TITLE.INPUT for any input of a node of the workflow."
)
WHOLE = ("seed", "steps")  # settings that are whole numbers, however a workflow writes them


@dataclass(frozen=True)
class Model:
    """What edits: a checkpoint that the server has, or the demo model where there is none.

    lora: an LCM LoRA for it. lcm: the checkpoint is an LCM itself. Either samples as an LCM does
    (ModelSamplingDiscrete).
    """

    checkpoint: str | None = None
    lora: str | None = None
    lcm: bool = False

    def __post_init__(self) -> None:
        if self.checkpoint is None and (self.lora is not None or self.lcm):
            raise ValueError("An LCM LoRA, or sampling as an LCM, needs a checkpoint. Give one.")


def fill_workflow(
    image: str,
    edits: Sequence[tuple[str, str, str]],
    *,
    seed: int | None = None,
    checkpoint: str | None = None,
    variant: str = "paper",
    edit_type: str | None = None,
    guidance: tuple[float | None, float | None] = (None, None),
) -> Workflow:
    """The main workflow for one uploaded image and (source, target, uploaded mask) edits."""
    workflow = mask_workflow(image, edits, Model(checkpoint))
    given = {"variant": variant, "type": edit_type, "seed": seed}
    given |= dict(zip(LCM_GUIDANCE, guidance, strict=True))
    for name, value in given.items():
        if value is not None:
            apply_setting(workflow, name, value)
    return workflow


def mask_workflow(
    image: str, edits: Sequence[tuple[str, str, str]], model: Model = Model()
) -> Workflow:
    """The main workflow for an uploaded image and (source, target, uploaded mask) edits."""
    require_abilities(ALE, edits)
    workflow = Workflow.load(MASKED)
    fill_edits(workflow, image, edits)
    if model.checkpoint is not None:
        use_model(workflow, "Model", model)
    return workflow


def words_workflow(
    image: str, edits: Sequence[tuple[str, str]], model: Model = Model()
) -> Workflow:
    """The workflow that finds the objects from their words, for an uploaded image and edits.

    Without a checkpoint the demo detector looks for them, which needs no file either.
    """
    require_abilities(ALE, edits)
    workflow = Workflow.load(BY_WORDS)
    fill_edits(workflow, image, edits)
    workflow.bypass("ModelSamplingDiscrete", {0: "model"})
    workflow.bypass("LCM-LoRA", {0: "model", 1: "clip"})
    use_model(workflow, "Load Checkpoint", model)
    if model.checkpoint is None:
        workflow.add("Demo Detector Loader", "ALEDemoDetectorLoader")
        workflow.redirect("GroundingDINO Loader", 0, "Demo Detector Loader", 0)
        workflow.redirect("SAM Loader", 0, "Demo Detector Loader", 1)
        workflow.remove("GroundingDINO Loader")
        workflow.remove("SAM Loader")
    return workflow


def editor_workflow(
    name: str, image: str, edits: Sequence[tuple[str, ...]], model: Model = Model()
) -> Workflow:
    """The workflow of an editor of editor_files for an uploaded image and edits, with an uploaded
    mask each where it takes masks: the editor's own, with a model, an image and masks in the place
    of the demo world's."""
    require_abilities(name, edits)
    editor = editor_files()[name]
    workflow = Workflow.load(editor.path)
    if editor.takes_masks and len(edits[0]) == 2:
        if editor.needs_masks:
            raise ValueError(f"{editor.title} edits inside masks. Give a mask for each edit.")
        del workflow.inputs(editor.title)[REGIONS_INPUT]
    elif editor.takes_masks:
        use_masks(workflow)
    workflow.replace(find_class(workflow, "ALEDemoScene"), "LoadImage", {"image": image})
    workflow.rename(find_class(workflow, "LoadImage"), "Source image")
    fill_edits(workflow, image, edits)
    workflow.keep_only(result_title(workflow))
    workflow.rename(find_class(workflow, DEMO_LOADER), "Model")
    use_model(workflow, "Model", model)
    return workflow


def use_masks(workflow: Workflow) -> None:
    """Put an edit with a mask of its own in the place of the list of edits and its masks."""
    del workflow.inputs(find_class(workflow, "ALERegions"))["masks"]
    workflow.replace("Edit List", "ALEEditObject", {"source": "", "target": ""})
    workflow.rename("Edit List", "Edit 1")
    workflow.add("Mask 1", **OWN_MASK)
    workflow.connect("Edit 1", "mask", "Mask 1")


def result_title(workflow: Workflow) -> str:
    """The title of the node that the edited image comes from."""
    found = [title for title in RESULTS if title in workflow.titles()]
    if len(found) != 1:
        raise ValueError(
            f"{workflow.name} has {len(found) or 'no'} nodes titled {' or '.join(RESULTS)}. Give "
            "--result TITLE, the title of the node that saves the edited image. It has: "
            f"{', '.join(sorted(workflow.titles()))}."
        )
    return found[0]


def find_class(workflow: Workflow, class_type: str) -> str:
    """The id of the one node of a class."""
    (found,) = (k for k, node in workflow.nodes.items() if node["class_type"] == class_type)
    return found


def fill_edits(workflow: Workflow, image: str, edits: Sequence[tuple[str, ...]]) -> None:
    """Write image and edits, with an uploaded mask each or with none, into the titled nodes."""
    workflow.fill("Source image", image=image)
    if len(edits[0]) == 2:
        lines = "\n".join(f"{edit[0]} -> {edit[1]}" for edit in edits)
        workflow.fill("Edit List", text=lines)
        return
    fit_edit_chain(workflow, len(edits))
    for number, (source, target, mask) in enumerate(edits, 1):
        workflow.fill(f"Mask {number}", image=mask)
        workflow.fill(f"Edit {number}", source=source, target=target)


def fit_edit_chain(workflow: Workflow, count: int) -> None:
    """Clone or remove the Mask k and Edit k nodes until there are `count`, and link them again."""
    have = sum(re.fullmatch(r"Edit \d+", title) is not None for title in workflow.titles())
    workflow.find("Edit 1")  # raises where there is no chain
    takers = workflow.links_to(f"Edit {have}", 0)
    for number in range(have, count, -1):
        workflow.remove(f"Edit {number}")
        workflow.remove(f"Mask {number}")
    for number in range(have + 1, count + 1):
        workflow.clone("Mask 1", f"Mask {number}")
        workflow.clone("Edit 1", f"Edit {number}")
    for number in range(1, count + 1):
        output = 1 if mask_node(workflow, number)["class_type"] == "LoadImage" else 0
        workflow.connect(f"Edit {number}", "mask", f"Mask {number}", output)
        if number > 1:
            workflow.connect(f"Edit {number}", "previous", f"Edit {number - 1}")
    for node_id, name in takers:
        workflow.nodes[node_id]["inputs"][name] = [workflow.find(f"Edit {count}"), 0]


def mask_node(workflow: Workflow, number: int) -> dict[str, Any]:
    """The node that loads mask `number`: its own, or the first one's, which is cloned for it."""
    title = f"Mask {number}"
    return workflow.nodes[workflow.find(title if title in workflow.titles() else "Mask 1")]


def use_model(workflow: Workflow, loader: str, model: Model) -> None:
    """Put a model in the place of the node that loads one, with the guidance that suits it."""
    if model.checkpoint is not None:
        workflow.replace(loader, "CheckpointLoaderSimple", {"ckpt_name": model.checkpoint})
    elif workflow.nodes[workflow.find(loader)]["class_type"] != DEMO_LOADER:
        workflow.replace(loader, DEMO_LOADER, {})
    if model.lora is not None or model.lcm:
        sampling = {"sampling": "lcm", "zsnr": False}
        workflow.add("ModelSamplingDiscrete", "ModelSamplingDiscrete", sampling)
        workflow.redirect(loader, 0, "ModelSamplingDiscrete")
        workflow.connect("ModelSamplingDiscrete", "model", loader)
    if model.lora is not None:
        strengths = {"lora_name": model.lora, "strength_model": 1.0, "strength_clip": 1.0}
        workflow.add("LCM-LoRA", "LoraLoader", strengths)
        workflow.redirect(loader, 1, "LCM-LoRA", 1)
        workflow.connect("LCM-LoRA", "clip", loader, 1)
        workflow.connect("LCM-LoRA", "model", loader)
        workflow.connect("ModelSamplingDiscrete", "model", "LCM-LoRA")
    apply_own_settings(workflow, DEMO_GUIDANCE if model.checkpoint is None else LCM_GUIDANCE)


def use_prompts(workflow: Workflow, prompts: Mapping[str, str]) -> None:
    """Give whole sentences around the edits' phrases: source_prompt, target_prompt, or both."""
    title = next(
        (workflow.title(k) for k, n in workflow.nodes.items() if n["class_type"] == PROMPTS_NODE),
        None,
    )
    if title is None:
        title, last = "Full Prompts", last_edit(workflow)
        workflow.add(title, PROMPTS_NODE, dict.fromkeys(PROMPTS, ""))
        workflow.redirect(last, 0, title)
        workflow.connect(title, "edits", last)
    workflow.fill(title, **prompts)


def last_edit(workflow: Workflow) -> str:
    """The title of the node that gives all edits: the last of the chain, or the list."""
    numbers = [int(m[1]) for t in workflow.titles() if (m := re.fullmatch(r"Edit (\d+)", t))]
    return f"Edit {max(numbers)}" if numbers else "Edit List"


# -- settings --------------------------------------------------------------------------------------


def places(workflow: Workflow, name: str) -> list[tuple[str, str]]:
    """(node id, input) that a setting stands for: a name of SETTINGS, a setting of the workflow's
    editor (editors.py), or TITLE.INPUT.

    ValueError where the workflow has none.
    """
    title, dot, input_name = name.rpartition(".")
    if dot:
        if input_name not in workflow.inputs(title):
            raise ValueError(
                f"{title!r} in {workflow.name} has no input {input_name!r}. "
                f"It has: {', '.join(sorted(workflow.inputs(title)))}."
            )
        return [(workflow.find(title), input_name)]
    editor = find_editor_node(workflow)
    found = [
        (node_id, input_name)
        for class_type, input_name in SETTINGS.get(name, ())
        for node_id, node in workflow.nodes.items()
        if node["class_type"] == class_type
    ]
    if editor is not None and name in workflow.nodes[editor]["inputs"]:
        found.append((editor, name))
    if found:
        return found
    if editor is not None:
        raise ValueError(
            f"{workflow.title(editor)} has no setting {name!r}. It has: "
            f"{', '.join(read_settings(workflow.nodes[editor]))}; and TITLE.INPUT for any input "
            "of a node of the workflow."
        )
    if name in SETTINGS:
        classes = ", ".join(class_type for class_type, _ in SETTINGS[name])
        raise ValueError(f"{workflow.name} has no node that takes {name} ({classes}).")
    if name in setting_names():
        raise ValueError(f"{workflow.name} has no editor with a setting {name!r}. {KNOWN}")
    raise ValueError(f"There is no setting {name!r}. {KNOWN}")


def apply_setting(workflow: Workflow, name: str, value: Any) -> None:
    """Set a setting; text is read as what the input holds now (number, true or false, text).

    A number that is whole now may become a fraction: ComfyUI's front end exports 2.0 as 2. Only
    those of WHOLE are known to be whole; of other inputs the server says it (schema.complaints).
    """
    for node_id, input_name in places(workflow, name):
        node = workflow.nodes[node_id]
        inputs = node["inputs"]
        if isinstance(inputs[input_name], list):
            raise ValueError(
                f"{name}: {workflow.title(node_id)!r} gets its {input_name} from another node of "
                f"{workflow.name}. Disconnect it there, or leave the setting out."
            )
        place = node["class_type"], input_name
        is_whole = any(place in SETTINGS[setting] for setting in WHOLE)
        is_whole = is_whole or (node_id == find_editor_node(workflow) and input_name in WHOLE)
        inputs[input_name] = _as_kind_of(inputs[input_name], value, name, is_whole=is_whole)


def apply_own_settings(workflow: Workflow, values: Mapping[str, Any]) -> None:
    """Set those of these settings that the workflow has."""
    known = settings_of(workflow)
    for name, value in values.items():
        if name in known:
            apply_setting(workflow, name, value)


def _as_kind_of(now: Any, value: Any, name: str, *, is_whole: bool) -> Any:
    if isinstance(now, bool):
        known = {"true": True, "false": False}
        if isinstance(value, bool) or str(value).lower() in known:
            return known[str(value).lower()]
        raise ValueError(f"{name} is {value!r}. Write true or false.")
    if isinstance(now, int | float):
        number = _number(value, name, is_whole=is_whole)
        return number if isinstance(now, int) else float(number)
    return str(value)


def _number(value: Any, name: str, *, is_whole: bool) -> int | float:
    """A whole number as an int, to its last digit."""
    whole = re.fullmatch(r"[+-]?\d+(\.0*)?", str(value).strip())
    try:
        if isinstance(value, bool):
            raise ValueError
        number = int(str(value).strip().partition(".")[0]) if whole else float(value)
    except (TypeError, ValueError):
        number = None
    if number is None or number != number or abs(number) == float("inf"):
        raise ValueError(f"{name} is {value!r}. Write a number.")
    if is_whole and not whole:
        raise ValueError(f"{name} is {value!r}. Write a whole number.")
    return number


def settings_of(workflow: Workflow) -> dict[str, Any]:
    """The value of every setting that the workflow has and uses: of SETTINGS, of its editor."""
    editor = find_editor_node(workflow)
    found = read_settings(workflow.nodes[editor]) if editor is not None else {}
    for name, nodes in SETTINGS.items():
        for node in workflow.nodes.values():
            for class_type, input_name in nodes:
                value = node["inputs"].get(input_name)
                if node["class_type"] == class_type and not isinstance(value, list | type(None)):
                    found.setdefault(name, value)
    if found.get("type", CUSTOM_TYPE) != CUSTOM_TYPE:
        found.pop("schedule", None)
    return found
