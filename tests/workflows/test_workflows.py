"""The workflows that people open, and those that tools queue, say the same and fit the nodes."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from ale_edit.tests.versions import PASSED_ON
from ale_edit.tests.workflows.graphs import (
    FOLDER,
    FURTHER,
    GALLERY,
    NAMES,
    NEED_CHECKPOINT,
    NEED_FILES,
    NOTES,
    OF_NODES,
    Json,
    inputs_of,
    node_class,
    our_nodes,
    outputs_of,
    own_workflow,
    picture_path,
    read_api,
    read_ui,
    real_nodes,
    to_api,
    without_titles,
)

MAIN_JOB_TITLES = {
    *("Model", "Source image", "Mask 1", "Mask 2", "Edit 1", "Edit 2", "Method", "Embeddings"),
    *("Regions", "RGB-CAM", "Self-attention", "Blending", "Negative", "Guider", "Sampler"),
    *("Schedule", "Noise", "Encode", "Sample", "Decode", "Decode source", "Save edited"),
    *("Save reconstruction", "Save regions"),
}
TITLE_HEIGHT = 30
FILES = ("ckpt_name", "lora_name", "detector_name", "sam_name", "clip_name", "name")
ANY = "*"  # a socket that takes every type
every_workflow = pytest.mark.parametrize("name", NAMES)


def test_each_workflow_has_both_forms() -> None:
    for folder, names in ((FOLDER, GALLERY), (FOLDER / "nodes", OF_NODES)):
        assert names
        assert sorted(path.stem for path in (folder / "api").glob("*.json")) == names
        assert sorted(path.stem for path in folder.glob("*.jpg")) == names
    assert len({*NAMES}) == len(NAMES)


@every_workflow
def test_the_picture_of_a_workflow_is_a_small_square(name: str) -> None:
    with Image.open(picture_path(name)) as picture:
        assert picture.format == "JPEG" and picture.size == (600, 600)
    assert picture_path(name).stat().st_size < 100_000


def test_the_gallery_is_for_tasks_and_single_nodes_have_a_folder_of_their_own() -> None:
    own = {own_workflow(node_id) for node_id in our_nodes()}
    assert own - {*OF_NODES} == {"ale_edit_one_node", "text_to_regions"}
    further = {name for names in FURTHER.values() for name in names}
    assert {*OF_NODES} == (own & {*OF_NODES}) | further


def test_every_node_of_the_pack_is_shown_by_a_workflow() -> None:
    shown = {node["class_type"] for name in NAMES for node in read_api(name).values()}
    assert set(our_nodes()) <= shown


@pytest.mark.parametrize("node_id", sorted(our_nodes()))
def test_every_node_of_the_pack_has_a_small_workflow_on_the_demo_model(node_id: str) -> None:
    name = own_workflow(node_id)
    classes = [node["class_type"] for node in read_api(name).values()]
    assert node_id in classes and len(classes) <= 20
    assert name not in NEED_CHECKPOINT
    if name not in NEED_FILES:
        assert not {"LoadImage", "LoadImageMask"} & set(classes)  # it runs as it is


def test_the_main_job_keeps_the_titles_that_it_is_filled_in_by() -> None:
    titles = [node["_meta"]["title"] for node in read_api("ale_edit").values()]
    assert len(titles) == len(set(titles))
    assert set(titles) == MAIN_JOB_TITLES


@every_workflow
def test_ui_and_api_say_the_same(name: str) -> None:
    assert to_api(read_ui(name)) == without_titles(read_api(name))


@every_workflow
def test_a_title_of_the_ui_is_the_title_of_the_api(name: str) -> None:
    api = read_api(name)
    for node in real_nodes(read_ui(name)):
        display_name = getattr(node_class(node["type"]), "DISPLAY_NAME", None)
        shown = node.get("title", display_name or api[str(node["id"])]["_meta"]["title"])
        assert api[str(node["id"])]["_meta"]["title"] in (shown, display_name)


def _exchange_widgets(ui: Json) -> None:
    given = (node["widgets_values"] for node in ui["nodes"])
    values = next(v for v in given if len(v) > 1 and v[0] != v[1])
    values[:2] = [values[1], values[0]]


def _drop_widget(ui: Json) -> None:
    next(n for n in real_nodes(ui) if n["widgets_values"])["widgets_values"].pop(0)


def _take_other_output(ui: Json) -> None:
    next(link for link in ui["links"] if link[5] in ("IMAGE", "MASK"))[2] += 1


def _cut_link(ui: Json) -> None:
    inputs = (entry for node in ui["nodes"] for entry in node["inputs"])
    next(entry for entry in inputs if entry["link"] is not None)["link"] = None


def _leave_out_node(ui: Json) -> None:
    ui["nodes"].remove(real_nodes(ui)[-1])


MISTAKES = [_exchange_widgets, _drop_widget, _take_other_output, _cut_link, _leave_out_node]


@every_workflow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_difference_between_ui_and_api_is_noticed(
    name: str, mistake: Callable[[Json], None]
) -> None:
    ui = copy.deepcopy(read_ui(name))
    mistake(ui)
    try:
        converted = to_api(ui)
    except ValueError:  # too few or too many widget values
        return
    assert converted != without_titles(read_api(name))


@every_workflow
def test_every_class_exists_and_gets_exactly_its_inputs(name: str) -> None:
    for node in read_api(name).values():
        known = {entry for entry, _, _ in inputs_of(node["class_type"])}
        required = node_class(node["class_type"]).INPUT_TYPES().get("required", {})
        assert set(required) <= set(node["inputs"]) <= known, node["_meta"]["title"]


@every_workflow
def test_every_value_is_one_that_its_widget_can_have(name: str) -> None:
    for node in read_api(name).values():
        for entry, kind, options in inputs_of(node["class_type"]):
            value = node["inputs"].get(entry)
            is_file = options.get("image_upload") or entry in FILES
            if value is None or isinstance(value, list) or is_file:
                continue
            assert _fits(value, kind, options, node["class_type"], entry), (entry, value)


def _fits(value: Any, kind: str, options: Json, class_type: str, entry: str) -> bool:
    if kind in ("INT", "FLOAT"):
        number = int if kind == "INT" else (int, float)
        return isinstance(value, number) and options["min"] <= value <= options["max"]
    if kind == "COMBO":
        given = node_class(class_type).INPUT_TYPES()
        listed = {**given.get("required", {}), **given.get("optional", {})}[entry][0]
        return value in (options.get("options") or listed)
    return isinstance(value, bool if kind == "BOOLEAN" else str)


@every_workflow
def test_every_link_joins_sockets_of_one_type(name: str) -> None:
    for node in read_api(name).values():
        kinds = {entry: kind for entry, kind, _ in inputs_of(node["class_type"])}
        for entry, value in node["inputs"].items():
            if isinstance(value, list):
                origin = read_api(name)[value[0]]["class_type"]
                assert kinds[entry] in (outputs_of(origin)[value[1]], ANY), (node["_meta"], entry)


@every_workflow
def test_the_tables_of_links_and_of_nodes_agree(name: str) -> None:
    ui = read_ui(name)
    nodes = {node["id"]: node for node in ui["nodes"]}
    assert len(nodes) == len(ui["nodes"])
    assert ui["last_node_id"] == max(nodes)
    assert ui["last_link_id"] == max(link[0] for link in ui["links"]) == len(ui["links"])
    for number, origin, output, target, entry, kind in ui["links"]:
        made = nodes[origin]["outputs"][output]
        used = nodes[target]["inputs"][entry]
        assert number in made["links"] and used["link"] == number
        assert made["type"] == kind and used["type"] in (kind, ANY)
    ends = [
        entry["link"] for n in ui["nodes"] for entry in n["inputs"] if entry["link"] is not None
    ]
    starts = [link for n in ui["nodes"] for made in n["outputs"] for link in made["links"] or []]
    assert sorted(ends) == sorted(starts) == sorted(link[0] for link in ui["links"])


@every_workflow
def test_the_sockets_of_a_node_are_those_of_its_schema(name: str) -> None:
    for node in real_nodes(read_ui(name)):
        schema = [(entry, kind) for entry, kind, _ in inputs_of(node["type"])]
        assert [(entry["name"], entry["type"]) for entry in node["inputs"]] == schema
        made = tuple(made["type"] for made in node["outputs"])
        assert (*made, *PASSED_ON.get(node["type"], ())) == outputs_of(node["type"])


@every_workflow
def test_no_nodes_overlap_and_each_stands_in_one_group(name: str) -> None:
    ui = read_ui(name)
    boxes = [_box(node) for node in ui["nodes"]]
    for i, a in enumerate(boxes):
        assert not [b for b in boxes[i + 1 :] if _overlap(a, b)], ui["nodes"][i]["type"]
    groups = [_group_box(group) for group in ui["groups"]]
    assert not [a for i, a in enumerate(groups) for b in groups[i + 1 :] if _overlap(a, b)]
    for node in real_nodes(ui):
        assert len([g for g in groups if _inside(_box(node), g)]) == 1, node["type"]


@every_workflow
def test_every_link_runs_from_left_to_right_or_down_a_column(name: str) -> None:
    ui = read_ui(name)
    x = {node["id"]: node["pos"][0] for node in ui["nodes"]}
    assert not [link for link in ui["links"] if x[link[1]] > x[link[3]]]


Box = tuple[float, float, float, float]


def _box(node: Json) -> Box:
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE_HEIGHT, x + width, y + height


def _group_box(group: Json) -> Box:
    x, y, width, height = group["bounding"]
    return x, y, x + width, y + height


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _inside(a: Box, b: Box) -> bool:
    return b[0] <= a[0] and b[1] <= a[1] and a[2] <= b[2] and a[3] <= b[3]


@every_workflow
def test_a_note_says_in_three_sentences_what_it_does_and_what_to_change(name: str) -> None:
    notes = [node["widgets_values"][0] for node in read_ui(name)["nodes"] if node["type"] in NOTES]
    assert len(notes) == 1
    heading, *rest = notes[0].split("\n\n")
    assert heading.startswith("## ")
    text = re.sub(r"SD 1\.5|\(Load Checkpoint\)", "", " ".join(rest))
    assert len(re.findall(r"\.(?=\s|$)", text)) == 3, text
    assert "your own checkpoint" in notes[0] and "Load Checkpoint" in notes[0]


@every_workflow
def test_a_square_picture_of_the_same_name_stands_beside_it(name: str) -> None:
    """ComfyUI's template browser shows it on a square card."""
    with Image.open(picture_path(name)) as picture:
        assert picture.format == "JPEG"
        assert picture.width == picture.height >= 400
    assert picture_path(name).stat().st_size < 200_000
