"""Edit lists of their own: what they ask, and that their scores see what was done and what was
not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.bench.dataset import Dataset, ImageEdit
from ale_edit.bench.demo_tasks import OBJECTS, task_dataset
from ale_edit.bench.editing import Plan, write_result
from ale_edit.bench.main_job import to_tensor
from ale_edit.bench.methods import CPAM, CPAM_BACKGROUND, CPAM_REMOVE
from ale_edit.bench.metric import Views
from ale_edit.bench.report import OF_TASKS
from ale_edit.bench.scoring_pass import metrics_for
from ale_edit.bench.tables import TABLES, folders_of, main
from ale_edit.bench.task_scores import is_gone, score_background
from ale_edit.demo.finder import FoundObject
from ale_edit.demo.render import render
from ale_edit.demo.scenes import make_scene
from ale_edit.demo.world import BACKGROUNDS
from ale_edit.headless.pictures import as_png

SCENES = 3
METHODS = {"removal": CPAM_REMOVE, "mixed": CPAM, "background": CPAM_BACKGROUND}
every_task = pytest.mark.parametrize("task", OBJECTS)


@pytest.fixture(scope="module")
def lists(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    folder = tmp_path_factory.mktemp("lists")
    return {task: task_dataset(folder / task, task, scenes=SCENES) for task in OBJECTS}


def views(dataset: Dataset, edit: ImageEdit, edited: Tensor | None = None) -> Views:
    source = to_tensor(dataset.picture(edit.image))
    masks = torch.stack([to_tensor(mask) for mask in dataset.masks(edit.image)])
    return Views(source, source if edited is None else edited, masks)


def score(dataset: Dataset, edit: ImageEdit, seen: Views) -> dict[str, list[float]]:
    metrics = metrics_for(dataset).ready
    return {n: v for m in metrics for n, v in m.values(dataset, edit, seen).items()}


def without(seed: int, objects: int, *numbers: int) -> Tensor:
    """A scene without some of its objects."""
    scene = make_scene(seed, objects)
    left = tuple(o for number, o in enumerate(scene.objects) if number not in numbers)
    return render(replace(scene, objects=left))[0]


@every_task
def test_a_list_has_one_edit_of_each_scene_and_can_be_read_again(lists, task: str) -> None:
    dataset = lists[task]
    assert [e.image for e in dataset.edits] == [f"scene{seed}" for seed in range(SCENES)]
    assert all(len(dataset.images[e.image].objects) == OBJECTS[task] for e in dataset.edits)
    again = task_dataset(dataset.folder, task, scenes=SCENES)
    assert again == dataset and dataset.about["task"] == task


def test_an_object_is_removed_and_in_the_mixed_list_the_next_gets_a_new_colour(lists) -> None:
    for edit in lists["removal"].edits:
        (o,) = edit.objects
        assert o.source and not o.target and not o.asked
    for edit in lists["mixed"].edits:
        removed, changed = edit.objects
        image = lists["mixed"].images[edit.image]
        assert not removed.target and removed.number != changed.number
        assert changed.asked["color"] not in {o.attributes["color"] for o in image.objects}
        assert changed.target == "{color}-colored {object}".format(**changed.asked)


def test_the_background_becomes_another_and_the_objects_are_to_stay(lists) -> None:
    for seed, edit in enumerate(lists["background"].edits):
        assert edit.target_prompt in BACKGROUNDS
        assert edit.target_prompt != make_scene(seed, 2).background.kind
        image = lists["background"].images[edit.image]
        assert [o.asked for o in edit.objects] == [o.attributes for o in image.objects]


@every_task
def test_the_workflow_of_a_list_has_its_strategy_and_its_sides(lists, task: str) -> None:
    dataset = lists[task]
    tasks = Plan(dataset, dataset.edits[:1], METHODS[task], dataset.folder.parent).tasks
    assert len(tasks) == 2
    for one in tasks:
        workflow, _ = one.prepare()
        expected = {"removal": "remove", "mixed": "replace", "background": "background"}
        assert workflow.inputs("CPAM")["strategy"] == expected[task]
        for number, o in enumerate(one.edit.objects, 1):
            found = workflow.inputs(f"Edit {number}")
            assert (found["source"], found["target"]) == (o.source, o.target)


def test_an_object_that_is_gone_is_seen_and_one_that_stays_is_seen_too(lists) -> None:
    dataset = lists["removal"]
    for seed, edit in enumerate(dataset.edits):
        number = edit.objects[0].number
        done = score(dataset, edit, views(dataset, edit, without(seed, 3, number)))
        assert done["gone"] == [1.0] and done["others kept"] == [1.0, 1.0]
        assert done["gone of the source"] == [0.0]
        undone = score(dataset, edit, views(dataset, edit))
        assert undone["gone"] == [0.0]
        other = (number + 1) % 3
        wrong = score(dataset, edit, views(dataset, edit, without(seed, 3, number, other)))
        assert wrong["gone"] == [1.0] and sum(wrong["others kept"]) <= 1.0


def test_a_rest_of_the_object_is_not_gone_and_a_neighbour_that_touches_it_is_another() -> None:
    mask = torch.zeros(40, 40)
    mask[10:30, 10:30] = 1

    def patch(rows: slice, columns: slice) -> Any:
        found = torch.zeros(40, 40, dtype=torch.bool)
        found[rows, columns] = True
        return FoundObject(found, torch.zeros(4), {})

    assert is_gone([], mask)
    assert is_gone([patch(slice(0, 10), slice(0, 40))], mask)
    assert is_gone([patch(slice(0, 11), slice(0, 40))], mask)  # its rim touches
    assert not is_gone([patch(slice(8, 12), slice(12, 16))], mask)  # a small rest
    assert not is_gone([patch(slice(0, 20), slice(0, 40))], mask)  # covers half of it


def test_scores_that_say_nothing_of_a_task_are_left_out(lists) -> None:
    names = {task: {m.name for m in metrics_for(lists[task]).ready} for task in OBJECTS}
    assert names["removal"] == {"background", "removal"}
    assert {"judge", "removal", "background"} <= names["mixed"]
    assert names["background"] <= {"judge", "new background"} and "judge" in names["background"]
    assert not metrics_for(lists["background"]).missing.keys() & {"lpips", "structure", "leakage"}


def test_a_removed_object_is_not_asked_for_anything_by_the_judge(lists) -> None:
    dataset = lists["mixed"]
    edit = dataset.edits[0]
    found = score(dataset, edit, views(dataset, edit))
    assert len(found["all"]) == len(found["wrong, untouched"]) == 1
    assert found["wrong, edited"] == []


def test_a_background_is_that_whose_words_fit_best(lists) -> None:
    dataset = lists["background"]
    edit = dataset.edits[0]
    place = BACKGROUNDS.index(edit.target_prompt)
    phrases = " and ".join(o.phrase for o in dataset.images[edit.image].objects)

    def cosines(images: Tensor, texts: list[str]) -> Tensor:
        assert texts == [f"{phrases} in the {word}" for word in BACKGROUNDS]
        row = torch.full((len(images), len(texts)), -0.5)
        row[:, place] = float(images.mean())
        return row

    bright, dark = torch.full((128, 128, 3), 0.5), torch.full((128, 128, 3), -1.0)
    found = score_background(cosines, dataset, edit, replace(views(dataset, edit, bright)))
    assert found["CLIP, background"] == [50.0] and found["background"] == [1.0]
    seen = Views(bright, dark, torch.ones(2, 128, 128))
    found = score_background(cosines, dataset, edit, seen)
    assert found["CLIP, background"] == [0.0] and found["background"] == [0.0]
    assert found["background of the source"] == [1.0]


COLUMNS = {
    "removal": ("object gone ↑", "other objects kept ↑", "PSNR (dB) ↑"),
    "mixed": ("TE ↓", "all asked ↑", "object gone ↑", "other objects kept ↑", "PSNR (dB) ↑"),
    "background": ("all asked ↑", "CLIP, new background ↑", "shows the new background ↑"),
}


@every_task
def test_a_table_of_a_task_shows_its_scores_and_leaves_the_legend_of_all_tables_alone(
    task: str, tmp_path: Path
) -> None:
    """Of images that are the sources themselves."""
    dataset = task_dataset(tmp_path / task / "dataset", task)
    for one in Plan(dataset, dataset.edits[:2], METHODS[task], tmp_path / task).tasks:
        write_result(one, as_png(dataset.picture(one.edit.image)), {})
    text = tmp_path / "results.md"
    marks = [f"<!-- table {name} -->\nold\n<!-- end {name} -->" for name in (task, "legend")]
    text.write_text("\n".join(marks), encoding="utf-8")
    argv = ["--only", task, "--edits", "2", "--score-only", "--out", str(tmp_path)]
    assert main([*argv, "--write", str(text)]) == 0
    written, legend = text.read_text(encoding="utf-8").split("<!-- table legend -->")
    assert all(column in written for column in COLUMNS[task]) and legend.startswith("\nold\n")
    assert ("TE ↓" in written) == (task == "mixed")
    assert OF_TASKS[task].split(" is ")[0] in written and "scene seeds 0 to 29" in written
    assert (tmp_path / "tables" / f"{task}.html").is_file()


def test_a_table_of_a_task_has_a_folder_of_its_own() -> None:
    of_tasks = [table for table in TABLES if table.task]
    assert {table.task for table in of_tasks} == set(OBJECTS)
    for table in of_tasks:
        assert folders_of([table], Path("out")) == [Path("out") / table.task]
    both = folders_of([of_tasks[0], TABLES[0]], Path("out"))
    assert both == [Path("out") / of_tasks[0].task, Path("out") / "demo"]
