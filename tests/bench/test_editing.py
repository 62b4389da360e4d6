"""What is to be made, and made again: fingerprints, damage, order. The server's part is in
tests/server/test_bench.py."""

import asyncio
import io
import pickle
from dataclasses import replace
from types import SimpleNamespace

import pytest
from PIL import Image

from ale_edit.bench.demo_scenes import demo_dataset
from ale_edit.bench.editing import (
    BenchTask,
    Plan,
    edit_all,
    find_pending,
    read_result,
    read_versions,
    state_of,
    write_result,
)
from ale_edit.bench.methods import ALE, CODE, COMPONENTS, NAIVE, all_methods
from ale_edit.headless import PackMissing
from ale_edit.headless.pictures import as_png
from ale_edit.headless.workers import local_workers
from ale_edit.tests.headless.fake_server import FakeServer, serving

VERSIONS = {"comfyui": "0.3.75", "pytorch": "2.11.0"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("bench") / "demo" / "dataset"
    return demo_dataset(folder, scenes=2, instances=1)


def plan(dataset, **options) -> Plan:
    return Plan(dataset, dataset.edits[:6], (NAIVE, ALE), dataset.folder.parent, **options)


@pytest.fixture
def task(dataset, tmp_path) -> BenchTask:
    first = plan(dataset).tasks[0]
    return replace(first, path=tmp_path / "images" / "one.png")


def picture() -> bytes:
    return as_png(Image.effect_noise((32, 32), 90).convert("RGB"))


def test_every_edit_is_made_by_every_method_once(dataset):
    tasks = plan(dataset).tasks
    expected = {(m, e.name) for m in ("naive", "ale") for e in dataset.edits[:6]}
    assert {(j.method.name, j.edit.name) for j in tasks} == expected and len(tasks) == 12
    assert len({task.path for task in tasks}) == len({task.fingerprint for task in tasks}) == 12
    out = dataset.folder.parent
    assert all(j.path == out / "images" / j.method.name / f"{j.edit.name}.png" for j in tasks)


def test_methods_of_one_edit_stand_together_with_those_of_one_source_branch_side_by_side(dataset):
    tasks = Plan(dataset, dataset.edits[:2], (*COMPONENTS, CODE), dataset.folder.parent).tasks
    names = [task.method.name for task in tasks]
    assert names[:6] == names[6:] == ["naive", "ale", "ore", "ore-bb", "ore-rgb", "code"]


def test_a_workflow_holds_the_edits_phrases_masks_type_and_seed(dataset):
    for task in plan(dataset).tasks:
        workflow, pictures = task.prepare()
        inputs = {workflow.title(k): node["inputs"] for k, node in workflow.nodes.items()}
        assert inputs["Noise"]["noise_seed"] == task.edit.seed
        assert inputs["Self-attention"]["edit_type"] == task.edit.edit_type
        assert pictures[inputs["Source image"]["image"]] == dataset.picture(task.edit.image)
        masks = dataset.masks(task.edit.image)
        for number, o in enumerate(task.edit.objects, 1):
            node = inputs[f"Edit {number}"]
            assert (node["source"], node["target"]) == (o.source, o.target)
            sent = pictures[inputs[f"Mask {number}"]["image"]]
            assert sent.convert("L") == masks[o.number]
        assert f"Edit {len(task.edit.objects) + 1}" not in inputs
        saving = [n["class_type"] for n in workflow.nodes.values() if "Save" in n["class_type"]]
        assert not saving


def with_object(edit, **sides):
    return replace(edit, objects=(replace(edit.objects[0], **sides),))


@pytest.mark.parametrize("sides", [{"target": ""}, {"source": ""}])
def test_an_edit_list_may_add_and_remove_by_methods_that_can(dataset, sides):
    edit = with_object(dataset.edits[0], **sides)
    (task,) = Plan(dataset, [edit], [all_methods()["cpam"]], dataset.folder.parent).tasks
    found = task.prepare()[0].inputs("Edit 1")
    assert (found["source"], found["target"]) == (edit.objects[0].source, edit.objects[0].target)
    for name in ("ale", "naive", "masactrl"):
        with pytest.raises(ValueError, match="an object, which the editor .* cannot do. Use"):
            Plan(dataset, [edit], [all_methods()[name]], dataset.folder.parent)


def test_a_spoiled_mask_is_what_the_method_is_given(dataset):
    method = all_methods()["box"]
    (task,) = Plan(dataset, dataset.edits[:1], (method,), dataset.folder.parent).tasks
    workflow, pictures = task.prepare()
    sent = pictures[workflow.inputs("Mask 1")["image"]]
    true = dataset.masks(task.edit.image)[task.edit.objects[0].number]
    assert sent.getbbox() == true.getbbox() and sent.convert("L") != true


EDITORS = ("infedit", "masactrl", "fpe", "pnp")
SAMPLING = ("steps", "strength", "source_guidance", "target_guidance")


def inputs_of(task: BenchTask, title: str = "") -> dict:
    """The inputs of a node, by default the editor's."""
    workflow, _ = task.prepare()
    return workflow.inputs(title or all_methods()[task.method.editor].label)


@pytest.mark.parametrize("name", EDITORS)
def test_an_editor_gets_the_same_image_words_and_seed_as_ale_and_no_mask(dataset, name):
    edits, method = dataset.edits[:6], all_methods()[name]
    tasks = Plan(dataset, edits, (ALE, method), dataset.folder.parent).tasks
    assert [task.method.name for task in tasks] == ["ale", name] * 6
    for task in tasks[1::2]:
        workflow, pictures = task.prepare()
        assert list(pictures.values()) == [dataset.picture(task.edit.image)]
        assert list(pictures) == [workflow.inputs("Source image")["image"]]
        words = "\n".join(f"{o.source} -> {o.target}" for o in task.edit.objects)
        assert workflow.inputs("Edit List")["text"] == words
        assert inputs_of(task)["seed"] == task.edit.seed
        item = task.item("run")
        titles = {workflow.title(k): n["class_type"] for k, n in item.nodes.items()}
        assert titles[item.result] == "PreviewImage" and list(item.pictures) == list(pictures)
        assert "SaveImage" not in workflow.classes()


@pytest.mark.parametrize("name", EDITORS)
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (15, 1.0, 3.0, 5.0)),
        ({"checkpoint": "sd.ckpt"}, (15, 1.0, 1.0, 2.0)),
        ({"settings": {"Guider": {"target_guidance": 4}, "Schedule": {"steps": 8}}}, (8, 1, 3, 4)),
    ],
)
def test_an_editor_has_the_model_steps_and_guidance_of_ale(dataset, name, options, expected):
    methods = (ALE, all_methods()[name])
    ale, other = Plan(dataset, dataset.edits[:1], methods, dataset.folder.parent, **options).tasks
    assert tuple(inputs_of(other)[setting] for setting in SAMPLING) == expected
    first, second = (task.prepare()[0].inputs("Model") for task in (ale, other))
    assert first == second
    workflow = ale.prepare()[0]
    assert workflow.inputs("Guider")["target_guidance"] == expected[-1]


