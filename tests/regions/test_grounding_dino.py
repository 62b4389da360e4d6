"""GroundingDINO: loading, text, pictures and boxes. The key map's own proof, against
groundingdino-py, is tests/oracle/test_groundingdino.py."""

from __future__ import annotations

import copy
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ale_edit.regions import bert_tokens
from ale_edit.regions import grounding_dino as gd
from ale_edit.tests.tiny_grounding import original_names, tiny_original

pytest.importorskip("transformers")
PHOTOS = Path(__file__).resolve().parents[3] / "shared" / "data" / "photos"
PHRASES = ("a cat", "red-colored paprika", "dog")


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return tiny_original()


@pytest.fixture(scope="module")
def model(weights: dict[str, Tensor]) -> Any:
    return gd.load_original(weights, "tiny.pth")


def picture(height: int = 96, width: int = 128) -> Tensor:
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(height))


def test_every_tensor_of_the_original_has_a_place() -> None:
    shapes = {name: torch.empty(shape, device="meta") for name, shape in original_names().items()}
    new, unknown = gd.rename(shapes, gd.RULES, gd.FUSED, gd.UNUSED)
    left_out = [name for name in shapes if gd.UNUSED.fullmatch(name)]
    assert not unknown
    assert len(left_out) == 2 + 36  # BERT's pooler; the decoder's copy of the shared box head
    fused = sum("qkv" in name or "in_proj" in name for name in shapes)
    assert len(new) == len(shapes) - len(left_out) + 2 * fused


def test_sizes_are_read_from_the_shapes() -> None:
    shapes = {name: torch.empty(shape, device="meta") for name, shape in original_names().items()}
    config = gd.config_of(shapes)
    backbone, text = config.backbone_config, config.text_config
    assert (backbone.embed_dim, list(backbone.depths), backbone.window_size) == (
        96,
        [2, 2, 6, 2],
        7,
    )
    assert list(backbone.num_heads) == [3, 6, 12, 24]
    assert (text.hidden_size, text.num_attention_heads, text.num_hidden_layers) == (768, 12, 12)
    assert (text.vocab_size, text.intermediate_size) == (30522, 3072)
    assert (config.d_model, config.num_queries, config.num_feature_levels) == (256, 900, 4)
    assert (config.encoder_layers, config.decoder_layers, config.encoder_ffn_dim) == (6, 6, 2048)
    assert (config.encoder_n_points, config.decoder_n_points) == (4, 4)


def test_the_same_model_saved_by_transformers_loads_as_well(model: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model.save_pretrained(tmp_path)
    again = gd.load_folder(str(tmp_path), load_file(tmp_path / "model.safetensors"), "folder")
    tokens = bert_tokens.tokenize_phrases(bert_tokens.load_tokenizer(), PHRASES)
    image = picture()
    ours, theirs = (gd.detect(m, tokens, image, gd.prepare(image)) for m in (model, again))
    assert torch.equal(ours.boxes, theirs.boxes) and torch.equal(ours.scores, theirs.scores)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("module.feat_map.weight"), "missing .*feat_map|text_projection"),
        (lambda w: w.pop("module.transformer.level_embed"), "1 missing .transformer.level_embed"),
        (lambda w: w.update({"module.strange.weight": torch.zeros(1)}), "1 unknown .strange"),
        (
            lambda w: w.update({"module.feat_map.bias": torch.zeros(7)}),
            "1 of another shape .model.text_projection.bias",
        ),
    ],
)
def test_a_checkpoint_with_other_tensors_is_refused_and_they_are_listed(
    weights: dict[str, Tensor], change: Any, message: str
) -> None:
    changed = dict(weights)
    change(changed)
    with pytest.raises(ValueError, match=message):
        gd.load_original(changed, "tiny.pth")


def test_an_original_file_is_told_from_one_of_transformers(
    weights: dict[str, Tensor], model: Any
) -> None:
    assert gd.is_original(weights) and not gd.is_original(model.state_dict())


def test_the_tokens_are_those_of_transformers_bert(tmp_path: Path) -> None:
    tokenizers: Any = importlib.import_module("transformers")
    (tmp_path / "vocab.txt").write_bytes(bert_tokens.VOCABULARY.read_bytes())
    theirs = tokenizers.BertTokenizerFast.from_pretrained(str(tmp_path))
    for text in ("a cat. red-colored paprika. dog.", "café. 狼. st bernard's hat. 10:30 clock."):
        assert bert_tokens.load_tokenizer().encode(text).ids == theirs(text)["input_ids"]


def test_the_vocabulary_is_the_published_one() -> None:
    import hashlib

    digest = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
    assert hashlib.sha256(bert_tokens.VOCABULARY.read_bytes()).hexdigest() == digest


def test_each_phrase_and_its_noun_know_their_tokens() -> None:
    tokenizer = bert_tokens.load_tokenizer()
    tokens = bert_tokens.tokenize_phrases(tokenizer, PHRASES)

    def words(mask: Tensor) -> str:
        return tokenizer.decode(tokens.ids[0][mask].tolist())

    assert [words(mask) for mask in tokens.words] == ["a cat", "red - colored paprika", "dog"]
    assert [words(mask) for mask in tokens.heads] == ["cat", "paprika", "dog"]
    assert int(tokens.words.sum(dim=0).max()) == 1


