"""A CLIP folder of transformers, with random weights, against torchmetrics' CLIPScore."""

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torchmetrics.functional.multimodal import clip_score
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    CLIPTextConfig,
    CLIPTokenizer,
    CLIPVisionConfig,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from ale_edit.bench.clip_network import ClipNetwork
from ale_edit.bench.dataset import Dataset, ImageEdit, ImageObject, ObjectEdit, SourceImage
from ale_edit.bench.metric import Views
from ale_edit.bench.options import run_arguments
from ale_edit.bench.scoring_pass import metrics_for

pytestmark = pytest.mark.comfy  # it has CLIP's words
SHAPE: dict[str, Any] = {
    "size": {"shortest_edge": 32},
    "crop_size": {"height": 32, "width": 32},
}
TEXTS = ["a red ball", "wolf", "a photo of a soccer ball made of gold"]


class ForTorchmetrics(CLIPModel):
    """torchmetrics 1.9 expects features as tensors, as transformers 4 gives them."""

    def get_image_features(self, *args: Any, **kwargs: Any) -> Any:
        found: Any = super().get_image_features(*args, **kwargs)
        return getattr(found, "pooler_output", found)

    def get_text_features(self, *args: Any, **kwargs: Any) -> Any:
        found: Any = super().get_text_features(*args, **kwargs)
        return getattr(found, "pooler_output", found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    small: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    small["num_attention_heads"] = 2
    config = CLIPConfig(
        text_config=CLIPTextConfig(**small, eos_token_id=49407, bos_token_id=49406).to_dict(),
        vision_config=CLIPVisionConfig(**small, image_size=32, patch_size=8).to_dict(),
        projection_dim=12,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    words().save_pretrained(folder)
    return folder


def words() -> CLIPTokenizer:
    folder = Path(os.environ["COMFYUI_PATH"]) / "comfy" / "sd1_tokenizer"
    return CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    bytes_ = torch.randint(0, 256, (3, 40, 56, 3), generator=torch.Generator().manual_seed(1))
    return bytes_.float() / 255


def test_similarities_are_clip_scores(folder, images):
    cosines = ClipNetwork.load(folder).cosines(images, TEXTS)
    model = ForTorchmetrics.from_pretrained(str(folder), local_files_only=True)
    processor = CLIPProcessor(CLIPImageProcessorPil(**SHAPE), words())  # as published figures
    for row, image in zip(cosines, images, strict=True):
        for found, text in zip(row, TEXTS, strict=True):
            pixels = (image * 255).round().to(torch.uint8).movedim(-1, 0)
            score = clip_score(pixels, text, lambda: (model, processor))
            assert 100 * max(float(found), 0) == pytest.approx(float(score.detach()), abs=1e-4)
    assert cosines.std() > 1e-3


def test_a_text_that_is_too_long_is_cut(folder, images):
    cosines = ClipNetwork.load(folder).cosines(images, [" ".join(["wolf"] * n) for n in (75, 200)])
    assert torch.equal(cosines[:, 0], cosines[:, 1])


def test_a_folder_of_pickled_weights_in_half_precision_is_read_in_full(folder, images, tmp_path):
    shutil.copytree(folder, tmp_path / "old")
    weights = load_file(tmp_path / "old" / "model.safetensors")
    halves = {name: weight.half() for name, weight in weights.items()}
    halves["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    torch.save(halves, tmp_path / "old" / "pytorch_model.bin")
    (tmp_path / "old" / "model.safetensors").unlink()
    found, exact = (ClipNetwork.load(f).cosines(images, TEXTS) for f in (tmp_path / "old", folder))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, atol=2e-3, rtol=0)


def test_the_version_is_that_of_the_files(folder, tmp_path):
    version = ClipNetwork.load(folder).version
    shutil.copytree(folder, tmp_path / "copy")
    assert ClipNetwork.load(tmp_path / "copy").version == version
    model = CLIPModel.from_pretrained(str(folder), local_files_only=True)
    with torch.no_grad():
        model.logit_scale.add_(1)
    model.save_pretrained(tmp_path / "copy")
    assert ClipNetwork.load(tmp_path / "copy").version != version


def views(mask: torch.Tensor) -> Views:
    generator = torch.Generator().manual_seed(2)
    source, edited = (torch.rand(32, 32, 3, generator=generator) for _ in range(2))
    return Views(source, edited, mask)


def edit_of(count: int) -> ImageEdit:
    objects = tuple(ObjectEdit(k, "wolf", f"{c} wolf") for k, c in enumerate(("red", "blue")))
    return ImageEdit("one", "a", "color", 0, objects[:count])


def test_a_data_set_of_photographs_is_scored_by_this_clip(folder):
    dataset = Dataset(
        folder, "photos", {}, {"a": SourceImage("a.png", (ImageObject("m", "wolf"),))}, ()
    )
    metrics = metrics_for(dataset, clip=folder)
    assert [m.name for m in metrics.ready] == ["background", "leakage"]
    assert set(metrics.missing) == {"lpips", "structure"}
    (leakage,) = [m for m in metrics.ready if m.name == "leakage"]
    masks = torch.zeros(2, 32, 32)
    masks[0, :10], masks[1, 20:] = 1, 1
    both = leakage.values(dataset, edit_of(2), views(masks))
    assert all(len(both[name]) == 1 for name in ("TE", "TI", "TE of the source"))
    one = leakage.values(dataset, edit_of(1), views(masks))
    assert len(one["TE"]) == 1 and one["TI"] == one["TI of the source"] == []  # shown as n/a


def turned(folder: Path, copy: Path) -> Path:
    """The model with negated cosines, which of noise are above zero then."""
    shutil.copytree(folder, copy)
    weights = load_file(copy / "model.safetensors")
    weights["text_projection.weight"] *= -1
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    return copy


@pytest.mark.parametrize("sentence", ["", "a red wolf beside a blue one"])
def test_similarities_are_clip_scores_of_the_edited_regions_and_the_whole_image(
    folder, sentence, tmp_path
):
    folder = turned(folder, tmp_path / "turned")
    dataset = Dataset(folder, "photos", {}, {}, ())
    (metric,) = [m for m in metrics_for(dataset, clip=folder).ready if m.name == "leakage"]
    masks = torch.zeros(2, 32, 32)
    masks[0, :10], masks[1, 20:] = 1, 1
    seen, edit = views(masks), replace(edit_of(2), target_prompt=sentence)
    found = metric.values(dataset, edit, seen)
    prompt = sentence or "red wolf and blue wolf"
    model = ForTorchmetrics.from_pretrained(str(folder), local_files_only=True)
    processor = CLIPProcessor(CLIPImageProcessorPil(**SHAPE), words())

    def scored(image: torch.Tensor, text: str) -> float:
        pixels = (image * 255).round().to(torch.uint8).movedim(-1, 0)
        return float(clip_score(pixels, text, lambda: (model, processor)).detach())

    for image, suffix in ((seen.edited, ""), (seen.source, " of the source")):
        each = [
            scored(image * mask[..., None], text)
            for mask, text in zip(masks, ("red wolf", "blue wolf"), strict=True)
        ]
        union = scored(image * masks.sum(0)[..., None], prompt)
        expected = {"objects": sum(each) / 2, "union": union, "whole": scored(image, prompt)}
        for name, score in expected.items():
            assert found[f"CLIP, {name}{suffix}"] == [pytest.approx(score, abs=1e-4)]
    named = [found[f"CLIP, {name}"][0] for name in ("objects", "union", "whole")]
    assert min(named) > 0.1 and len(set(named)) == 3


def test_without_any_background_nothing_of_it_is_scored(folder):
    """A black image has a similarity to every text; it says nothing of leakage."""
    dataset = Dataset(folder, "photos", {}, {}, ())
    metrics = {m.name: m for m in metrics_for(dataset, clip=folder).ready}
    everything = torch.ones(2, 32, 32)
    found = metrics["leakage"].values(dataset, edit_of(2), views(everything))
    assert found["TE"] == found["TE of the source"] == [] and len(found["TI"]) == 1
    assert len(found["CLIP, union"]) == 1
    assert set(
        map(tuple, metrics["background"].values(dataset, edit_of(2), views(everything)).values())
    ) == {()}


def test_without_a_clip_model_te_and_ti_say_how_to_get_one(folder):
    metrics = metrics_for(Dataset(folder, "photos", {}, {}, ()))
    assert metrics.missing["leakage"].startswith("n/a: no CLIP model was given (--clip DIR")


def test_a_folder_that_is_none_is_refused_before_any_work(folder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"is not a CLIP model of transformers \(no config.json"):
        run_arguments(["set", "--clip", str(tmp_path)])
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(
        ValueError, match=r"cannot be read as a CLIP model .* Give a folder such as"
    ):
        ClipNetwork.load(tmp_path)
    shutil.copytree(folder, tmp_path / "half")
    model = CLIPModel.from_pretrained(str(folder), local_files_only=True)
    weights = {k: v for k, v in model.state_dict().items() if "text_projection" not in k}
    model.save_pretrained(tmp_path / "half", state_dict=weights)
    with pytest.raises(ValueError, match=r"half cannot be read .* lacks text_projection.weight"):
        ClipNetwork.load(tmp_path / "half")
    (tmp_path / "wordless").mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folder / name, tmp_path / "wordless" / name)
    with pytest.raises(ValueError, match="it has no vocab.json and merges.txt"):
        ClipNetwork.load(tmp_path / "wordless")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"--clip needs transformers .* Install it, or leave"):
        ClipNetwork.load(folder)
