"""What a server's nodes would not take is found before anything is queued."""

import pytest

from ale_edit.headless import Workflow
from ale_edit.headless.schema import NOTHING, choices_of, complaints, models_folder

NODES = {
    "Load": {"input": {"required": {"file": [["a", "b"], {}]}}},
    "LoadImage": {"input": {"required": {"image": [["x.png"], {"image_upload": True}]}}},
    "ALEStep": {
        "input": {
            "required": {
                "count": ["INT", {"min": 1, "max": 50}],
                "seed": ["INT", {"min": 0, "max": 2**64 - 1}],
                "share": ["FLOAT", {"min": 0.0, "max": 1.0}],
                "model": ["MODEL"],
            },
            "optional": {"mode": ["COMBO", {"options": ["hard", "soft"]}], "text": ["STRING", {}]},
        }
    },
}


def found(class_type: str, **inputs: object) -> list[tuple[str | None, str]]:
    node = {"class_type": class_type, "inputs": inputs, "_meta": {"title": "It"}}
    errors = complaints(Workflow({"5": node}), NODES)
    assert all((e.title, e.class_type, e.node_id) == ("It", class_type, "5") for e in errors)
    return [(e.input_name, e.message) for e in errors]


@pytest.mark.parametrize(
    ("class_type", "inputs"),
    [
        ("Load", {"file": "a"}),
        ("Load", {"file": ["3", 0]}),  # a link
        ("Load", {"other": 1}),  # nodes of others may take more than they say
        ("LoadImage", {"image": "ale-edit/uploaded.png"}),
        ("ALEStep", {"count": 1, "share": 1.0, "mode": "soft", "text": "x", "model": ["1", 0]}),
        ("ALEStep", {"count": "7", "share": 1}),
        ("ALEStep", {"count": 7.0}),
        ("ALEStep", {"seed": 2**64 - 1}),
        ("Unknown", {"x": 1}),
    ],
)
def test_what_a_node_takes_is_no_complaint(class_type, inputs):
    assert found(class_type, **inputs) == []


@pytest.mark.parametrize(
    ("class_type", "inputs", "complaint"),
    [
        ("Load", {"file": "c"}, ("file", "'c' is not one of a, b")),
        (
            "Load",
            {"file": "c.ckpt"},
            (
                "file",
                "'c.ckpt' is not one of a, b: put the file into ComfyUI's models folder, or choose "
                "one of these",
            ),
        ),
        ("ALEStep", {"count": 0}, ("count", "0 is not between 1 and 50")),
        ("ALEStep", {"count": 51}, ("count", "51 is not between 1 and 50")),
        ("ALEStep", {"count": "x"}, ("count", "'x' is not a whole number")),
        ("ALEStep", {"count": 2.5}, ("count", "2.5 is not a whole number")),  # ComfyUI takes 2
        ("ALEStep", {"count": float("inf")}, ("count", "inf is not a whole number")),
        ("ALEStep", {"share": 1.01}, ("share", "1.01 is not between 0.0 and 1.0")),
        ("ALEStep", {"share": None}, ("share", "None is not a number")),
        ("ALEStep", {"mode": "neither"}, ("mode", "'neither' is not one of hard, soft")),
        (
            "ALEStep",
            {"newer": 1},
            ("newer", "the node has no such input. It has: count, seed, share, model, mode, text"),
        ),
    ],
)
def test_what_it_does_not_take_is_told_with_input_and_cure(class_type, inputs, complaint):
    assert found(class_type, **inputs) == [complaint]


@pytest.mark.parametrize("choices", [[], [NOTHING]])
def test_a_server_without_any_such_file_is_told_apart(choices):
    nodes = {"Load": {"input": {"required": {"file": [choices, {}]}}}}
    (error,) = complaints(Workflow({"1": {"class_type": "Load", "inputs": {"file": "a"}}}), nodes)
    assert error.message == "'a' is not available, since the server has none"


def test_of_many_choices_ten_are_named():
    nodes = {"Load": {"input": {"required": {"file": [[f"f{n}" for n in range(12)]]}}}}
    (error,) = complaints(Workflow({"1": {"class_type": "Load", "inputs": {"file": "a"}}}), nodes)
    assert "f9 and 2 more" in error.message and "f10" not in error.message


def test_an_input_without_choices_has_none():
    assert choices_of(("INT", {})) is None
    assert choices_of(("COMBO", {"remote": {}})) is None


def test_the_cure_names_the_servers_folder_of_models():
    workflow = Workflow({"1": {"class_type": "Load", "inputs": {"file": "c.ckpt"}}})
    (error,) = complaints(workflow, NODES, "/disk/models")
    assert "put the file into /disk/models, ComfyUI's models folder, or choose" in error.message


@pytest.mark.parametrize(
    ("argv", "folder"),
    [
        (["/comfy/main.py", "--port", "8188"], "/comfy/models"),
        (["/comfy/main.py", "--base-directory", "/disk", "--cpu"], "/disk/models"),
        (["main.py", "--base-directory=/disk"], "/disk/models"),
        (["/comfy/main.py", "--base-directory"], ""),
        (["main.py"], ""),
        ([], ""),
        (None, ""),
    ],
)
def test_the_servers_folder_of_models_is_that_of_its_command_line(argv, folder):
    assert models_folder({"system": {"argv": argv}}) == folder


def test_a_link_to_models_is_followed_for_it_may_be_gone_at_the_end(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "models").symlink_to(tmp_path / "kept")
    argv = ["/comfy/main.py", "--base-directory", str(tmp_path)]
    assert models_folder({"system": {"argv": argv}}) == str((tmp_path / "kept").resolve())


@pytest.mark.parametrize("stats", [{}, [], None, {"system": {}}])
def test_a_server_that_does_not_tell_its_command_line_has_a_nameless_folder(stats):
    assert models_folder(stats) == ""
