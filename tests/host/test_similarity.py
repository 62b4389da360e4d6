"""Similarity models: a folder of CLIP, ComfyUI's CLIP and CLIP_VISION, and
which one is taken."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_management as mm
import comfy.sd1_clip
import folder_paths
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchmetrics.functional.multimodal import clip_score

from ale_edit.host import model_files
from ale_edit.host.model_files import NOTHING, SIMILARITY
from ale_edit.host.scoring import similarity
from ale_edit.host.segmenting import grounding
from ale_edit.scoring import clip as clip_model
from ale_edit.scoring.leakage import cut_outs, leakage
from ale_edit.scoring.similarity import Similarity, edit_similarity
from ale_edit.tests.scoring.test_clip import picture
from ale_edit.tests.tiny import empty_models, tiny_clip, tiny_sd2_clip
from ale_edit.tests.tiny_scores import (
    SIDE,
    WIDTH,
    clip_folder,
    comfyui_clip,
    comfyui_vision,
    transformers_clip,
)

TEXTS = ["a brown goat", "soccer ball", "a brown goat and soccer ball"]


@pytest.fixture
def models_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return empty_models(tmp_path / "models", SIMILARITY.folders, monkeypatch)


@pytest.fixture(scope="module")
def model() -> Any:
    return transformers_clip()


@pytest.fixture
def loaded(models_dir: Path) -> Similarity:
    clip_folder(models_dir / "clip_vision" / "tiny")
    return similarity.load_clip_folder("tiny/")


@pytest.fixture
def sockets(model: Any, tmp_path: Path) -> Similarity:
    vision = comfyui_vision(model, tmp_path / "vision.json")
    return similarity.pair_sockets(comfyui_clip(model), vision)


class Vectors(nn.Module):
    """A CLIPModel of transformers 5 with features as torchmetrics 1.9 takes them: plain tensors."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.config = model, model.config

    def get_image_features(self, pixels: Tensor) -> Any:
        found = self.model.get_image_features(pixels)
        return getattr(found, "pooler_output", found)

    def get_text_features(self, ids: Tensor, attention: Tensor) -> Any:
        found = self.model.get_text_features(ids, attention)
        return getattr(found, "pooler_output", found)