def test_sdedit_keeps_its_own_strength_and_has_no_guidance_of_a_source(dataset):
    methods = (ALE, all_methods()["sdedit"])
    _, job = Plan(dataset, dataset.edits[:1], methods, dataset.folder.parent).tasks
    node = inputs_of(job)
    assert tuple(node[n] for n in ("steps", "strength", "target_guidance")) == (15, 0.6, 5.0)
    assert "source_guidance" not in node


def test_an_editor_without_ale_has_the_sampling_of_ale_too(dataset):
    method = all_methods()["masactrl"]
    (task,) = Plan(dataset, dataset.edits[:1], (method,), dataset.folder.parent).tasks
    assert tuple(inputs_of(task)[setting] for setting in SAMPLING) == (15, 1.0, 3.0, 5.0)


def test_the_papers_settings_stand_whatever_the_table_has(dataset):
    settings = {"Guider": {"target_guidance": 4}}
    method = all_methods()["masactrl-paper"]
    options = {"settings": settings, "checkpoint": "sd.ckpt"}
    methods = (ALE, method)
    _, task = Plan(dataset, dataset.edits[:1], methods, dataset.folder.parent, **options).tasks
    node = inputs_of(task)
    assert tuple(node[setting] for setting in SAMPLING) == (50, 1.0, 7.5, 7.5)


