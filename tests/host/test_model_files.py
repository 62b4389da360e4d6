"""Detector and segmenter files: lists, damaged files, files of another kind, nothing installed."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from ale_edit.host import grounding, model_files
from ale_edit.host.model_files import DETECTOR, NOTHING, SEGMENTER
from ale_edit.tests.tiny_grounding import tiny_original, tiny_sam


@pytest.fixture(autouse=True)
def models_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty models folder, instead of the one of this machine's ComfyUI."""
    kept = dict(folder_paths.folder_names_and_paths)
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    for kind in (DETECTOR, SEGMENTER):
        for name in kind.folders:
            folder_paths.folder_names_and_paths.pop(name, None)
            folder_paths.filename_list_cache.pop(name, None)
            (tmp_path / "models" / name).mkdir(parents=True)
    yield tmp_path / "models"
    folder_paths.folder_names_and_paths.clear()
    folder_paths.folder_names_and_paths.update(kept)
    folder_paths.filename_list_cache.clear()


def refresh() -> None:
    """As when the page is reloaded."""
    folder_paths.filename_list_cache.clear()


def test_without_files_the_list_says_so_and_loading_names_files_folders_and_where_they_are() -> (
    None
):
    assert model_files.listed(DETECTOR) == [NOTHING] == model_files.listed(SEGMENTER)
    with pytest.raises(ValueError, match="GroundingDINO Loader: no file was found in ") as error:
        grounding.load_detector(NOTHING)
    for part in ("grounding-dino", "groundingdino_swint_ogc.pth", "github.com/IDEA-Research"):
        assert part in str(error.value)
    with pytest.raises(ValueError, match="SAM Loader: no file was found in ") as error:
        grounding.load_segmenter(NOTHING, "auto")
    for part in (
        f"{os.sep}sams",
        f"{os.sep}sam2",
        "sam_vit_h_4b8939.pth",
        "huggingface.co/facebook",
    ):
        assert part in str(error.value)


def test_files_and_published_folders_are_listed_and_other_files_are_not(models_dir: Path) -> None:
    home = models_dir / "grounding-dino"
    (home / "groundingdino_swint_ogc.pth").write_bytes(b"")
    (home / "GroundingDINO_SwinT_OGC.cfg.py").write_bytes(b"")
    for name, kind in {"grounding-dino-base": "grounding-dino", "bert": "bert"}.items():
        (home / name).mkdir()
        (home / name / "config.json").write_text(json.dumps({"model_type": kind}))
        (home / name / "model.safetensors").write_bytes(b"")
    assert model_files.listed(DETECTOR) == ["grounding-dino-base/", "groundingdino_swint_ogc.pth"]


def test_folders_of_extra_model_paths_are_searched_too(models_dir: Path, tmp_path: Path) -> None:
    """extra_model_paths.yaml is read by ComfyUI before the nodes are."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "sam_vit_b_01ec64.pth").write_bytes(b"")
    folder_paths.add_model_folder_path("sams", str(tmp_path / "elsewhere"))
    assert model_files.listed(SEGMENTER) == ["sam_vit_b_01ec64.pth"]
    path = model_files.path_of(SEGMENTER, "sam_vit_b_01ec64.pth")
    assert path == tmp_path / "elsewhere" / "sam_vit_b_01ec64.pth"


def test_a_file_that_has_gone_is_named(models_dir: Path) -> None:
    with pytest.raises(ValueError, match='"gone.pth" is not there any more'):
        grounding.load_detector("gone.pth")


class Dangerous:
    """What unpickling would run."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("way", ["torch", "pickle"])
def test_code_in_a_file_is_never_run(models_dir: Path, tmp_path: Path, way: str) -> None:
    file, mark = models_dir / "grounding-dino" / "evil.pth", tmp_path / "was-run"
    given = {"model": {"module.feat_map.weight": Dangerous(mark)}}
    if way == "torch":
        torch.save(given, file)
    else:
        file.write_bytes(pickle.dumps(given))
    with pytest.raises(ValueError, match="evil.pth cannot be read .* code, which is never run"):
        grounding.load_detector("evil.pth")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors", "text.pth", "empty.pth"])
def test_a_damaged_file_is_refused_by_its_name(models_dir: Path, name: str) -> None:
    file = models_dir / "sams" / name
    if name == "cut.safetensors":
        save_file({"a": torch.zeros(100)}, file)
    elif name == "cut.pth":
        torch.save({"a": torch.zeros(100)}, file)
    else:
        file.write_bytes(b"" if name == "empty.pth" else b"<html>not found</html>")
    if name.startswith("cut"):
        file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ValueError, match=f"SAM Loader: the file .*{name} cannot be read"):
        grounding.load_segmenter(name, "auto")


@pytest.mark.parametrize(
    ("tensor", "what"),
    [
        ("model.diffusion_model.input_blocks.0.0.weight", "a Stable Diffusion checkpoint"),
        ("image_encoder.patch_embed.seq.0.c.weight", "a MobileSAM checkpoint"),
        ("image_encoder.trunk.patch_embed.proj.weight", "an original SAM 2 checkpoint"),
        ("module.transformer.encoder.fusion_layers.0.gamma_v", "a GroundingDINO checkpoint"),
        ("lora_unet_a.weight", "a LoRA"),
        ("foo.bar", "of an unknown kind"),
    ],
)
def test_a_file_of_another_kind_is_recognised(models_dir: Path, tensor: str, what: str) -> None:
    save_file({tensor: torch.zeros(2)}, models_dir / "sams" / "other.safetensors")
    with pytest.raises(ValueError, match=f"SAM Loader: other.safetensors is {what}"):
        grounding.load_segmenter("other.safetensors", "auto")


def test_a_folder_of_another_model_or_without_weights_is_refused(models_dir: Path) -> None:
    home = models_dir / "grounding-dino" / "mine"
    home.mkdir()
    (home / "config.json").write_text('{"model_type": "grounding-dino"}')
    with pytest.raises(ValueError, match="mine holds no model.safetensors"):
        grounding.load_detector("mine/")
    save_file({"a": torch.zeros(2)}, home / "model.safetensors")
    (home / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="is damaged or of another model .model_type 'bert'"):
        grounding.load_detector("mine/")


def test_an_incomplete_checkpoint_lists_what_is_missing(models_dir: Path) -> None:
    weights = tiny_original()
    del weights["module.transformer.enc_output.bias"]
    torch.save({"model": weights}, models_dir / "grounding-dino" / "tiny.pth")
    with pytest.raises(ValueError, match="GroundingDINO Loader: tiny.pth .* 1 missing .model.enc_"):
        grounding.load_detector("tiny.pth")


def test_checkpoints_as_published_load(models_dir: Path) -> None:
    pytest.importorskip("segment_anything", reason="the oracle: pip install segment-anything")
    torch.save({"model": tiny_original()}, models_dir / "grounding-dino" / "tiny.pth")
    torch.save(tiny_sam().state_dict(), models_dir / "sams" / "tiny.pth")
    image = torch.rand(40, 60, 3)
    found = grounding.load_detector("tiny.pth").detect(image, ("a cat", "dog"))
    assert found.scores.shape == (20, 2)
    masks = grounding.load_segmenter("tiny.pth", "fp32").segment(image, found.boxes[:2])
    assert masks.shape == (2, 40, 60) and masks.dtype == torch.bool
