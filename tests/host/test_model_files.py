"""Detector and segmenter files: lists, damaged files, files of another kind, nothing installed."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from ale_edit.headless import schema
from ale_edit.host import model_files
from ale_edit.host.model_files import DETECTOR, NOTHING, SEGMENTER
from ale_edit.host.segmenting import grounding
from ale_edit.regions import sam
from ale_edit.tests.regions.test_sam import tiny_sam2
from ale_edit.tests.tiny import empty_models
from ale_edit.tests.tiny_grounding import tiny_original, tiny_sam


@pytest.fixture(autouse=True)
def models_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return empty_models(tmp_path / "models", (*DETECTOR.folders, *SEGMENTER.folders), monkeypatch)


def test_clients_know_the_entry_of_an_empty_list():
    assert schema.NOTHING == NOTHING


def refresh() -> None:
    """As when the page is reloaded."""
    folder_paths.filename_list_cache.clear()


def test_without_files_the_list_says_so_and_loading_names_files_folders_and_where_they_are() -> (
    None
):
    assert model_files.list_files(DETECTOR) == [NOTHING] == model_files.list_files(SEGMENTER)
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
    assert model_files.list_files(DETECTOR) == [
        "grounding-dino-base/",
        "groundingdino_swint_ogc.pth",
    ]


def test_published_folders_are_listed_where_another_pack_lists_weight_files_alone(
    models_dir: Path,
) -> None:
    """As the Impact Pack makes the list of models/sams."""
    home = models_dir / "sams"
    folder_paths.folder_names_and_paths["sams"] = (
        [str(home)],
        folder_paths.supported_pt_extensions,
    )
    (home / "sam-vit-base").mkdir()
    (home / "sam-vit-base" / "config.json").write_text('{"model_type": "sam"}')
    (home / "sam-vit-base" / "model.safetensors").write_bytes(b"")
    assert model_files.list_files(SEGMENTER) == ["sam-vit-base/"]
    assert model_files.path_of(SEGMENTER, "sam-vit-base/") == home / "sam-vit-base"


def test_folders_of_extra_model_paths_are_searched_too(models_dir: Path, tmp_path: Path) -> None:
    """extra_model_paths.yaml is read by ComfyUI before the nodes are."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "sam_vit_b_01ec64.pth").write_bytes(b"")
    folder_paths.add_model_folder_path("sams", str(tmp_path / "elsewhere"))
    assert model_files.list_files(SEGMENTER) == ["sam_vit_b_01ec64.pth"]
    path = model_files.path_of(SEGMENTER, "sam_vit_b_01ec64.pth")
    assert path == tmp_path / "elsewhere" / "sam_vit_b_01ec64.pth"


def test_a_file_that_has_gone_is_named(models_dir: Path) -> None:
    with pytest.raises(ValueError, match='"gone.pth" was not found'):
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


def without(weights: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name: tensor for name, tensor in weights.items() if not name.startswith(prefix)}


SIZES = ((), (3,), (0, 0, 0, 0), (5, 5), (2, 3, 5, 7))


@pytest.mark.parametrize(
    "prefix", ["module.backbone.", "module.bert.", "module.transformer.encoder.layers"]
)
def test_a_detector_without_a_whole_part_is_refused(models_dir: Path, prefix: str) -> None:
    torch.save(without(tiny_original(), prefix), models_dir / "grounding-dino" / "tiny.pth")
    with pytest.raises(ValueError, match="GroundingDINO Loader: tiny.pth does not hold the tensor"):
        grounding.load_detector("tiny.pth")


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize(
    "name",
    [
        "backbone.0.layers.0.blocks.0.attn.relative_position_bias_table",
        "backbone.0.patch_embed.proj.weight",
        "bert.embeddings.word_embeddings.weight",
        "transformer.level_embed",
        "transformer.encoder.layers.0.self_attn.attention_weights.weight",
    ],
)
def test_a_detector_of_impossible_sizes_is_refused(
    models_dir: Path, name: str, shape: tuple[int, ...]
) -> None:
    weights = {**tiny_original(), f"module.{name}": torch.zeros(shape)}
    torch.save(weights, models_dir / "grounding-dino" / "tiny.pth")
    with pytest.raises(ValueError, match="GroundingDINO Loader: tiny.pth does not hold the tensor"):
        grounding.load_detector("tiny.pth")


