"""The workflows that find objects by words, with small files of random numbers in the published
layouts: the whole chain runs on a real server. What random numbers find means nothing."""

import io

import pytest
import torch
from PIL import Image

from ale_edit.bench.main_job import upload
from ale_edit.headless import NodeFailed
from ale_edit.tests.checkpoint import write_checkpoint, write_lora
from ale_edit.tests.server.test_checkpoint_workflows import SIDE, photograph
from ale_edit.tests.server.test_pack_in_comfyui import load_workflow
from ale_edit.tests.tiny_grounding import tiny_original, tiny_sam
from ale_edit.tests.workflows.graphs import NEED_CHECKPOINT, NEED_DETECTOR, read_api

every_one = pytest.mark.parametrize("name", NEED_DETECTOR)


def write_models(models):
    """The files that the workflows name, in the folders of extra_model_paths.yaml."""
    pytest.importorskip("segment_anything", reason="the oracle: pip install segment-anything")
    for folder in ("grounding-dino", "sams"):
        (models / folder).mkdir(exist_ok=True)
    detector = models / "grounding-dino" / "groundingdino_swint_ogc.pth"
    torch.save({"model": tiny_original()}, detector)
    torch.save(tiny_sam().state_dict(), models / "sams" / "sam_vit_b_01ec64.pth")


@pytest.fixture
def prepared(with_client):
    """A workflow of this name with an image, and thresholds that any box passes; of one edit, as
    random masks of two may coincide."""

    def prepare(name: str):
        workflow = load_workflow(name)

        async def job(client) -> None:
            workflow.fill("Source image", image=await upload(client, photograph()))

        with_client(job)
        workflow.fill("Edit List", text="wolf -> brown-colored goat")
        workflow.fill(
            "Grounded-SAM Masks",
            box_threshold=0.0,
            text_threshold=0.0,
            instances="best",
            missing="whole image",
        )
        if name in NEED_CHECKPOINT:
            workflow.fill("ALE Edit", steps=2)
        return workflow

    return prepare


@pytest.mark.parametrize(
    ("name", "loader", "input_name"),
    [
        ("grounding_dino_loader", "GroundingDINO Loader", "detector_name"),
        ("text_to_regions", "GroundingDINO Loader", "detector_name"),
        ("text_to_regions", "SAM Loader", "sam_name"),
    ],
)
def test_without_a_file_the_error_says_where_it_belongs(
    name, loader, input_name, prepared, run, models
):
    write_models(models)
    workflow = prepared(name)
    workflow.fill(loader, **{input_name: "not there.pth"})
    with pytest.raises(NodeFailed, match=f'{loader}: "not there.pth" was not found in '):
        run(workflow)


@pytest.mark.slow
@every_one
def test_the_chain_from_words_to_regions_runs(name, prepared, run, models):
    write_models(models)
    if name in NEED_CHECKPOINT:
        write_checkpoint(models / "checkpoints" / "v1-5-pruned-emaonly-fp16.safetensors")
        write_lora(models / "loras" / "lcm-lora-sdv1-5.safetensors")
    images = run(prepared(name))
    shown = {"Edited image", "Where the objects are", "Regions", "Object masks", "Background mask"}
    assert set(images) >= shown & titles(name) and shown & titles(name)
    for title in ("Edited image", "Object masks", "Background mask"):
        if title in images:
            assert Image.open(io.BytesIO(images[title])).size == (SIDE, SIDE)


def titles(name: str) -> set[str]:
    return {node["_meta"]["title"] for node in read_api(name).values()}
