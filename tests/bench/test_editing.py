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
    Job,
    Plan,
    ProgressLine,
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
from ale_edit.headless.tasks import Outcome
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
def job(dataset, tmp_path) -> Job:
    first = plan(dataset).jobs[0]
    return replace(first, path=tmp_path / "images" / "one.png")


def picture() -> bytes:
    return as_png(Image.effect_noise((32, 32), 90).convert("RGB"))


def test_every_edit_is_made_by_every_method_once(dataset):
    jobs = plan(dataset).jobs
    expected = {(m, e.id) for m in ("naive", "ale") for e in dataset.edits[:6]}
    assert {(j.method.name, j.edit.id) for j in jobs} == expected and len(jobs) == 12
    assert len({job.path for job in jobs}) == len({job.fingerprint for job in jobs}) == 12
    out = dataset.folder.parent
    assert all(j.path == out / "images" / j.method.name / f"{j.edit.id}.png" for j in jobs)


def test_methods_of_one_edit_stand_together_with_those_of_one_source_branch_side_by_side(dataset):
    jobs = Plan(dataset, dataset.edits[:2], (*COMPONENTS, CODE), dataset.folder.parent).jobs
    names = [job.method.name for job in jobs]
    assert names[:6] == names[6:] == ["naive", "ale", "ore", "ore-bb", "ore-rgb", "code"]


def test_a_workflow_holds_the_edits_phrases_masks_type_and_seed(dataset):
    for job in plan(dataset).jobs:
        workflow, pictures = job.prepare()
        inputs = {workflow.title(k): node["inputs"] for k, node in workflow.nodes.items()}
        assert inputs["Noise"]["noise_seed"] == job.edit.seed
        assert inputs["Self-attention"]["edit_type"] == job.edit.type
        assert pictures[inputs["Source image"]["image"]] == dataset.picture(job.edit.image)
        masks = dataset.masks(job.edit.image)
        for number, o in enumerate(job.edit.objects, 1):
            node = inputs[f"Edit {number}"]
            assert (node["source"], node["target"]) == (o.source, o.target)
            sent = pictures[inputs[f"Mask {number}"]["image"]]
            assert sent.convert("L") == masks[o.object]
        assert f"Edit {len(job.edit.objects) + 1}" not in inputs
        saving = [n["class_type"] for n in workflow.nodes.values() if "Save" in n["class_type"]]
        assert not saving


def test_a_spoiled_mask_is_what_the_method_is_given(dataset):
    method = all_methods()["box"]
    (job,) = Plan(dataset, dataset.edits[:1], (method,), dataset.folder.parent).jobs
    workflow, pictures = job.prepare()
    sent = pictures[workflow.inputs("Mask 1")["image"]]
    true = dataset.masks(job.edit.image)[job.edit.objects[0].object]
    assert sent.getbbox() == true.getbbox() and sent.convert("L") != true


EDITORS = ("infedit", "masactrl", "fpe", "pnp")
SAMPLING = ("steps", "strength", "source_guidance", "target_guidance")


def inputs_of(job: Job, title: str = "") -> dict:
    """The inputs of a node, by default the editor's."""
    workflow, _ = job.prepare()
    return workflow.inputs(title or all_methods()[job.method.editor].label)


@pytest.mark.parametrize("name", EDITORS)
def test_an_editor_gets_the_same_image_words_and_seed_as_ale_and_no_mask(dataset, name):
    edits, method = dataset.edits[:6], all_methods()[name]
    jobs = Plan(dataset, edits, (ALE, method), dataset.folder.parent).jobs
    assert [job.method.name for job in jobs] == ["ale", name] * 6
    for job in jobs[1::2]:
        workflow, pictures = job.prepare()
        assert list(pictures.values()) == [dataset.picture(job.edit.image)]
        assert list(pictures) == [workflow.inputs("Source image")["image"]]
        words = "\n".join(f"{o.source} -> {o.target}" for o in job.edit.objects)
        assert workflow.inputs("Edit List")["text"] == words
        assert inputs_of(job)["seed"] == job.edit.seed
        item = job.item("run")
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
    ale, other = Plan(dataset, dataset.edits[:1], methods, dataset.folder.parent, **options).jobs
    assert tuple(inputs_of(other)[setting] for setting in SAMPLING) == expected
    first, second = (job.prepare()[0].inputs("Model") for job in (ale, other))
    assert first == second
    workflow = ale.prepare()[0]
    assert workflow.inputs("Guider")["target_guidance"] == expected[-1]


