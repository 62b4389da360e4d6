"""Preservation Score: what the background and the structure kept."""

from __future__ import annotations

import json
import logging
from math import isnan
from pathlib import Path
from typing import Any
from weakref import ref

import comfy.model_management as mm
import pytest
import torch
from torch import Tensor

from ale_edit.host.model_files import DINO, LPIPS
from ale_edit.host.scoring import networks
from ale_edit.host.scoring import scores as host_scores
from ale_edit.host.segmenting.grounding import manage
from ale_edit.scoring import structure
from ale_edit.scoring.lpips import background_lpips, pie_bench_lpips
from ale_edit.scoring.lpips_network import LpipsNetwork
from ale_edit.scoring.preservation import background_scores, pie_bench_scores
from ale_edit.scoring.structure import load_dino, structure_distance
from ale_edit.tests.nodes.graph import TEXT, nodes, one, picture
from ale_edit.tests.nodes.scores import HALVES, background, keep, regions
from ale_edit.tests.tiny_scores import DINO_WIDTH, published_vit, squeezenet, transformers_vit

pytestmark = pytest.mark.usefixtures("models_dir")


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
    heads = networks.heads_file(models_dir / "lpips" / "squeezenet1_1-test.pth")
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
    heads = networks.heads_file(backbone)
    assert heads is not None and node.fingerprint_inputs() != nothing
    monkeypatch.setattr(networks, "find_spec", lambda _name: None)  # no package has the heads
    alone = node.fingerprint_inputs()
    assert isnan(keep()[3])
    (models_dir / "lpips" / "squeeze.pth").write_bytes(heads.read_bytes())
    assert node.fingerprint_inputs() not in (nothing, alone)
    assert keep()[3] > 0
    assert node.fingerprint_inputs() == node.fingerprint_inputs()


def test_heads_beside_the_backbone_come_first(models_dir: Path) -> None:
    backbone = models_dir / "lpips" / "squeezenet1_1-test.pth"
    assert networks.heads_file(backbone) != models_dir / "lpips" / "squeeze.pth"
    (models_dir / "lpips" / "squeeze.pth").write_bytes(b"")
    assert networks.heads_file(backbone) == models_dir / "lpips" / "squeeze.pth"


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
    made = []

    def noted(*parts: Any) -> Any:
        patcher = manage(*parts)
        made.append(ref(patcher.model))
        return patcher

    monkeypatch.setattr(networks, "manage", noted)
    *_, lpips, distance, _, _ = keep()
    assert lpips > 0 and distance > 0
    assert len(made) == 2 and [network() for network in made] == [None, None]


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