def clip_score_of(model: Any, image: Tensor, text: str) -> float:
    """torchmetrics' CLIPScore of an 8-bit image (H, W, 3), with CLIP's processor on Pillow."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    size: Any = {"shortest_edge": SIDE}
    crop: Any = {"height": SIDE, "width": SIDE}
    pictures = CLIPImageProcessorPil(size=size, crop_size=crop)
    words = comfy.sd1_clip.SDTokenizer().tokenizer

    def processor(text: Any = None, images: Any = None, **options: Any) -> Any:
        return words(text, **options) if images is None else pictures(images, return_tensors="pt")

    loader: Any = lambda: (Vectors(model), processor)  # noqa: E731
    with torch.no_grad():
        return float(clip_score(image.permute(2, 0, 1), text, model_name_or_path=loader))


def edited() -> tuple[Tensor, Tensor]:
    """An 8-bit image and two masks."""
    masks = torch.zeros(2, 90, 70)
    masks[0, 10:50, 5:40], masks[1, 40:85, 30:65] = 1, 1
    return (picture() * 255).round().byte(), masks


@pytest.mark.parametrize("which", ["loaded", "sockets"])
def test_scores_are_torchmetrics_clip_scores_of_a_real_clip(
    which: str, model: Any, request: pytest.FixtureRequest
) -> None:
    cosines = request.getfixturevalue(which).cosines
    image, masks = edited()
    found = leakage(cosines, image / 255, masks, TEXTS[:2])
    similar = edit_similarity(cosines, image / 255, masks, TEXTS[2], found)
    alone = (cut_outs(image.float(), masks)).byte()
    expected = [[clip_score_of(model, part, text) for part in alone] for text in TEXTS[:2]]
    torch.testing.assert_close(found.pairs, torch.tensor(expected), atol=1e-4, rtol=1e-5)
    assert found.pairs.std() > 1
    assert similar.whole == pytest.approx(clip_score_of(model, image, TEXTS[2]), abs=1e-3)


def test_sockets_and_folder_of_the_same_weights_agree(
    loaded: Similarity, sockets: Similarity
) -> None:
    images = torch.stack([picture(seed=s) for s in range(3)])
    first, second = (s.cosines(images, TEXTS) for s in (loaded, sockets))
    torch.testing.assert_close(first, second, atol=1e-5, rtol=0)


@pytest.mark.parametrize("which", ["loaded", "sockets"])
def test_what_stands_behind_77_tokens_does_not_count(
    which: str, request: pytest.FixtureRequest
) -> None:
    cosines = request.getfixturevalue(which).cosines
    images, words = picture()[None], "cat dog " * 50
    full, cut, more = (cosines(images, [t]) for t in (words, words + "red", "cat " * 75))
    assert torch.equal(full, cut) and not torch.allclose(full, more, atol=1e-4)


def test_long_texts_agree(loaded: Similarity, sockets: Similarity) -> None:
    images, words = picture()[None], ["cat dog " * 50]
    torch.testing.assert_close(
        loaded.cosines(images, words), sockets.cosines(images, words), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("which", ["loaded", "sockets"])
def test_weights_of_a_prompt_are_no_words(which: str, request: pytest.FixtureRequest) -> None:
    cosines = request.getfixturevalue(which).cosines
    images = picture()[None]
    weighted = ["(brown:1.3) goat", "a ((red)) ball", r"smile \(happy\)"]
    plain = ["brown goat", "a red ball", "smile (happy)"]
    assert [similarity.plain_words(t) for t in weighted] == plain
    assert torch.equal(cosines(images, weighted[:2]), cosines(images, plain[:2]))


def test_clip_skip_does_not_matter(model: Any, tmp_path: Path) -> None:
    vision = comfyui_vision(model, tmp_path / "vision.json")
    clip = comfyui_clip(model)
    skipping = clip.clone()
    skipping.clip_layer(-2)
    images = picture()[None]
    first, second = (
        similarity.pair_sockets(c, vision).cosines(images, TEXTS) for c in (clip, skipping)
    )
    assert torch.equal(first, second)


def test_an_image_alone_and_in_a_batch_of_many_score_the_same(loaded: Similarity) -> None:
    images = torch.stack([picture(seed=s) for s in range(18)])
    found = loaded.cosines(images, TEXTS)
    assert found.shape == (18, 3)
    torch.testing.assert_close(found[17:], loaded.cosines(images[17:], TEXTS), atol=1e-5, rtol=0)


# -- memory ----------------------------------------------------------------------------------------


def test_the_folders_model_is_in_comfyuis_memory_management(loaded: Similarity) -> None:
    mm.unload_all_models()
    loaded.cosines(picture()[None], TEXTS)
    loaded_models = [entry.model for entry in mm.current_loaded_models if entry.model is not None]
    names = [type(patcher.model).__name__ for patcher in loaded_models]
    assert "CLIPSimilarity" in names
    mm.unload_all_models()
    assert loaded.cosines(picture()[None], TEXTS).shape == (1, 3)


def test_out_of_memory_is_an_error_with_the_cure(
    loaded: Similarity, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(grounding, "load_whole", full)
    with pytest.raises(ValueError, match="CLIP Similarity Loader: .*out of memory.*smaller CLIP"):
        loaded.cosines(picture()[None], TEXTS)


# -- files -----------------------------------------------------------------------------------------


def test_only_whole_clips_are_listed(models_dir: Path) -> None:
    assert model_files.list_files(SIMILARITY) == [NOTHING]
    clip_folder(models_dir / "text_encoders" / "clip-tiny")
    half = models_dir / "text_encoders" / "text_encoder"
    half.mkdir()
    (half / "config.json").write_text('{"model_type": "clip_text_model"}', encoding="utf-8")
    save_file({"a": torch.zeros(1)}, half / "model.safetensors")
    save_file({"a": torch.zeros(1)}, models_dir / "text_encoders" / "clip_l.safetensors")
    folder_paths.filename_list_cache.clear()
    assert model_files.list_files(SIMILARITY) == ["clip-tiny/"]


def test_a_folder_of_extra_model_paths_is_found(models_dir: Path, tmp_path: Path) -> None:
    clip_folder(tmp_path / "elsewhere" / "clip-tiny")
    folder_paths.add_model_folder_path("text_encoders", str(tmp_path / "elsewhere"))
    assert model_files.list_files(SIMILARITY) == ["clip-tiny/"]
    assert similarity.load_clip_folder("clip-tiny/").name == "CLIP (clip-tiny)"


def test_without_a_folder_the_error_names_files_folders_and_where_they_are(
    models_dir: Path,
) -> None:
    with pytest.raises(ValueError, match="CLIP Similarity Loader: no file was found in") as error:
        similarity.load_clip_folder(NOTHING)
    for part in ("text_encoders", "clip_vision", "huggingface.co/openai/clip-vit-large-patch14"):
        assert part in str(error.value)


def test_a_single_file_is_one_half(models_dir: Path) -> None:
    save_file({"a": torch.zeros(1)}, models_dir / "clip_vision" / "clip_vision_g.safetensors")
    with pytest.raises(ValueError, match="is a single file, which holds one half of CLIP"):
        similarity.load_clip_folder("clip_vision_g.safetensors")


def test_a_folder_of_another_model_is_refused(models_dir: Path) -> None:
    clip_folder(models_dir / "clip_vision" / "tiny")
    config = models_dir / "clip_vision" / "tiny" / "config.json"
    config.write_text(config.read_text().replace('"clip"', '"siglip"'), encoding="utf-8")
    with pytest.raises(ValueError, match="model_type 'siglip', not clip"):
        similarity.load_clip_folder("tiny/")


def test_a_damaged_folder_is_refused(models_dir: Path) -> None:
    home = models_dir / "clip_vision" / "tiny"
    clip_folder(home)
    (home / "model.safetensors").write_bytes(b"<html>")
    with pytest.raises(ValueError, match="cannot be read as a file of tensors"):
        similarity.load_clip_folder("tiny/")
    save_file({"a": torch.zeros(1)}, home / "model.safetensors")
    with pytest.raises(ValueError, match="does not hold the tensors of its model.*it lacks"):
        similarity.load_clip_folder("tiny/")


# -- sockets that do not fit -----------------------------------------------------------------------


def vision(model: Any, tmp_path: Path) -> Any:
    return comfyui_vision(model, tmp_path / "vision.json")


@pytest.mark.parametrize("content", ["identity", "zeros", "not finite", "mostly zero"])
def test_a_text_encoder_without_a_projection_is_refused(
    content: str, model: Any, tmp_path: Path
) -> None:
    """As that of an SD 1.5 checkpoint, which leaves ComfyUI's layer as memory was."""
    clip = comfyui_clip(model)
    weight = clip.cond_stage_model.clip_l.transformer.text_projection.weight
    made = {"identity": torch.eye(WIDTH), "zeros": torch.zeros(WIDTH, WIDTH)}
    made["not finite"] = torch.full((WIDTH, WIDTH), float("nan"))
    made["mostly zero"] = torch.diag(torch.rand(WIDTH))
    weight.data.copy_(made[content])
    with pytest.raises(ValueError, match="text projection .* SD 1.5 checkpoint"):
        similarity.pair_sockets(clip, vision(model, tmp_path))


