"""What is to be made, and made again: fingerprints, damage, order. The server's part is in
tests/server/test_bench.py."""

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
    made_on,
    pending,
    read_result,
    state_of,
    write_result,
)
from ale_edit.bench.methods import ALE, CODE, COMPONENTS, NAIVE, all_methods
from ale_edit.headless.pictures import as_png
from ale_edit.headless.spreading import Outcome

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
    assert made_on(job.path) == "comfyui 0.3.75, pytorch 2.11.0"
    assert made_on(job.path.with_name("none.png")) == ""


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
    assert pending([job], told.append) == [job]
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
    assert pending([other], told.append) == [other]
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