def test_sdedit_keeps_its_own_strength_and_has_no_guidance_of_a_source(dataset):
    methods = (ALE, all_methods()["sdedit"])
    _, job = Plan(dataset, dataset.edits[:1], methods, dataset.folder.parent).jobs
    node = inputs_of(job)
    assert tuple(node[n] for n in ("steps", "strength", "target_guidance")) == (15, 0.6, 5.0)
    assert "source_guidance" not in node


def test_an_editor_without_ale_has_the_sampling_of_ale_too(dataset):
    method = all_methods()["masactrl"]
    (job,) = Plan(dataset, dataset.edits[:1], (method,), dataset.folder.parent).jobs
    assert tuple(inputs_of(job)[setting] for setting in SAMPLING) == (15, 1.0, 3.0, 5.0)


def test_the_papers_settings_stand_whatever_the_table_has(dataset):
    settings = {"Guider": {"target_guidance": 4}}
    method = all_methods()["masactrl-paper"]
    options = {"settings": settings, "checkpoint": "sd.ckpt"}
    methods = (ALE, method)
    _, job = Plan(dataset, dataset.edits[:1], methods, dataset.folder.parent, **options).jobs
    node = inputs_of(job)
    assert tuple(node[setting] for setting in SAMPLING) == (50, 1.0, 7.5, 7.5)


def test_a_setting_goes_to_the_methods_that_have_its_node_and_one_of_none_is_told(dataset):
    methods, out = (ALE, all_methods()["infedit"]), dataset.folder.parent
    settings = {"InfEdit": {"self_share": 0.75}, "Regions": {"dilation": 0.25}}
    ale, other = Plan(dataset, dataset.edits[:1], methods, out, settings=settings).jobs
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
    (job,) = Plan(dataset, [edit], methods, dataset.folder.parent).jobs
    workflow, _ = job.prepare()
    assert workflow.title(inputs_of(job)["edits"][0]) == "Full Prompts"
    assert workflow.inputs("Full Prompts")["target_prompt"] == "a box there"


@pytest.mark.parametrize("missing", ["ALERegionCrossAttention", "ALEInfEdit", "ALEMasaCtrl"])
def test_a_server_without_the_node_of_any_method_gets_no_work(dataset, missing):
    methods = (ALE, *(all_methods()[name] for name in EDITORS))
    jobs = Plan(dataset, dataset.edits[:1], methods, dataset.folder.parent).jobs
    server = FakeServer()
    del server.nodes[missing]

    async def whole() -> None:
        async with serving(server) as urls:
            with local_workers(urls) as workers:
                await asyncio.to_thread(
                    edit_all, jobs, workers, lambda *_: None, lambda _: None, patience_s=0
                )

    with pytest.raises(PackMissing, match=f"has no node {missing}"):
        asyncio.run(whole())
    assert not server.ran


def test_an_image_is_done_once_it_is_written(job):
    assert state_of(job) == "missing"
    write_result(job, picture(), VERSIONS)
    assert state_of(job) == "done"
    assert [p.name for p in job.path.parent.iterdir()] == ["one.png"]


def test_pixels_are_kept_as_they_came(job):
    data = picture()
    write_result(job, data, VERSIONS)
    assert read_result(job.path)[0].tobytes() == Image.open(io.BytesIO(data)).tobytes()


def test_an_image_says_on_which_versions_it_was_made(job):
    write_result(job, picture(), VERSIONS)
    assert read_versions(job.path) == "comfyui 0.3.75, pytorch 2.11.0"
    assert read_versions(job.path.with_name("none.png")) == ""


