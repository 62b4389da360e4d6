"""Demo Scene and Demo Model Loader as nodes."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from comfy_execution.utils import CurrentNodeContext

from ale_edit.demo.weights import FOLDER, PARTS
from ale_edit.tests.nodes.graph import one, run


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_scene_fits_edit_list_and_regions(count: int) -> None:
    image, masks, text, description = run("ALEDemoScene", seed=3, objects=count)
    assert image.shape == (1, 128, 128, 3) and masks.shape == (count, 128, 128)
    edits = one("ALEEditList", text=text)
    made = json.loads(description)["objects"]
    assert list(edits.sources) == [f"{o['color']}-colored {o['shape']}" for o in made]
    regions = one("ALERegions", edits=edits, masks=masks, image=image)
    assert regions.names == edits.sources and len(regions.names) == count


def test_a_suggested_colour_is_new_to_the_scene() -> None:
    _, _, text, description = run("ALEDemoScene", seed=5, objects=3)
    present = {made["color"] for made in json.loads(description)["objects"]}
    targets = one("ALEEditList", text=text).targets
    assert not {target.split("-colored")[0] for target in targets} & present


def test_the_same_seed_is_the_same_scene_and_another_seed_another() -> None:
    first, again, other = (run("ALEDemoScene", seed=seed)[0] for seed in (7, 7, 8))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_words_that_the_demo_model_was_never_taught_are_named(caplog, monkeypatch) -> None:
    told = []
    server = SimpleNamespace(
        PromptServer=SimpleNamespace(
            instance=SimpleNamespace(
                send_progress_text=lambda text, node: told.append((node, text)),
                send_sync=lambda event, data: None,
            )
        )
    )
    monkeypatch.setitem(sys.modules, "server", server)
    _, clip, _ = run("ALEDemoModelLoader")
    with CurrentNodeContext("job", "7"):
        edits = one("ALEEditList", text="red box -> gold box\nstar -> turquoise star made of wool")
        run("ALEObjectRestrictedEmbeddings", clip=clip.clone(), edits=edits)
        known = one("ALEEditList", text="box -> blue-colored star made of wool")
        run("ALEObjectRestrictedEmbeddings", clip=clip, edits=known)
    [(node, text)] = told
    assert node == "7" and "never taught gold, turquoise;" in text
    assert text in caplog.messages


@pytest.mark.skipif(
    not all((FOLDER / f"{part}.safetensors").is_file() for part in PARTS),
    reason="demo/weights is not complete; python dev.py train-demo makes it",
)
def test_the_demo_model_is_a_model_a_clip_and_a_vae() -> None:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE

    kinds = [type(made) for made in run("ALEDemoModelLoader")]
    assert kinds == [ModelPatcher, CLIP, VAE]
