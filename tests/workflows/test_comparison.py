"""The workflows that put all editors side by side compare them as the benches do."""

from __future__ import annotations

from typing import Any

import pytest

from ale_edit.bench.methods import SAMPLING, all_methods
from ale_edit.editors import EDITORS
from ale_edit.headless.editors import takes_masks
from ale_edit.headless.edits import (
    LCM_GUIDANCE,
    Model,
    apply_own_settings,
    editor_workflow,
    fill_workflow,
    settings_of,
)
from ale_edit.headless.workflow import Workflow
from ale_edit.tests.workflows.graphs import api_path

METHODS = ("infedit", "masactrl", "p2p", "p2p-ets", "fpe", "pnp", "sdedit", "diffedit", "cpam")
CHECKPOINT = "v1-5-pruned-emaonly-fp16.safetensors"
COMPARISONS = {
    "compare_editors": (
        None,
        (
            ("pink-colored box", "purple-colored box"),
            ("red-colored star", "yellow-colored star"),
        ),
    ),
    "compare_editors_own": (CHECKPOINT, (("wolf", "brown-colored goat"), ("moon", "soccer ball"))),
}
every_comparison = pytest.mark.parametrize("name", COMPARISONS)


def values(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if not isinstance(value, list)}


LEFT_OUT = {"ALEMAGEdit", "ALEDPL", "ALEPix2PixZero", "ALELEDITS"}
"""Three compute gradients; the last has time steps and guidance of its own."""


@every_comparison
def test_every_editor_of_the_pack_is_there_but_those_on_other_ground(name: str):
    classes = {node["class_type"] for node in Workflow.load(api_path(name)).nodes.values()}
    editors = {editor.node_id for editor in EDITORS}
    assert editors > LEFT_OUT and classes >= editors - LEFT_OUT
    assert not classes & LEFT_OUT


@every_comparison
@pytest.mark.parametrize("method_name", METHODS)
def test_an_editor_has_the_settings_of_the_bench(name: str, method_name: str):
    checkpoint, pairs = COMPARISONS[name]
    method = all_methods()[method_name]
    ale = settings_of(
        fill_workflow("i.png", [(*pair, "m.png") for pair in pairs], checkpoint=checkpoint)
    )
    sampling = {setting: ale[setting] for setting in SAMPLING}
    given = [(*pair, "m.png") for pair in pairs] if takes_masks(method.editor) else pairs
    bench = editor_workflow(method.editor, "i.png", given, Model(checkpoint))
    apply_own_settings(bench, {**sampling, **(LCM_GUIDANCE if checkpoint else {}), "seed": 0})
    method.apply(bench, [target for _, target in pairs])
    title = next(iter(method.inputs), method.label)
    assert values(Workflow.load(api_path(name)).inputs(method.label)) == values(bench.inputs(title))


@every_comparison
def test_ale_edit_has_the_settings_of_the_bench(name: str):
    checkpoint, pairs = COMPARISONS[name]
    kind = "object" if checkpoint else "color"
    bench = settings_of(
        fill_workflow(
            "i.png",
            [(*pair, "m.png") for pair in pairs],
            checkpoint=checkpoint,
            edit_type=kind,
            seed=0,
        )
    )
    bench |= LCM_GUIDANCE if checkpoint else {}
    found = values(Workflow.load(api_path(name)).inputs("ALE Edit"))
    found["type"] = found.pop("edit_type")
    assert found.pop("variant") == "as in the edits"  # which is the paper
    assert bench.pop("variant") == "paper" and bench.items() <= found.items()


@every_comparison
def test_the_sheet_names_each_method_beside_its_image(name: str):
    workflow = Workflow.load(api_path(name))
    sheet, labelled = workflow.inputs("All editors"), []
    while True:
        labelled.append((workflow.title(sheet["images"][0]), sheet["labels"]))
        if "previous" not in sheet:
            break
        sheet = workflow.inputs(workflow.title(sheet["previous"][0]))
    labels = ["ALE Edit", *(all_methods()[method].label for method in METHODS)]
    (_, first), *rest = reversed(labelled)
    assert first == "source"
    assert rest == [(label, label) for label in labels]
