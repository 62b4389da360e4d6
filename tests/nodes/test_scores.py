"""Leakage Score, Preservation Score and Compare as nodes."""

from __future__ import annotations

import json
import logging
import sys
from math import isnan
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import ref

import comfy.model_management as mm
import pytest
import torch
from comfy_execution.utils import CurrentNodeContext
from PIL import Image
from torch import Tensor

from ale_edit.host.model_files import DINO, LPIPS
from ale_edit.host.scoring import scores as host_scores
from ale_edit.host.segmenting.grounding import managed
from ale_edit.nodes import demo
from ale_edit.scoring import structure
from ale_edit.scoring.leakage import leakage
from ale_edit.scoring.lpips import background_lpips, pie_bench_lpips
from ale_edit.scoring.lpips_network import LpipsNetwork
from ale_edit.scoring.preservation import background_scores, pie_bench_scores
from ale_edit.scoring.similarity import Similarity
from ale_edit.scoring.structure import load_dino, structure_distance
from ale_edit.tests.nodes.graph import TEXT, edits_with_masks, nodes, one, picture, run
from ale_edit.tests.nodes.test_demo import HAS_MINI_CLIP
from ale_edit.tests.nodes.test_help_pages import page
from ale_edit.tests.tiny import empty_models, two_boxes
from ale_edit.tests.tiny_scores import DINO_WIDTH, published_vit, squeezenet, transformers_vit

TARGETS = ["brown-colored goat", "soccer ball"]


def mean_colors(images: Tensor, texts: list[str]) -> Tensor:
    """Cosines that depend on every pixel and on every word."""
    weights = torch.tensor([[len(t) % 5 + 1.0, len(t) % 3 + 1.0, 1.0] for t in texts])
    return torch.nn.functional.cosine_similarity(
        images.mean((1, 2))[:, None] + 1e-3, weights[None], dim=-1
    )


HALVES = torch.stack([torch.ones(64, 64).tril(), 1 - torch.ones(64, 64).tril()])
MODEL = Similarity("mean colours", mean_colors)


@pytest.fixture(autouse=True)
def models_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    names = ("lpips", "dino", "text_encoders", "clip_vision")
    return empty_models(tmp_path / "models", names, monkeypatch)


def regions(**inputs: Any) -> Any:
    return one("ALERegions", **{"edits": edits_with_masks(), **inputs})


def leak(**inputs: Any) -> tuple[Any, ...]:
    usual = {"image": picture(), "regions": regions(), "edits": edits_with_masks()}
    return run("ALELeakageScore", **{**usual, "similarity": MODEL, **inputs})


def keep(**inputs: Any) -> tuple[Any, ...]:
    usual = {"image": picture(seed=5), "source": picture(), "regions": regions()}
    return run("ALEPreservationScore", **{**usual, **inputs})


def compare(images: Any, labels: str = "", **inputs: Any) -> tuple[Any, ...]:
    usual: dict[str, Any] = {"columns": [0], "cell_height": [128]}
    return run("ALECompare", images=images, labels=[labels], **{**usual, **inputs})


# -- Leakage Score ---------------------------------------------------------------------------------


def test_te_and_ti_are_those_of_the_raw_masks() -> None:
    """Whatever the dilation is."""
    masks = torch.stack(two_boxes(64, 64))
    expected = leakage(mean_colors, picture()[0], masks, TARGETS)
    for dilation in (0.0, 0.1):
        te, ti, *_ = leak(regions=regions(dilation=dilation))
        assert (te, ti) == (expected.te, expected.ti) and te != ti


def test_the_sources_own_scores_stand_beside_those_of_the_edit() -> None:
    _, _, te, ti, text, made = leak(image=picture(seed=5), source=picture())
    alone = leak(image=picture())
    assert (te, ti) == alone[:2]
    assert "source: TE" in text and json.loads(made)["source"][0]["TE"] == te
    without = leak()
    assert isnan(without[2]) and isnan(without[3]) and json.loads(without[5])["source"] == []


def test_of_a_batch_each_picture_is_scored_and_the_mean_given_out() -> None:
    te, ti, _, _, text, made = leak(image=picture(3))
    singles = [leak(image=picture(seed=11 + j)) for j in range(3)]
    assert te == pytest.approx(sum(s[0] for s in singles) / 3)
    assert ti == pytest.approx(sum(s[1] for s in singles) / 3)
    entries = json.loads(made)["images"]
    assert [e["TE"] for e in entries] == pytest.approx([s[0] for s in singles])
    assert "edited 3: TE" in text