def test_a_setting_goes_to_the_methods_that_have_its_node_and_one_of_none_is_told(dataset):
    methods, out = (ALE, all_methods()["infedit"]), dataset.folder.parent
    settings = {"InfEdit": {"self_share": 0.75}, "Regions": {"dilation": 0.25}}
    ale, other = Plan(dataset, dataset.edits[:1], methods, out, settings=settings).tasks
    assert inputs_of(other)["self_share"] == 0.75
    assert inputs_of(ale, "Regions")["dilation"] == 0.25
    with pytest.raises(ValueError, match="no node titled 'MasaCtrl'. It has: Blending"):
        Plan(dataset, dataset.edits[:1], methods, out, settings={"MasaCtrl": {"steps": 1}})
    with pytest.raises(ValueError, match="'InfEdit' in infedit.json has no input 'share'"):
        Plan(dataset, dataset.edits[:1], methods, out, settings={"InfEdit": {"share": 1}})


@pytest.mark.parametrize("name", EDITORS)
def test_sentences_reach_an_editor(dataset, name):
    edit = replace(dataset.edits[0], source_prompt="a ball on grass", target_prompt="a box there")
    methods = (all_methods()[name],)
    (task,) = Plan(dataset, [edit], methods, dataset.folder.parent).tasks
    workflow, _ = task.prepare()
    assert workflow.title(inputs_of(task)["edits"][0]) == "Full Prompts"
    assert workflow.inputs("Full Prompts")["target_prompt"] == "a box there"


@pytest.mark.parametrize("missing", ["ALERegionCrossAttention", "ALEInfEdit", "ALEMasaCtrl"])
def test_a_server_without_the_node_of_any_method_gets_no_work(dataset, missing):
    methods = (ALE, *(all_methods()[name] for name in EDITORS))
    tasks = Plan(dataset, dataset.edits[:1], methods, dataset.folder.parent).tasks
    server = FakeServer()
    del server.nodes[missing]

    async def whole() -> None:
        async with serving(server) as urls:
            with local_workers(urls) as workers:
                await asyncio.to_thread(
                    edit_all, tasks, workers, lambda *_: None, lambda _: None, patience_s=0
                )

    with pytest.raises(PackMissing, match=f"has no node {missing}"):
        asyncio.run(whole())
    assert not server.ran


def test_an_image_is_done_once_it_is_written(task):
    assert state_of(task) == "missing"
    write_result(task, picture(), VERSIONS)
    assert state_of(task) == "done"
    assert [p.name for p in task.path.parent.iterdir()] == ["one.png"]


def test_pixels_are_kept_as_they_came(task):
    data = picture()
    write_result(task, data, VERSIONS)
    assert read_result(task.path)[0].tobytes() == Image.open(io.BytesIO(data)).tobytes()


def test_an_image_says_on_which_versions_it_was_made(task):
    write_result(task, picture(), VERSIONS)
    assert read_versions(task.path) == "comfyui 0.3.75, pytorch 2.11.0"
    assert read_versions(task.path.with_name("none.png")) == ""


