"""Loaders whose list is files: what ComfyUI asks them before a run. It then leaves their list to
them, where 0.33 would say no more than that the value is not in it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import execution
import pytest

import nodes
from ale_edit.host.model_files import NOTHING
from ale_edit.tests.tiny import empty_models
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
    for node_id in {node_id for node_id, _ in LISTS}:
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, node_id, node_class(node_id))
    return empty_models(tmp_path / "models", FOLDERS, monkeypatch)


def errors_of(node_id: str, name: str, value: Any) -> list[dict[str, Any]]:
    """What ComfyUI's own validation says of a node with this value and no other input."""
    others = {key: o["default"] for key, _, o in inputs_of(node_id) if "default" in o}
    node = {"class_type": node_id, "inputs": {**others, name: value}}
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
def test_a_file_that_is_not_there_is_refused_before_the_run_with_where_it_belongs(
    node_id: str, name: str, value: str, models: Path
) -> None:
    (error,) = errors_of(node_id, name, value)
    what = "no file was found" if value == NOTHING else f'"{value}" is not there any more'
    assert error["extra_info"]["input_name"] == name
    assert what in error["details"] and str(models) in error["details"]
    assert "Put there " in error["details"]


def test_a_file_that_is_there_is_left_to_the_run(models: Path) -> None:
    (models / "sams" / "sam_vit_b_01ec64.pth").touch()
    assert not errors_of("ALESAMLoader", "sam_name", "sam_vit_b_01ec64.pth")


@pytest.mark.parametrize(("node_id", "name"), LISTS)
def test_a_name_that_another_node_gives_is_left_to_the_run(node_id: str, name: str) -> None:
    assert node_class(node_id).validate_inputs() is True