def test_the_demo_models_clip_is_refused(model: Any, tmp_path: Path) -> None:
    from ale_edit.demo.models import build_clip
    from ale_edit.demo.weights import read_weights

    with pytest.raises(ValueError, match="is missing .* or the identity"):
        similarity.pair_sockets(build_clip(read_weights("text")), vision(model, tmp_path))


def test_halves_of_different_width_are_refused_with_both(model: Any, tmp_path: Path) -> None:
    other = tiny_clip(width=64)
    with pytest.raises(ValueError, match="vectors of 64 numbers, the clip_vision input of 32"):
        similarity.pair_sockets(other, vision(model, tmp_path))


def test_texts_of_sd2_are_projected_once_as_comfyui_does_for_it(model: Any, tmp_path: Path) -> None:
    clip, image_half = tiny_sd2_clip(), vision(model, tmp_path)
    found = similarity.pair_sockets(clip, image_half).cosines(picture()[None], TEXTS)
    pooled = [clip.encode_from_tokens(clip.tokenize(t), return_pooled=True)[1] for t in TEXTS]
    pixels = clip_model.crop(picture()[None], SIDE).movedim(1, -1) / 255
    image = image_half.encode_image(pixels)["image_embeds"].float()
    expected = nn.functional.cosine_similarity(image, torch.cat(pooled).float(), dim=1)
    torch.testing.assert_close(found[0], expected, atol=1e-3, rtol=0)


