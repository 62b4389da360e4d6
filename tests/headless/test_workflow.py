"""Workflows are addressed by titles."""

import json
from pathlib import Path

import pytest

from ale_edit.headless import Workflow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def workflow() -> Workflow:
    return Workflow(
        {
            "1": {"class_type": "A", "inputs": {"x": 1}, "_meta": {"title": "First"}},
            "7": {"class_type": "B", "inputs": {"a": ["1", 0], "b": 2}, "_meta": {"title": "Last"}},
            "8": {"class_type": "C", "inputs": {}},
        },
        "small.json",
    )


def test_filling_changes_the_titled_node_alone(workflow):
    workflow.fill("Last", b=3)
    assert workflow.nodes["7"]["inputs"] == {"a": ["1", 0], "b": 3}
    assert workflow.nodes["1"]["inputs"] == {"x": 1}


def test_a_node_without_a_title_goes_by_its_class(workflow):
    assert workflow.find("C") == "8"


def test_a_node_can_be_named_by_its_id_where_no_title_is_so(workflow):
    workflow.fill("7", b=4)
    assert workflow.inputs("Last")["b"] == 4
    workflow.nodes["8"]["_meta"] = {"title": "7"}
    assert workflow.find("7") == "8"


def test_a_new_node_can_take_the_place_of_an_output(workflow):
    workflow.add("Between", "E", {"y": 5})
    workflow.redirect("First", 0, "Between", 1)
    workflow.connect("Between", "a", "First")
    assert workflow.inputs("Last")["a"] == [workflow.find("Between"), 1]
    assert workflow.inputs("Between") == {"y": 5, "a": ["1", 0]}
    assert workflow.links_to("First", 0) == [(workflow.find("Between"), "a")]
    workflow.bypass("Between", {1: "a"})
    assert workflow.inputs("Last")["a"] == ["1", 0] and "Between" not in workflow.titles()


def test_an_unknown_title_is_an_error_that_names_the_known(workflow):
    with pytest.raises(ValueError, match="small.json has no node titled 'Frist'.*First"):
        workflow.fill("Frist", x=1)


def test_a_title_that_occurs_twice_is_an_error(workflow):
    workflow.clone("First", "Last")
    with pytest.raises(ValueError, match="2 nodes titled 'Last'"):
        workflow.find("Last")


def test_an_unknown_input_is_an_error_that_names_the_known(workflow):
    with pytest.raises(ValueError, match="'First' in small.json has no input 'y'. It has: x"):
        workflow.fill("First", y=1)


def test_a_clone_is_independent_and_has_a_new_id(workflow):
    new = workflow.clone("Last", "Copy")
    workflow.fill("Copy", b=9)
    assert new == "9"
    assert workflow.inputs("Last")["b"] == 2


def test_removing_a_node_removes_the_links_to_it(workflow):
    workflow.remove("First")
    assert workflow.inputs("Last") == {"b": 2}


def test_replacing_a_node_keeps_the_links_to_its_outputs(workflow):
    workflow.replace("First", "D", {"z": 0})
    assert workflow.nodes["1"]["class_type"] == "D"
    assert workflow.inputs("Last")["a"] == ["1", 0]


def test_a_copy_does_not_share_nodes(workflow):
    workflow.copy().fill("Last", b=9)
    assert workflow.inputs("Last")["b"] == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", r"is not JSON \(.*\). Export it from ComfyUI with 'Export"),
        ("[]", "not a workflow in ComfyUI's API format. Export it from"),
        ('{"1": {"inputs": {}}}', "not a workflow in ComfyUI's API format. Export it from"),
        ('{"1": {"class_type": "A"}}', "not a workflow in ComfyUI's API format. Export it from"),
        ('{"1": {"class_type": "A", "inputs": {}, "_meta": null}}', "not a workflow in ComfyUI's"),
        (json.dumps({"nodes": [], "links": []}), "Export it with"),
    ],
)
def test_a_file_that_is_no_api_workflow_is_an_error(tmp_path, text, expected):
    (tmp_path / "w.json").write_text(text)
    with pytest.raises(ValueError, match=expected):
        Workflow.load(tmp_path / "w.json")


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no workflow file .*none.json. Correct the path."):
        Workflow.load(tmp_path / "none.json")
    with pytest.raises(ValueError, match=r"cannot be read \(.*\). Give a workflow file"):
        Workflow.load(tmp_path)
