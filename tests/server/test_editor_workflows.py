"""The workflows of single editors show what their notes say, and name their node in an error."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from ale_edit.demo.finder import ATTRIBUTES, FoundObject, SceneFinder
from ale_edit.demo.render import render
from ale_edit.demo.scenes import make_scene
from ale_edit.headless import NodeFailed
from ale_edit.tests.server.test_pack_in_comfyui import load_workflow

ROOM = 6  # pixels around an object that its edit may change


def numbers(file: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(file)).convert("RGB"), dtype=float)


def find(image: np.ndarray) -> list[FoundObject]:
    return SceneFinder.load().find(torch.from_numpy(image) / 255)


def best_words(found: FoundObject) -> set[str]:
    """The likeliest shape, colour and material of an object."""
    return {max(words, key=lambda word: found.words[word]) for words in ATTRIBUTES}


def outside(masks: np.ndarray) -> np.ndarray:
    """Where no mask (N, H, W) is, nor its surroundings."""
    inside = masks.max(axis=0) > 0
    places = np.argwhere(inside)
    top, left = places.min(axis=0) - ROOM
    bottom, right = places.max(axis=0) + ROOM
    free = np.ones(inside.shape, dtype=bool)
    free[max(top, 0) : bottom, max(left, 0) : right] = False
    return free


@pytest.mark.slow
def test_infedit_changes_the_box_alone_with_a_blend_word(run):
    _, masks = render(make_scene(0, 2))
    images = {title: numbers(file) for title, file in run(load_workflow("infedit")).items()}
    source, box = images["Source"], masks[0].numpy() > 0
    edited = [images["Edited image"], images["With target_blend, image"]]
    elsewhere = outside(masks[:1].numpy())
    everywhere, blended = (np.abs(image - source)[elsewhere].mean() for image in edited)
    print(f"outside the box: {everywhere:.1f} of 255, with a blend word {blended:.1f}")
    assert blended < everywhere / 2
    red, _, blue = source[box].mean(axis=0)
    assert red > blue  # pink
    for image in edited:
        red, green, blue = image[box].mean(axis=0)
        assert blue > red > green  # purple


@pytest.mark.slow
def test_masactrl_keeps_the_background_that_no_word_names(run):
    _, masks = render(make_scene(1, 1))
    images = {title: numbers(file) for title, file in run(load_workflow("masactrl")).items()}
    titles = ("Edited image", "Without its control, image")
    changes = [np.abs(images[t] - images["Source"])[outside(masks.numpy())].mean() for t in titles]
    print(f"background: {changes[0]:.1f} of 255, without the control {changes[1]:.1f}")
    assert changes[0] < changes[1] / 2


@pytest.mark.slow
def test_a_removed_object_is_found_no_more(run):
    images = {title: numbers(file) for title, file in run(load_workflow("remove_object")).items()}
    source, edited = (find(images[title]) for title in ("Source", "Edited image"))
    assert [best_words(found) for found in source] == [{"cross", "purple", "brick"}]
    assert edited == []


@pytest.mark.slow
def test_a_changed_background_keeps_the_object(run):
    _, masks = render(make_scene(1, 1))
    workflow = load_workflow("change_background")
    images = {title: numbers(file) for title, file in run(workflow).items()}
    source, edited = images["Source"], images["Edited image"]
    changed = np.abs(edited - source)[outside(masks.numpy())].mean()
    print(f"background: {changed:.1f} of 255")
    assert changed > 8
    assert [best_words(found) for found in find(edited)] == [{"cross", "purple", "brick"}]


@pytest.mark.parametrize(
    ("name", "title", "inputs"),
    [
        ("infedit", "InfEdit", {"target_blend": "wolf"}),
        ("masactrl", "MasaCtrl", {"start_layer": 99}),
    ],
)
def test_bad_input_names_the_editors_node(name, title, inputs, run):
    workflow = load_workflow(name)
    workflow.fill(title, **inputs)
    with pytest.raises(NodeFailed) as caught:
        run(workflow)
    assert caught.value.error.title == title and f"{title}: " in str(caught.value)
    assert "Traceback" not in str(caught.value)