def test_sentences_go_through_full_prompts(dataset):
    edit = replace(dataset.edits[0], source_prompt="a ball on grass", target_prompt="a box there")
    (with_them,) = Plan(dataset, [edit], (ALE,), dataset.folder.parent).tasks
    (without,) = Plan(dataset, dataset.edits[:1], (ALE,), dataset.folder.parent).tasks
    assert with_them.fingerprint != without.fingerprint
    workflow, _ = with_them.prepare()
    node = workflow.nodes[workflow.inputs("Method")["edits"][0]]
    assert node["class_type"] == "ALEFullPrompts"
    assert workflow.title(node["inputs"].pop("edits")[0]) == f"Edit {len(edit.objects)}"
    assert node["inputs"] == {"source_prompt": "a ball on grass", "target_prompt": "a box there"}
    assert "ALEFullPrompts" not in without.prepare()[0].classes()


def test_an_item_can_be_pickled_and_holds_its_pictures(dataset):
    task = plan(dataset).tasks[0]
    item = pickle.loads(pickle.dumps(task.item("run")))
    workflow, pictures = task.prepare()
    assert (item.name, item.nodes) == (task.name, workflow.nodes)
    for name, data in item.pictures.items():
        assert Image.open(io.BytesIO(data)).tobytes() == pictures[name].tobytes()


@pytest.mark.parametrize("part", [0.2, 0.5, 0.8, 0.97])
def test_a_changed_byte_anywhere_is_found_and_told(task, part):
    write_result(task, picture(), VERSIONS)
    data = bytearray(task.path.read_bytes())
    data[int(len(data) * part)] ^= 0x10
    task.path.write_bytes(data)
    told: list[str] = []
    assert find_pending([task], told.append) == [task]
    assert told == [f"{task.path} is damaged: it will be made again."]


@pytest.mark.parametrize("length", [0, 30, 400])
def test_a_cut_off_file_is_found(task, length):
    write_result(task, picture(), VERSIONS)
    task.path.write_bytes(task.path.read_bytes()[:length])
    assert state_of(task) == "damaged"


def test_what_was_made_from_something_else_is_made_again_and_told(dataset, task):
    write_result(task, picture(), VERSIONS)
    other = plan(dataset, context="other weights").tasks[0]
    other = replace(other, path=task.path)
    told: list[str] = []
    assert find_pending([other], told.append) == [other]
    assert (
        "was made from something else (other prompts, pictures, settings, weights or version): it"
        in told[0]
    )


def test_settings_are_part_of_the_fingerprint_and_of_the_workflow(dataset, task):
    other = plan(dataset, settings={"Guider": {"target_guidance": 4}}).tasks[0]
    assert other.fingerprint != task.fingerprint
    assert other.prepare()[0].inputs("Guider")["target_guidance"] == 4
    with pytest.raises(ValueError, match="'Guider' .* has no input 'guidance'"):
        plan(dataset, settings={"Guider": {"guidance": 4}})


def test_an_image_depends_on_the_weights_of_its_method_alone(dataset, tmp_path, monkeypatch):
    methods = (ALE, all_methods()["lcm-8"])
    before = [
        task.fingerprint for task in Plan(dataset, dataset.edits[:1], methods, tmp_path).tasks
    ]
    other = SimpleNamespace(weights_key=lambda part: f"other {part}")
    monkeypatch.setattr("ale_edit.bench.editing.own_model", lambda: other)
    after = [task.fingerprint for task in Plan(dataset, dataset.edits[:1], methods, tmp_path).tasks]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False]


def test_a_full_disk_leaves_no_half_of_an_image(task, monkeypatch):
    def full(_number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_result(task, picture(), VERSIONS)
    assert state_of(task) == "missing" and not list(task.path.parent.iterdir())


def test_a_file_that_is_no_picture_is_damaged(task):
    task.path.parent.mkdir(parents=True)
    task.path.write_text("not a picture")
    with pytest.raises(ValueError, match="one.png is damaged .* Run the bench again"):
        read_result(task.path)
