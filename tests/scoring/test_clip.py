"""CLIP's preparation of pictures and its vectors, against transformers' own and torchmetrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ale_edit.scoring import clip
from ale_edit.tests.tiny_scores import SIDE, clip_folder, transformers_clip

WORDS = [[49406, 736, 1579, 49407], [49406, 2368, 49407]]


def picture(height: int = 90, width: int = 70, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 7, 7, generator=draw)
    smooth = nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return smooth[0].movedim(0, -1).clamp(0, 1)


@pytest.mark.parametrize(
    ("height", "width"), [(90, 70), (61, 200), (56, 56), (40, 30), (333, 334), (56, 77)]
)
def test_a_picture_is_prepared_as_by_clips_image_processor(height: int, width: int) -> None:
    """That on Pillow, as for the published figures."""
    import numpy as np
    from PIL import Image
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    image = picture(height, width)
    eight_bits = (image * 255).round().byte().numpy()
    size: Any = {"shortest_edge": SIDE}
    crop: Any = {"height": SIDE, "width": SIDE}
    processor = CLIPImageProcessorPil(size=size, crop_size=crop, do_normalize=False)
    expected = processor(Image.fromarray(eight_bits), do_rescale=False, return_tensors="np")
    found = clip.crop(image[None], SIDE)[0].numpy()
    assert found.shape == (3, SIDE, SIDE)
    assert np.array_equal(found, expected["pixel_values"][0])


def test_vectors_are_transformers_own(tmp_path: Path) -> None:
    model = clip_folder(tmp_path)
    ours = clip.load_clip(str(tmp_path), load_file(tmp_path / "model.safetensors"))
    pixels = clip.crop(torch.stack([picture(seed=1), picture(seed=2)]), SIDE)
    mean, std = (torch.tensor(v)[:, None, None] for v in (clip.MEAN, clip.STD))
    longest = [WORDS[0], [*WORDS[1], 49407]]
    whole = model(input_ids=torch.tensor(longest), pixel_values=(pixels.float() / 255 - mean) / std)
    found = clip.image_vectors(ours, pixels), clip.text_vectors(ours, WORDS)
    unit = [nn.functional.normalize(v, dim=-1) for v in found]
    torch.testing.assert_close(unit[0], whole.image_embeds, atol=1e-5, rtol=0)
    torch.testing.assert_close(unit[1], whole.text_embeds, atol=1e-5, rtol=0)
    assert clip.side_of(ours) == SIDE


def test_half_precision_files_are_computed_in_single_precision(tmp_path: Path) -> None:
    clip_folder(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    halves = {name: w.half() for name, w in weights.items()}
    loaded = clip.load_clip(str(tmp_path), halves)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_tables_of_positions_in_old_files_are_passed_over(tmp_path: Path) -> None:
    clip_folder(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    old = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    clip.load_clip(str(tmp_path), {**weights, **old})


@pytest.mark.parametrize("wrong", ["missing", "foreign", "shape"])
def test_weights_that_are_not_the_models_are_refused(tmp_path: Path, wrong: str) -> None:
    clip_folder(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    if wrong == "missing":
        del weights["text_projection.weight"]
    elif wrong == "foreign":
        weights["lora_up"] = torch.zeros(1)
    else:
        weights["text_projection.weight"] = torch.zeros(3, 3)
    said = {"missing": "it lacks text_projection", "foreign": "also holds lora_up"}
    with pytest.raises((ValueError, RuntimeError), match=said.get(wrong, "size mismatch")):
        clip.load_clip(str(tmp_path), weights)


def test_another_vocabulary_is_refused(tmp_path: Path) -> None:
    model = transformers_clip()
    model.config.text_config.vocab_size = 1000
    model.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="it has 1000 tokens, not CLIP's 49408"):
        clip.load_clip(str(tmp_path), {})


def test_a_long_text_is_cut_with_its_end_of_text_kept() -> None:
    short, long = [49406, 5, 49407], [49406, *range(100), 49407]
    assert clip.cut_short(short) == short
    cut = clip.cut_short(long)
    assert len(cut) == 77 and cut[:-1] == long[:76] and cut[-1] == 49407