def test_a_hundred_phrases_go_in_lists_that_fit_and_none_is_lost() -> None:
    tokenizer = bert_tokens.load_tokenizer()
    phrases = tuple(f"red-colored paprika number {i}" for i in range(100))
    chunks = bert_tokens.split_into_chunks(tokenizer, phrases, 256)
    assert tuple(phrase for chunk in chunks for phrase in chunk) == phrases
    lengths = [bert_tokens.tokenize_phrases(tokenizer, chunk).ids.shape[1] for chunk in chunks]
    assert max(lengths) <= 256 and len(chunks) == 4
    assert all(length > 256 - 12 for length in lengths[:-1])


def test_a_phrase_longer_than_the_text_is_refused() -> None:
    with pytest.raises(ValueError, match="has 301 tokens, a detector reads 254"):
        bert_tokens.split_into_chunks(bert_tokens.load_tokenizer(), ("cat " * 300,), 256)


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (500, 500), (800, 800)])
def test_pictures_are_prepared_as_transformers_does(size: tuple[int, int]) -> None:
    from transformers import GroundingDinoImageProcessor

    pixels = (picture(*size) * 255).round().to(torch.uint8)
    theirs = GroundingDinoImageProcessor()(Image.fromarray(pixels.numpy()), return_tensors="pt")
    ours = gd.prepare(pixels / 255)
    assert ours.shape == theirs["pixel_values"].shape
    # they round to whole numbers of 255 after resizing rows and after columns: one of 255 in all
    one = 1.01 / 255 / min(gd.STD)
    torch.testing.assert_close(ours, theirs["pixel_values"].float(), rtol=0, atol=one)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ((480, 640), (800, 1066)),
        ((640, 480), (1066, 800)),
        ((300, 1200), (333, 1332)),  # where transformers rounds to 1333
        ((4320, 7680), (750, 1333)),
        ((1, 4000), (1, 2666)),
    ],
)
def test_sizes_are_rounded_as_by_the_original_code(
    given: tuple[int, int], shown: tuple[int, int]
) -> None:
    assert gd.choose_size(*given) == shown


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (3, 200), (2, 2)])
def test_tiny_and_very_long_pictures_are_looked_at(model: Any, size: tuple[int, int]) -> None:
    image = picture(*size)
    tokens = bert_tokens.tokenize_phrases(bert_tokens.load_tokenizer(), PHRASES)
    found = gd.detect(model, tokens, image, gd.prepare(image))
    limits = torch.tensor([size[1], size[0]] * 2)
    assert bool((found.boxes >= 0).all()) and bool((found.boxes <= limits).all())


def test_boxes_and_scores_are_those_of_transformers_post_processing(model: Any) -> None:
    from transformers.models.grounding_dino.processing_grounding_dino import (
        GroundingDinoProcessor,
    )

    image = picture(200, 300)
    tokens = bert_tokens.tokenize_phrases(bert_tokens.load_tokenizer(), PHRASES)
    pixels = gd.prepare(image)
    ours = gd.detect(model, tokens, image, pixels)
    with torch.inference_mode():
        out = model(pixel_values=pixels, input_ids=tokens.ids)
    processor = object.__new__(GroundingDinoProcessor)
    processor.batch_decode = lambda ids, **_: [""] * len(ids)  # type: ignore[method-assign]
    post: Any = processor.post_process_grounded_object_detection
    name = "threshold" if "threshold" in post.__annotations__ else "box_threshold"
    (theirs,) = post(out, tokens.ids, **{name: 0.0}, target_sizes=[(200, 300)])
    limits = torch.tensor([300, 200, 300, 200])
    inside = torch.minimum(theirs["boxes"].clamp(min=0), limits)
    kept = ((inside[:, 2:] - inside[:, :2]) > 0).all(dim=1)
    assert bool(kept.any())
    torch.testing.assert_close(ours.boxes, inside[kept], rtol=0, atol=1e-3)
    # the highest score of any token: of a phrase, or of the marks between them
    marks = ~tokens.words.any(dim=0)
    others = out.logits[0, :, : len(marks)].sigmoid()[kept][:, marks].amax(dim=1)
    highest = torch.maximum(ours.scores.amax(dim=1), others)
    torch.testing.assert_close(highest, theirs["scores"][kept], rtol=0, atol=1e-5)
    assert bool((ours.heads <= ours.scores).all())


def test_a_picture_in_a_list_of_phrases_gets_the_same_answer_twice(model: Any) -> None:
    image, tokens = picture(), bert_tokens.tokenize_phrases(bert_tokens.load_tokenizer(), PHRASES)
    before = copy.deepcopy(image)
    first, second = (gd.detect(model, tokens, image, gd.prepare(image)) for _ in range(2))
    assert torch.equal(first.scores, second.scores) and torch.equal(image, before)


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs shared/data/photos")
def test_a_photograph_is_prepared_as_by_the_original_code() -> None:
    """Size 800 on the shorter side, PIL's bilinear resizing."""
    with Image.open(PHOTOS / "groundingdino_cat_dog.jpeg") as photo:
        rgb = photo.convert("RGB")
    height, width = gd.choose_size(rgb.height, rgb.width)
    resized = np.asarray(rgb.resize((width, height), Image.Resampling.BILINEAR)) / np.float32(255)
    ours = gd.prepare(torch.from_numpy(np.asarray(rgb) / np.float32(255)))[0].permute(1, 2, 0)
    back = ours * torch.tensor(gd.STD) + torch.tensor(gd.MEAN)
    torch.testing.assert_close(back, torch.from_numpy(resized), rtol=0, atol=1.1 / 255)
