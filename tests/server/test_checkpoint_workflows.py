"""The workflows for a checkpoint with LCM-LoRA, on files of random numbers in SD 1.5's layout."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from ale_edit.bench.main_job import upload
from ale_edit.headless import Workflow, WorkflowRejected
from ale_edit.tests.checkpoint import write_checkpoint, write_lora
from ale_edit.tests.server.test_pack_in_comfyui import load_workflow, pixels
from ale_edit.tests.workflows.graphs import NEED_CHECKPOINT, NEED_DETECTOR, NEED_PAINT

SIDE = 128
BOXES = ((16, 16, 56, 56), (72, 64, 112, 112))
PAINTED = ("Image, object 1 painted", "Same image, object 2 painted")
MARGIN = 12  # over dilation and feather

COMPARISON = "compare_editors_own"
ALONE = [name for name in NEED_CHECKPOINT if name not in NEED_DETECTOR]
every_one = pytest.mark.parametrize("name", ALONE)
every_edit = pytest.mark.parametrize("name", [name for name in ALONE if name != COMPARISON])


@pytest.fixture(scope="module")
def files(models) -> None:
    write_checkpoint(models / "checkpoints" / "v1-5-pruned-emaonly-fp16.safetensors")
    write_lora(models / "loras" / "lcm-lora-sdv1-5.safetensors")


def photograph() -> Image.Image:
    draws = np.random.default_rng(0)
    coarse = Image.fromarray(draws.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def mask(box: tuple[int, int, int, int]) -> Image.Image:
    picture = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(picture).rectangle(box, fill=255)
    return picture


def painted(box: tuple[int, int, int, int]) -> bytes:
    """The photograph as the mask editor saves it: transparent where the object was painted."""
    picture = photograph()
    picture.putalpha(Image.eval(mask(box), lambda value: 255 - value))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def prepared(with_client):
    """A workflow of this name in few steps, its images and masks uploaded."""

    def prepare(name: str) -> Workflow:
        workflow = load_workflow(name)

        async def job(client) -> None:
            if name in NEED_PAINT:
                for title, box in zip(PAINTED, BOXES, strict=True):
                    file = await client.upload_image(painted(box), f"{title}.png")
                    workflow.fill(title, image=file)
                return
            workflow.fill("Source image", image=await upload(client, photograph()))
            for number, box in enumerate(BOXES, 1):
                workflow.fill(f"Mask {number}", image=await upload(client, mask(box)))

        with_client(job)
        for node in workflow.nodes.values():
            if "steps" in node["inputs"]:
                node["inputs"]["steps"] = 2
        return workflow

    return prepare


@every_one
def test_without_the_files_comfyui_names_what_is_missing(name, prepared, run, models):
    workflow = prepared(name)
    workflow.fill("Load Checkpoint", ckpt_name="no such checkpoint.safetensors")
    workflow.fill("LCM-LoRA", lora_name="no such lora.safetensors")
    with pytest.raises(WorkflowRejected) as caught:
        run(workflow)
    named = {(error.title, error.input_name) for error in caught.value.errors}
    assert named == {("Load Checkpoint", "ckpt_name"), ("LCM-LoRA", "lora_name")}


@pytest.mark.slow
@every_edit
def test_objects_change_and_the_background_stays(name, files, prepared, run, server):
    source = np.asarray(photograph())
    edited = pixels(run(prepared(name))["Edited image"])
    assert edited.shape == source.shape
    outside = np.ones((SIDE, SIDE), dtype=bool)
    for left, top, right, bottom in BOXES:
        inside = (slice(top, bottom), slice(left, right))
        assert np.abs(edited[inside].astype(int) - source[inside]).mean() > 3
        outside[top - MARGIN : bottom + MARGIN, left - MARGIN : right + MARGIN] = False
    assert (edited[outside] == source[outside]).all()
    assert "lora key not loaded" not in server.log.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_lora_reaches_the_edit(files, prepared, run):
    workflow = prepared("ale_edit_lcm_lora")
    without = workflow.copy()
    without.fill("LCM-LoRA", strength_model=0.0)
    first, second = (pixels(run(w)["Edited image"]) for w in (workflow, without))
    assert (first != second).any()


@pytest.mark.slow
@pytest.mark.ci
def test_every_editor_edits_the_picture_and_stands_on_the_sheet(files, prepared, run):
    workflow = prepared(COMPARISON)
    workflow.fill("All editors", cell_height=SIDE)
    sheet = pixels(run(workflow)["Edited images"])
    gap = (sheet.shape[1] - 5 * SIDE) // 6
    row_height = (sheet.shape[0] - gap) // 2
    corners = [(gap + row_height * (i // 5), gap + (SIDE + gap) * (i % 5)) for i in range(9)]
    source, *edited = (sheet[y : y + SIDE, x : x + SIDE].astype(int) for y, x in corners)
    assert (source == np.asarray(photograph())).all()
    for j, image in enumerate(edited):
        assert np.abs(image - source).mean() > 1
        assert not any((image == other).all() for other in edited[:j])