def test_one_object_has_te_and_no_ti() -> None:
    edits = one("ALEEditObject", source="wolf", target="goat", mask=two_boxes(64, 64)[0])
    te, ti, _, _, text, made = leak(edits=edits, regions=one("ALERegions", edits=edits))
    assert isnan(ti) and not isnan(te)
    assert "TI n/a" in text and "one object has no other" in text
    assert json.loads(made)["images"][0]["TI"] is None


def test_masks_of_everything_leave_no_te() -> None:
    edits = one("ALEEditList", text=TEXT)
    everywhere = one("ALERegions", edits=edits, masks=HALVES)
    te, ti, _, _, text, _ = leak(edits=edits, regions=everywhere)
    assert isnan(te) and not isnan(ti) and "the masks leave no background" in text


def test_the_whole_prompt_is_the_full_prompt_where_there_is_one() -> None:
    edits = one(
        "ALEFullPrompts",
        edits=edits_with_masks(),
        source_prompt="",
        target_prompt="a brown-colored goat under a soccer ball",
    )
    prompts = [json.loads(leak(edits=e)[5])["prompt"] for e in (edits, edits_with_masks())]
    assert prompts == ["a brown-colored goat under a soccer ball", " and ".join(TARGETS)]


def test_a_doubt_of_the_model_is_in_the_report() -> None:
    doubted = Similarity("two halves", mean_colors, "They hardly belong together.")
    *_, text, made = leak(similarity=doubted)
    assert text.endswith("They hardly belong together.")
    assert json.loads(made)["notes"] == ["They hardly belong together."]


def test_an_edit_that_the_vae_cropped_is_scored_with_its_source_and_masks_cropped_alike() -> None:
    source = picture(height=67, width=69)
    edits = edits_with_masks(67, 69)
    cropped = source[:, 1:65, 2:66]
    found = leak(image=cropped, source=source, edits=edits, regions=one("ALERegions", edits=edits))
    assert found[:2] == found[2:4]
    psnr = keep(image=cropped, source=source, regions=one("ALERegions", edits=edits))[0]
    assert psnr == pytest.approx(60.17, abs=0.01)


def test_smaller_masks_are_resized_and_that_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        leak(image=picture(height=128, width=128))
    assert "Leakage Score: the masks are 64x64 and were resized to 128x128" in caplog.text


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_of_grey_pictures_and_alpha_channels_the_colours_count(channels: int) -> None:
    image = torch.rand(1, 64, 64, channels)
    colors = image[..., :3] if channels > 1 else image.expand(-1, -1, -1, 3)
    assert leak(image=image)[:2] == leak(image=colors)[:2]


@pytest.mark.skipif(not HAS_MINI_CLIP, reason="demo/weights has no clip.safetensors")
def test_a_demo_scene_is_scored_without_any_download() -> None:
    image, masks, text, _ = run("ALEDemoScene", seed=0, objects=2)
    edits = one("ALEEditList", text=text)
    made = one("ALERegions", edits=edits, masks=masks, image=image)
    te, ti, *_, report, _ = leak(image=image, regions=made, edits=edits, similarity=None)
    assert 0 <= te <= 100 and 0 <= ti <= 100 and "the demo world's mini CLIP" in report


def test_of_a_demo_scene_the_demos_model_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "mini_clip", lambda: SimpleNamespace(similarity=mean_colors))
    image, masks, text, _ = run("ALEDemoScene", seed=0, objects=2)
    edits = one("ALEEditList", text=text)
    made = one("ALERegions", edits=edits, masks=masks)
    *_, report, _ = leak(image=image, regions=made, edits=edits, similarity=None)
    assert "the demo world's mini CLIP" in report


# -- Preservation Score ----------------------------------------------------------------------------


def background() -> Tensor:
    return 1 - torch.stack(two_boxes(64, 64)).amax(0)


def test_the_figures_are_those_of_the_raw_masks_in_both_ways() -> None:
    alone = background_scores(picture()[0], picture(seed=5)[0], background())
    black = pie_bench_scores(picture()[0], picture(seed=5)[0], background())
    psnr, mse, ssim, lpips, distance, text, made = keep(regions=regions(dilation=0.1))
    assert (psnr, mse, ssim) == (alone.psnr, alone.mse, alone.ssim)
    assert isnan(lpips) and isnan(distance)
    (entry,) = json.loads(made)["images"]
    assert entry["PIE-Bench"]["PSNR"] == black.psnr != psnr
    for kind in (LPIPS, DINO):
        assert kind.published in text
    assert "LPIPS is n/a: put" in text and "Structure distance is n/a: put" in text


