"""Loaders whose list is files: ComfyUI leaves the look at the list to them, so that its error says
where a file belongs, and not only that the value is not in the list."""

from __future__ import annotations

import asyncio
import importlib
from pathlib import Path
from typing import Any

import execution
import pytest

from ale_edit.host.model_files import NOTHING
from ale_edit.tests.nodes.graph import one
from ale_edit.tests.tiny import empty_models
from ale_edit.tests.versions import REFUSES_CHOICES
from ale_edit.tests.workflows.graphs import inputs_of, node_class, our_nodes

LISTS = [
    (node_id, name)
    for node_id in sorted(our_nodes())
    for name, kind, _ in inputs_of(node_id)
    if kind == "COMBO" and name.endswith("_name")
]
FOLDERS = ("grounding-dino", "sams", "sam2", "clip", "text_encoders", "clip_vision")


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    known = importlib.import_module("nodes").NODE_CLASS_MAPPINGS
    for node_id, _ in LISTS:
        monkeypatch.setitem(known, node_id, node_class(node_id))
    return empty_models(tmp_path / "models", FOLDERS, monkeypatch)


def errors_of(node_id: str, **values: Any) -> list[Any]:
    """What ComfyUI's own validation says of a node with these values, and defaults for the rest."""
    others = {key: o["default"] for key, _, o in inputs_of(node_id) if "default" in o}
    node = {"class_type": node_id, "inputs": {**others, **values}}
    valid, errors, _ = asyncio.run(execution.validate_inputs("run", {"1": node}, "1", {}))
    assert valid is not bool(errors)
    return errors


def test_the_loaders_are_found() -> None:
    assert [node_id for node_id, _ in LISTS] == [
        "ALECLIPSimilarityLoader",
        "ALEGroundingDINOLoader",
        "ALESAMLoader",
    ]


@pytest.mark.parametrize(("node_id", "name"), LISTS)
@pytest.mark.parametrize("value", ["gone.pth", "gone/", NOTHING])
def test_a_file_that_is_not_there_is_left_to_the_run_which_says_where_it_belongs(
    node_id: str, name: str, value: str, models: Path
) -> None:
    assert not errors_of(node_id, **{name: value})
    what = "no file was found" if value == NOTHING else f'"{value}" was not found'
    with pytest.raises(ValueError) as caught:
        one(node_id, **{name: value})
    said = str(caught.value)
    assert what in said and str(models) in said and "Add " in said


def test_a_choice_that_is_no_file_is_still_looked_at(models: Path) -> None:
    """By ComfyUI, or by the node."""
    (models / "sams" / "sam_vit_b_01ec64.pth").touch()
    values = {"sam_name": "sam_vit_b_01ec64.pth", "precision": "fp8"}
    errors = [error["type"] for error in errors_of("ALESAMLoader", **values)]
    assert errors == (["value_not_in_list"] if REFUSES_CHOICES else [])


@pytest.mark.parametrize(("node_id", "name"), LISTS)
def test_a_name_may_come_from_another_node(node_id: str, name: str) -> None:
    """ComfyUI then validates without it."""
    assert node_class(node_id).validate_inputs() is True