def test_a_lora_on_the_text_encoder_is_refused(model: Any, tmp_path: Path) -> None:
    clip = comfyui_clip(model)
    key = "clip_l.transformer.text_model.final_layer_norm.weight"
    clip.add_patches({key: ("diff", (torch.ones(WIDTH),))})
    with pytest.raises(ValueError, match="carries a LoRA"):
        similarity.pair_sockets(clip, vision(model, tmp_path))


def test_an_image_encoder_without_projection_is_refused(model: Any) -> None:
    dino: Any = SimpleNamespace(model=nn.Linear(1, 1))
    with pytest.raises(ValueError, match="not an image encoder of CLIP"):
        similarity.pair_sockets(comfyui_clip(model), dino)


def test_other_text_encoders_and_no_text_encoder_are_refused(model: Any) -> None:
    t5: Any = SimpleNamespace(tokenize=lambda text: {"t5xxl": [[(0, 1.0)]]})
    with pytest.raises(ValueError, match="has the text encoders t5xxl"):
        similarity.pair_sockets(t5, None)
    with pytest.raises(ValueError, match="the clip input is empty"):
        similarity.pair_sockets(None, None)


def test_halves_that_do_not_know_plain_colours_are_doubted() -> None:
    right = torch.eye(len(similarity.PLAIN))
    assert similarity._describe_doubt(lambda images, texts: right + 5) == ""
    wrong = right.roll(1, 0)
    assert "of 6 plain colours 0 fit" in similarity._describe_doubt(lambda images, texts: wrong)


# -- which one -------------------------------------------------------------------------------------


def refuse_goats(texts: Sequence[str], size: tuple[int, int]) -> str:
    return "it knows no goat" if any("goat" in text for text in texts) else ""


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Similarity:
    """The only model that is offered: one that refuses goats."""
    made = Similarity("small", lambda i, t: torch.zeros(len(i), len(t)), refusal=refuse_goats)
    monkeypatch.setattr(similarity, "_offered", {})
    similarity.offer_similarity(made)
    return made


def test_a_connected_model_is_taken(offered: Similarity) -> None:
    other = Similarity("other", offered.cosines)
    assert similarity.choose_similarity(other, ["red ball"], (128, 128), "N") is other
    assert similarity.choose_similarity(other, ["brown goat"], (512, 768), "N") is other


def test_without_one_an_offered_model_is_taken_for_what_it_knows(offered: Similarity) -> None:
    assert similarity.choose_similarity(None, ["red ball"], (128, 128), "N") is offered
    second = Similarity("second", offered.cosines)
    similarity.offer_similarity(second)
    assert similarity.choose_similarity(None, ["red ball"], (128, 128), "N") is offered
    assert similarity.choose_similarity(None, ["brown goat"], (128, 128), "N") is second


def test_a_model_that_is_offered_again_takes_its_own_place(offered: Similarity) -> None:
    again = Similarity("small", offered.cosines)
    similarity.offer_similarity(again)
    assert similarity.choose_similarity(None, ["brown goat"], (8, 8), "N") is again


@pytest.mark.parametrize("is_connected", [True, False])
def test_a_model_that_refuses_says_why_and_what_else_is_needed_and_where(
    offered: Similarity, models_dir: Path, is_connected: bool
) -> None:
    with pytest.raises(ValueError) as error:
        connected = offered if is_connected else None
        similarity.choose_similarity(connected, ["brown goat"], (8, 8), "Leakage Score")
    said = str(error.value)
    assert said.startswith(
        "Leakage Score: the similarity input is "
        + ("connected, but not to a model for this" if is_connected else "not connected")
        + "; small does not serve, because it knows no goat. Connect CLIP Similarity Loader"
    )
    assert "text_encoders" in said and "huggingface.co/openai/clip-vit-large-patch14" in said


def test_where_none_is_offered_one_is_to_be_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similarity, "_offered", {})
    with pytest.raises(
        ValueError, match=r"^N: the similarity input is not connected\. Connect CLIP"
    ):
        similarity.choose_similarity(None, ["red ball"], (128, 128), "N")