def test_sentences_go_through_full_prompts(dataset):
    edit = replace(dataset.edits[0], source_prompt="a ball on grass", target_prompt="a box there")
    (with_them,) = Plan(dataset, [edit], (ALE,), dataset.folder.parent).jobs
    (without,) = Plan(dataset, dataset.edits[:1], (ALE,), dataset.folder.parent).jobs
    assert with_them.fingerprint != without.fingerprint
    workflow, _ = with_them.prepare()
    node = workflow.nodes[workflow.inputs("Method")["edits"][0]]
    assert node["class_type"] == "ALEFullPrompts"
    assert workflow.title(node["inputs"].pop("edits")[0]) == f"Edit {len(edit.objects)}"
    assert node["inputs"] == {"source_prompt": "a ball on grass", "target_prompt": "a box there"}
    assert "ALEFullPrompts" not in without.prepare()[0].classes()


def test_an_item_can_be_pickled_and_holds_its_pictures(dataset):
    job = plan(dataset).jobs[0]
    item = pickle.loads(pickle.dumps(job.item("run")))
    workflow, pictures = job.prepare()
    assert (item.name, item.nodes) == (job.name, workflow.nodes)
    for name, data in item.pictures.items():
        assert Image.open(io.BytesIO(data)).tobytes() == pictures[name].tobytes()


@pytest.mark.parametrize("part", [0.2, 0.5, 0.8, 0.97])
def test_a_changed_byte_anywhere_is_found_and_told(job, part):
    write_result(job, picture(), VERSIONS)
    data = bytearray(job.path.read_bytes())
    data[int(len(data) * part)] ^= 0x10
    job.path.write_bytes(data)
    told: list[str] = []
    assert find_pending([job], told.append) == [job]
    assert told == [f"{job.path} is damaged: it is made again."]


@pytest.mark.parametrize("length", [0, 30, 400])
def test_a_cut_off_file_is_found(job, length):
    write_result(job, picture(), VERSIONS)
    job.path.write_bytes(job.path.read_bytes()[:length])
    assert state_of(job) == "damaged"


def test_what_was_made_from_something_else_is_made_again_and_told(dataset, job):
    write_result(job, picture(), VERSIONS)
    other = plan(dataset, context="other weights").jobs[0]
    other = replace(other, path=job.path)
    told: list[str] = []
    assert find_pending([other], told.append) == [other]
    assert (
        "is made from something else (other prompts, pictures, settings, weights or version): it"
        in told[0]
    )


def test_settings_are_part_of_the_fingerprint_and_of_the_workflow(dataset, job):
    other = plan(dataset, settings={"Guider": {"target_guidance": 4}}).jobs[0]
    assert other.fingerprint != job.fingerprint
    assert other.prepare()[0].inputs("Guider")["target_guidance"] == 4
    with pytest.raises(ValueError, match="'Guider' .* has no input 'guidance'"):
        plan(dataset, settings={"Guider": {"guidance": 4}})


def test_an_image_depends_on_the_weights_of_its_method_alone(dataset, tmp_path, monkeypatch):
    methods = (ALE, all_methods()["lcm-8"])
    before = [job.fingerprint for job in Plan(dataset, dataset.edits[:1], methods, tmp_path).jobs]
    other = SimpleNamespace(weights_key=lambda part: f"other {part}")
    monkeypatch.setattr("ale_edit.bench.editing.own_model", lambda: other)
    after = [job.fingerprint for job in Plan(dataset, dataset.edits[:1], methods, tmp_path).jobs]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False]


def test_a_full_disk_leaves_no_half_of_an_image(job, monkeypatch):
    def full(_number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_result(job, picture(), VERSIONS)
    assert state_of(job) == "missing" and not list(job.path.parent.iterdir())


def test_progress_says_how_many_and_how_long(job):
    lines: list[str] = []
    progress = ProgressLine(4, True, lambda text, **_: lines.append(text))
    progress(job, Outcome(made=2, seconds=5.0))
    assert lines[0].strip() == "2/4 images, 2.50 s each, 0:00:05 left"


def test_a_file_that_is_no_picture_is_damaged(job):
    job.path.parent.mkdir(parents=True)
    job.path.write_text("not a picture")
    with pytest.raises(ValueError, match="one.png is damaged .* Run the bench again"):
        read_result(job.path)
