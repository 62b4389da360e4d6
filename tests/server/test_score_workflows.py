"""Scores on a real server: numbers in the API's history, a small CLIP in ComfyUI's folders.

What random numbers say of a picture means nothing.
"""

import json
from urllib.request import urlopen

import pytest

from ale_edit.headless import NodeFailed
from ale_edit.tests.server.test_pack_in_comfyui import load_workflow
from ale_edit.tests.tiny_scores import clip_folder, squeezenet
from ale_edit.tests.workflows.graphs import MINI_CLIP

LOADER = "clip_similarity_loader"


@pytest.fixture
def history(with_client, server):
    """What the history of the API keeps of one node of a run, by its title."""

    def of(workflow, title):
        async def job(client):
            queued = await client.queue(workflow)
            async for _ in client.follow(queued):
                pass
            return queued.prompt_id

        number = with_client(job)
        with urlopen(f"{server.url}/history/{number}") as reply:
            return json.load(reply)[number]["outputs"][workflow.find(title)]

    return of


def test_preservation_is_in_the_history_as_text_and_json(history):
    workflow = load_workflow("preservation_score")
    workflow.fill("ALE Edit", steps=2)
    kept = history(workflow, "Preservation Score")
    (text,), (content,) = kept["text"], kept["json"]
    (entry,) = json.loads(content)["images"]
    assert 5 < entry["PSNR"] < 61 and f"PSNR {entry['PSNR']:.2f} dB" in text


def test_a_weight_file_put_in_place_is_used_though_nothing_else_changed(history, models):
    workflow = load_workflow("preservation_score")
    workflow.fill("ALE Edit", steps=2)
    assert "LPIPS is n/a" in history(workflow, "Preservation Score")["text"][0]
    backbone = squeezenet(models / "lpips" / "squeezenet1_1-test.pth")
    try:
        (entry,) = json.loads(history(workflow, "Preservation Score")["json"][0])["images"]
    finally:
        backbone.unlink()
    assert entry["LPIPS"] > 0


def test_leakage_by_a_folder_of_clip_is_in_the_history(history, models):
    clip_folder(models / "clip_vision" / "clip-vit-large-patch14")
    workflow = load_workflow(LOADER)
    workflow.fill("ALE Edit", steps=2)
    kept = history(workflow, "Leakage Score")
    content = json.loads(kept["json"][0])
    assert content["similarity"] == "CLIP (clip-vit-large-patch14)"
    assert len(content["images"][0]["pairs"]) == 2 and len(content["source"]) == 1
    assert kept["text"][0].startswith("Leakage (100 x cosine of CLIP (clip-vit-large-patch14)")


def test_a_folder_that_is_not_there_is_named_with_where_it_belongs(run):
    workflow = load_workflow(LOADER)
    workflow.fill("CLIP Similarity Loader", clip_name="gone/")
    with pytest.raises(NodeFailed, match='"gone/" was not found in .*clip_vision'):
        run(workflow)


@pytest.mark.skipif(not MINI_CLIP, reason="demo/weights has no clip.safetensors")
def test_a_demo_scene_needs_no_file(history):
    workflow = load_workflow("leakage_score")
    workflow.fill("ALE Edit", steps=2)
    assert "the demo world's mini CLIP" in history(workflow, "Leakage Score")["text"][0]