def test_lpips_is_scored_where_its_files_are(models_dir: Path) -> None:
    squeezenet(models_dir / "lpips" / "squeezenet1_1-test.pth")
    source, edited = picture()[0], picture(seed=5)[0]
    *_, lpips, _, text, made = keep()
    weights = torch.load(models_dir / "lpips" / "squeezenet1_1-test.pth", weights_only=True)
    heads = host_scores.heads_file(models_dir / "lpips" / "squeezenet1_1-test.pth")
    network = LpipsNetwork.build(weights, torch.load(str(heads), "cpu", weights_only=True))
    parts = (network.features, network.heads, source, edited, background())
    assert lpips == pytest.approx(background_lpips(*parts), abs=1e-6) and lpips > 0
    (entry,) = json.loads(made)["images"]
    assert entry["PIE-Bench"]["LPIPS"] == pytest.approx(pie_bench_lpips(*parts), abs=1e-6)
    assert "LPIPS is n/a" not in text


def test_a_weight_file_that_comes_later_is_used_without_a_restart(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = nodes()["ALEPreservationScore"]
    nothing = node.fingerprint_inputs()
    backbone = squeezenet(models_dir / "lpips" / "squeezenet1_1-test.pth")
    heads = host_scores.heads_file(backbone)
    assert heads is not None and node.fingerprint_inputs() != nothing
    monkeypatch.setattr(host_scores, "find_spec", lambda _name: None)  # no package has the heads
    alone = node.fingerprint_inputs()
    assert isnan(keep()[3])
    (models_dir / "lpips" / "squeeze.pth").write_bytes(heads.read_bytes())
    assert node.fingerprint_inputs() not in (nothing, alone)
    assert keep()[3] > 0
    assert node.fingerprint_inputs() == node.fingerprint_inputs()


def test_heads_beside_the_backbone_come_first(models_dir: Path) -> None:
    backbone = models_dir / "lpips" / "squeezenet1_1-test.pth"
    assert host_scores.heads_file(backbone) != models_dir / "lpips" / "squeeze.pth"
    (models_dir / "lpips" / "squeeze.pth").write_bytes(b"")
    assert host_scores.heads_file(backbone) == models_dir / "lpips" / "squeeze.pth"


@pytest.fixture
def tiny_dino(models_dir: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """A DINO of another size than ViT-B/8, which the node takes as if it were that."""
    monkeypatch.setattr(structure, "VIT_B8", (8, DINO_WIDTH, 3))
    with torch.inference_mode(False):
        return published_vit(transformers_vit(), models_dir / "dino" / "dino-vitb8")


@pytest.mark.parametrize("scale", ["corrected", "as published"])
def test_the_structure_distance_is_scored_where_its_folder_is(
    tiny_dino: dict[str, Tensor], scale: Any
) -> None:
    source, edited = picture()[0], picture(seed=5)[0]
    *_, distance, text, made = keep(structure_input=scale)
    expected = structure_distance(load_dino(tiny_dino), source, edited, scale)
    assert distance == pytest.approx(expected, abs=1e-6) and distance > 1e-3
    assert f"The input of the structure distance is {scale}." in text
    assert json.loads(made)["images"][0]["structure distance"] == distance


def test_after_a_report_nothing_of_its_networks_is_kept(
    tiny_dino: dict[str, Tensor], models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DINO alone would take 330 MB of main memory as long as ComfyUI runs."""
    squeezenet(models_dir / "lpips" / "squeezenet1_1-test.pth")
    networks = []

    def noted(*parts: Any) -> Any:
        patcher = managed(*parts)
        networks.append(ref(patcher.model))
        return patcher

    monkeypatch.setattr(host_scores, "managed", noted)
    *_, lpips, distance, _, _ = keep()
    assert lpips > 0 and distance > 0
    assert len(networks) == 2 and [network() for network in networks] == [None, None]


def test_a_vit_of_another_size_is_left_out_and_said(
    models_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with torch.inference_mode(False):
        published_vit(transformers_vit(), models_dir / "dino" / "dino-vits16")
    with caplog.at_level(logging.WARNING):
        assert isnan(keep()[4])
    assert "is not DINO's ViT-B/8 and is left out" in caplog.text


def test_it_can_be_stopped_between_the_background_and_the_structure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def stopped_meanwhile(*parts: Tensor) -> Any:
        mm.interrupt_current_processing()
        return background_scores(*parts)

    monkeypatch.setattr(host_scores, "background_scores", stopped_meanwhile)
    with pytest.raises(mm.InterruptProcessingException):
        keep()


def test_without_background_every_figure_of_it_is_nan() -> None:
    edits = one("ALEEditList", text=TEXT)
    everywhere = one("ALERegions", edits=edits, masks=HALVES)
    *figures, _, text, made = keep(regions=everywhere)
    assert all(isnan(value) for value in figures)
    assert "The masks leave no background" in text and "NaN" not in made


# -- batches ---------------------------------------------------------------------------------------


def of_batch(masks: Tensor, images: int) -> Any:
    return one("ALERegions", edits=listed(), masks=masks, image=picture(images))


def listed() -> Any:
    return one("ALEEditList", text=TEXT)


def test_each_image_of_a_batch_is_scored_with_its_own_regions() -> None:
    boxes = torch.stack(two_boxes())
    each = [boxes, boxes.roll(9, dims=2), boxes.flip(1)]
    image, source = picture(3, seed=2), picture(3, seed=7)
    together = of_batch(torch.cat(each), 3)
    leaked = json.loads(leak(image=image, source=source, regions=together, edits=listed())[5])
    kept = json.loads(keep(image=image, source=source, regions=together)[6])
    for j, masks in enumerate(each):
        one_image = {"image": image[j : j + 1], "source": source[j : j + 1]}
        own = one("ALERegions", edits=listed(), masks=masks)
        alone = json.loads(leak(**one_image, regions=own, edits=listed())[5])
        assert leaked["images"][j] == alone["images"][0]
        assert leaked["source"][j] == alone["source"][0]
        assert kept["images"][j] == json.loads(keep(**one_image, regions=own)[6])["images"][0]


def test_a_source_for_all_images_is_scored_with_the_regions_of_each() -> None:
    boxes = torch.stack(two_boxes())
    together = of_batch(torch.cat([boxes, boxes.roll(9, dims=2)]), 2)
    made = leak(image=picture(2), source=picture(), regions=together, edits=listed())[5]
    first, second = json.loads(made)["source"]
    assert first != second


@pytest.mark.parametrize("score", ["leakage", "preservation"])
def test_regions_of_another_number_of_images_are_refused(score: str) -> None:
    regions = of_batch(torch.stack(two_boxes()).repeat(2, 1, 1), 2)
    name = {"leakage": "Leakage Score", "preservation": "Preservation Score"}[score]
    with pytest.raises(ValueError, match=f"^{name}: the regions are of 2 images, but here are 3"):
        if score == "leakage":
            leak(image=picture(3), regions=regions, edits=listed())
        else:
            keep(image=picture(3), source=picture(3), regions=regions)


# -- what the page and the history show ------------------------------------------------------------


def test_the_numbers_are_shown_on_the_node_and_kept_in_the_history(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = []
    server = SimpleNamespace(
        PromptServer=SimpleNamespace(
            instance=SimpleNamespace(
                send_progress_text=lambda text, node: told.append((node, text))
            )
        )
    )
    monkeypatch.setitem(sys.modules, "server", server)
    edits = edits_with_masks()
    with CurrentNodeContext("job", "7"):
        scored = nodes()["ALELeakageScore"].execute(picture(), regions(), edits, None, MODEL)
        kept = nodes()["ALEPreservationScore"].execute(picture(), picture(), regions(), "corrected")
    assert [node for node, _ in told] == ["7", "7"]
    for made, text, position in ((scored, told[0][1], 4), (kept, told[1][1], 5)):
        assert made.ui == {"text": (text,), "json": (made.args[position + 1],)}
        assert made.args[position] == text


@pytest.mark.parametrize("node_id", ["ALELeakageScore", "ALEPreservationScore", "ALECompare"])
def test_it_is_an_output_node(node_id: str) -> None:
    assert nodes()[node_id].GET_SCHEMA().is_output_node


# -- Compare ---------------------------------------------------------------------------------------


def test_batches_lists_and_earlier_comparisons_are_one_sheet() -> None:
    first, entries = compare([picture()], "source")
    sheet, all_entries = compare(
        [picture(2, seed=3), picture(height=32, width=96)], "naive\nALE\nwide", previous=[entries]
    )
    assert [e.label for e in all_entries] == ["source", "naive", "ALE", "wide"]
    assert sheet.shape[0] == 1 and sheet.shape[2] > 3 * first.shape[2]
    _, both = compare([picture()], "last", previous=[entries, all_entries])
    assert [e.label for e in both] == ["source", "source", "naive", "ALE", "wide", "last"]


def test_scores_of_both_nodes_stand_under_their_pictures() -> None:
    images = picture(2, seed=5)
    leaked, kept = leak(image=images)[5], keep(image=images)[6]
    _, entries = compare([images], "a", scores=[leaked], more_scores=[kept])
    for entry, leaks, keeps in zip(
        entries, json.loads(leaked)["images"], json.loads(kept)["images"], strict=True
    ):
        assert f"TE {leaks['TE']:.2f}" in entry.scores
        assert f"PSNR {keeps['PSNR']:.2f}" in entry.scores
    assert [e.label for e in entries] == ["a", ""]


def test_the_sheet_is_shown_on_the_node(temp_directory: Path) -> None:
    made = nodes()["ALECompare"].execute([picture()], ["a"], [0], [128])
    assert len(made.ui.as_dict()["images"]) == 1
    (file,) = temp_directory.glob("*.png")
    assert Image.open(file).size == (made.args[0].shape[2], made.args[0].shape[1])


# -- bad input -------------------------------------------------------------------------------------


def _damaged(folder: str, name: str, content: Any) -> Any:
    def cause(models: Path) -> None:
        squeezenet(models / "lpips" / "squeezenet1_1-test.pth")
        torch.save(content, models / folder / name)
        keep()

    return cause


NOT_FINITE = torch.full((1, 64, 64, 3), float("nan"))
SAID: dict[str, tuple[Any, str]] = {
    "not (images, height, width, channels)": (
        lambda _: leak(image=torch.zeros(64, 64, 3)),
        "ALELeakageScore",
    ),
    "holds numbers that are not finite": (lambda _: leak(image=NOT_FINITE), "ALELeakageScore"),
    "their shapes differ": (lambda _: leak(image=picture(width=128)), "ALELeakageScore"),
    "Connect the image that was encoded for this edit, at its size": (
        lambda _: keep(source=picture(height=32)),
        "ALEPreservationScore",
    ),
    "or as many as edited ones": (lambda _: keep(source=picture(3)), "ALEPreservationScore"),
    "Connect the same edits to Regions and to Leakage Score": (
        lambda _: leak(edits=one("ALEEditList", text="fox -> cat")),
        "ALELeakageScore",
    ),
    "the similarity input is not connected": (lambda _: leak(similarity=None), "ALELeakageScore"),
    "the structure_input input is": (
        lambda _: keep(structure_input="guess"),
        "ALEPreservationScore",
    ),
    "make no LPIPS": (
        _damaged("lpips", "squeeze.pth", {"a": torch.zeros(1)}),
        "ALEPreservationScore",
    ),
    "makes no DINO": (
        _damaged("dino", "dino_vitbase8_pretrain.pth", {"a": torch.zeros(1)}),
        "ALEPreservationScore",
    ),
    "lines, the images input": (lambda _: compare([picture()], "a\nb"), "ALECompare"),
    "it is no JSON of a score": (lambda _: compare([picture()], scores=["TE 16"]), "ALECompare"),
    "the scores input speaks of": (
        lambda _: compare([picture(2)], scores=[leak()[5]]),
        "ALECompare",
    ),
    "Set columns or cell_height to smaller numbers": (
        lambda _: compare([picture(5)], cell_height=[4096], columns=[5]),
        "ALECompare",
    ),
}
"""What is said, as the help pages quote it: what makes it be said, and the node of the page."""
LOADERS_SAY = (
    "no file was found in",
    "cannot be read as a file of tensors",
    "does not hold the tensors of its model",
    "is a single file, which holds one half of CLIP",
    "is missing (as in every SD 1.5 checkpoint) or the identity",
    "they belong to different CLIPs",
    "carries a LoRA",
    "is no image encoder of CLIP",
    "These two hardly belong together",
)
"""Proved in tests/host/test_similarity.py."""


@pytest.mark.parametrize("quote", SAID)
def test_bad_input_is_answered_in_a_sentence_that_the_help_page_explains(
    quote: str, models_dir: Path
) -> None:
    cause, node_id = SAID[quote]
    with pytest.raises(ValueError) as error:
        cause(models_dir)
    sentence = str(error.value)
    name = nodes()[node_id].GET_SCHEMA().display_name
    assert quote in sentence and sentence.startswith(f"{name}: ")
    assert sentence.endswith(".") and "\n" not in sentence
    assert f"`{quote}" in page(node_id) or quote in UNQUOTED


UNQUOTED = ("not (images, height, width, channels)", "the structure_input input is")
"""Said only when no widget or Load Image is behind the input."""


def test_a_picture_that_is_not_finite_is_refused_by_every_node() -> None:
    for ask in (
        lambda: leak(source=NOT_FINITE),
        lambda: keep(image=NOT_FINITE),
        lambda: compare([NOT_FINITE]),
    ):
        with pytest.raises(ValueError, match="holds numbers that are not finite"):
            ask()
