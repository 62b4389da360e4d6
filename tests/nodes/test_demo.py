"""Demo Scene and Demo Model Loader as nodes, and the demo world's similarity model."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import pytest
import torch
from comfy_execution.utils import CurrentNodeContext

from ale_edit.demo.render import render
from ale_edit.demo.scenes import make_scene
from ale_edit.demo.weights import FOLDER, PARTS, TABLE
from ale_edit.host.scoring.similarity import choose_similarity
from ale_edit.nodes.demo import MINI_CLIP
from ale_edit.tests.nodes.graph import one, run

HAS_MINI_CLIP = "clip.safetensors" in json.loads((FOLDER / TABLE).read_text(encoding="utf-8"))


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
    assert node == "7" and "does not know gold, turquoise and cannot" in text
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


# -- the similarity model --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "texts",
    [
        ["red-colored ball", "moon made of wool"],
        ["(box:1.2)"],
        ["((yellow-colored:1.5) star:0.5)", "embedding:foo star"],
    ],
)
def test_scenes_and_words_of_the_demo_have_the_demos_similarity(texts: list[str]) -> None:
    assert choose_similarity(None, texts, (128, 128), "N").name == MINI_CLIP


@pytest.mark.parametrize(
    ("texts", "size", "why"),
    [
        (["red ball", "brown goat"], (128, 128), '"brown" is not a word of the demo world'),
        (["(turquoise:1.5) star"], (128, 128), '"turquoise" is not a word of the demo world'),
        (["red ball"], (512, 768), "the picture is 512x768"),
    ],
)
def test_anything_else_needs_a_model_and_says_why(
    texts: list[str], size: tuple[int, int], why: str
) -> None:
    with pytest.raises(ValueError) as error:
        choose_similarity(None, texts, size, "Leakage Score")
    said = str(error.value)
    for part in (why, "the similarity input", "CLIP Similarity Loader", "text_encoders"):
        assert part in said
    assert "huggingface.co/openai/clip-vit-large-patch14" in said and said.startswith("Leakage S")


@pytest.mark.skipif(not HAS_MINI_CLIP, reason="demo/weights has no clip.safetensors")
def test_the_demos_own_tells_colours_of_a_scene_apart() -> None:
    scene = make_scene(0, 1)
    image, _ = render(scene)
    (made,) = scene.objects
    other = next(c for c in ("red", "blue") if c != made.color)
    texts = [f"{color}-colored {made.shape}" for color in (made.color, other)]
    model = choose_similarity(None, texts, (128, 128), "N")
    found = model.cosines(image[None], texts)[0]
    assert found[0] > found[1]