@pytest.mark.parametrize("prefix", ["image_encoder.blocks.", "mask_decoder.transformer."])
def test_a_segmenter_without_a_whole_part_is_refused(models_dir: Path, prefix: str) -> None:
    pytest.importorskip("segment_anything", reason="the oracle: pip install segment-anything")
    torch.save(without(tiny_sam().state_dict(), prefix), models_dir / "sams" / "tiny.pth")
    with pytest.raises(ValueError, match="SAM Loader: tiny.pth does not hold the tensors of its"):
        grounding.load_segmenter("tiny.pth", "fp32")


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize(
    "name",
    [
        "image_encoder.patch_embed.proj.weight",
        "image_encoder.pos_embed",
        "image_encoder.blocks.0.attn.rel_pos_h",
        "mask_decoder.iou_token.weight",
    ],
)
def test_a_segmenter_of_impossible_sizes_is_refused(
    models_dir: Path, name: str, shape: tuple[int, ...]
) -> None:
    pytest.importorskip("segment_anything", reason="the oracle: pip install segment-anything")
    weights = {**tiny_sam().state_dict(), name: torch.zeros(shape)}
    torch.save(weights, models_dir / "sams" / "tiny.pth")
    with pytest.raises(ValueError, match="SAM Loader: tiny.pth does not hold the tensors of its"):
        grounding.load_segmenter("tiny.pth", "fp32")


@pytest.mark.parametrize(
    "config",
    [
        {"d_model": "x"},
        {"backbone_config": 7},
        {"encoder_layers": -1},
        {"text_config": {"model_type": "nonsense"}},
        {"backbone_config": {"model_type": "swin", "embed_dim": 0}},
    ],
)
def test_a_folder_with_a_damaged_config_is_refused(models_dir: Path, config: dict) -> None:
    home = models_dir / "grounding-dino" / "mine"
    home.mkdir()
    (home / "config.json").write_text(json.dumps({"model_type": "grounding-dino", **config}))
    save_file({"a": torch.zeros(2)}, home / "model.safetensors")
    with pytest.raises(ValueError, match="GroundingDINO Loader: mine/ does not hold the tensors"):
        grounding.load_detector("mine/")


def test_a_folder_with_a_damaged_tokenizer_is_refused_by_its_name(models_dir: Path) -> None:
    home = models_dir / "grounding-dino" / "mine"
    home.mkdir()
    (home / "config.json").write_text('{"model_type": "grounding-dino"}')
    save_file({"a": torch.zeros(2)}, home / "model.safetensors")
    (home / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="GroundingDINO Loader: .*tokenizer.json cannot be read"):
        grounding.load_detector("mine/")


def test_a_published_sam2_folder_loads_without_its_parts_for_video(models_dir: Path) -> None:
    """transformers' own model for video, saved by itself: what facebook/sam2.1-hiera-large is."""
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "Sam2VideoModel"):
        pytest.skip("SAM 2 needs transformers 4.56")
    image_only = tiny_sam2().config
    config = transformers.Sam2VideoConfig(
        vision_config=image_only.vision_config,
        prompt_encoder_config=image_only.prompt_encoder_config.to_dict(),
        mask_decoder_config=image_only.mask_decoder_config.to_dict(),
        image_size=128,
        memory_attention_hidden_size=64,
        memory_attention_feed_forward_hidden_size=64,
        memory_attention_num_layers=1,
        memory_encoder_hidden_size=64,
        memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=64,
        memory_fuser_embed_dim=64,
        memory_fuser_intermediate_dim=64,
        enable_occlusion_spatial_embedding=True,
        enable_temporal_pos_encoding_for_object_pointers=True,
    )
    model = transformers.Sam2VideoModel(config)
    parts = {name.split(".")[0] for name in model.state_dict()}
    assert "temporal_positional_encoding_projection_layer" in parts
    model.save_pretrained(models_dir / "sam2" / "sam2.1-tiny")
    assert model_files.list_files(SEGMENTER) == ["sam2.1-tiny/"]
    ours = grounding.load_segmenter("sam2.1-tiny/", "fp32")
    boxes = torch.tensor([[1.0, 1.0, 20.0, 20.0]])
    assert ours.segment(torch.rand(40, 60, 3), boxes).shape == (1, 40, 60)
    kept = ours._patcher.model.network.state_dict()
    assert kept and all(torch.equal(kept[name], model.state_dict()[name]) for name in kept)


def test_without_sam2_in_transformers_the_error_says_so(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_old(*_: Any) -> Any:
        raise ImportError("cannot import name 'Sam2Config' from 'transformers'")

    home = models_dir / "sam2" / "mine"
    home.mkdir()
    (home / "config.json").write_text('{"model_type": "sam2"}')
    save_file({"a": torch.zeros(2)}, home / "model.safetensors")
    monkeypatch.setattr(sam, "load_folder", too_old)
    with pytest.raises(ValueError, match="SAM Loader: the installed transformers cannot load this"):
        grounding.load_segmenter("mine/", "auto")
