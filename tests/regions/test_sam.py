"""Segment Anything, against segment-anything's own SamPredictor; SAM 2 against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.regions import sam
from ale_edit.tests.tiny_grounding import tiny_sam

pytest.importorskip("transformers")
BOXES = torch.tensor([[5.0, 6.0, 40.0, 50.0], [30.0, 2.0, 80.0, 30.0], [0.0, 0.0, 90.0, 60.0]])


@pytest.fixture(scope="module")
def original() -> Any:
    pytest.importorskip("segment_anything", reason="the oracle: pip install segment-anything")
    return tiny_sam()


@pytest.fixture(scope="module")
def ours(original: Any) -> Any:
    return sam.load_original(original.state_dict(), "tiny.pth")


def picture(height: int = 60, width: int = 90) -> Tensor:
    pixels = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(height))
    return (pixels * 255).round() / 255


@pytest.mark.parametrize("size", [(60, 90), (90, 60), (200, 200), (7, 300)])
def test_masks_are_those_of_sam_predictor(original: Any, ours: Any, size: tuple[int, int]) -> None:
    from segment_anything import SamPredictor

    image = picture(*size)
    boxes = BOXES * torch.tensor([size[1] / 90, size[0] / 60] * 2)
    predictor = SamPredictor(original)
    predictor.set_image((image * 255).round().to(torch.uint8).numpy())
    resized = predictor.transform.apply_image((image * 255).round().to(torch.uint8).numpy())
    pixels = original.preprocess(torch.from_numpy(resized).permute(2, 0, 1)[None].float())
    # they round to whole numbers after resizing rows and after columns: one in all
    one = 1.01 / min(sam.STD)
    torch.testing.assert_close(sam.prepare(ours, image), pixels, rtol=0, atol=one)
    (features,) = sam.embed(ours, pixels)
    torch.testing.assert_close(features, predictor.features, rtol=0, atol=1e-4)
    scaled = predictor.transform.apply_boxes_torch(boxes, size)
    torch.testing.assert_close(sam.scale_boxes(ours, boxes, *size), scaled)
    with torch.inference_mode():
        masks, scores, logits = predictor.predict_torch(None, None, boxes=scaled)
    made, rated = sam.predict_masks(ours, [features], scaled)
    best = scores.argmax(dim=1)
    torch.testing.assert_close(rated, scores.amax(dim=1), rtol=0, atol=1e-4)
    torch.testing.assert_close(made, logits[torch.arange(3), best], rtol=0, atol=1e-4)
    for i, logit in enumerate(made):
        whole = sam.full_mask(ours, logit, *size)
        assert (whole == masks[i, best[i]]).float().mean() > 0.9999
        centred = logit - logit.median()  # random weights may say one thing of all pixels
        mask = sam.full_mask(ours, centred, *size)
        shape = (predictor.input_size, predictor.original_size)
        expected = original.postprocess_masks(centred[None, None], *shape)[0, 0] > 0
        assert (mask == expected).float().mean() > 0.9999
        assert 0.05 < float(mask.float().mean()) < 0.95


def test_a_batch_of_boxes_is_its_boxes_one_by_one(ours: Any) -> None:
    features = sam.embed(ours, sam.prepare(ours, picture()))
    together, _ = sam.predict_masks(ours, features, BOXES)
    alone = torch.cat([sam.predict_masks(ours, features, box[None])[0] for box in BOXES])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_the_sizes_of_the_published_models_are_read_from_their_shapes() -> None:
    registry = pytest.importorskip("segment_anything").sam_model_registry
    sizes = {"vit_b": (768, 12, 12), "vit_l": (1024, 24, 16), "vit_h": (1280, 32, 16)}
    for name, expected in sizes.items():
        with torch.device("meta"):
            weights = registry[name]().state_dict()
        new, unknown = sam.rename(weights, sam.RULES, (), sam.UNUSED)
        assert not unknown and len(new) == len(weights)
        vision = sam.config_of(weights).vision_config
        assert (
            vision.hidden_size,
            vision.num_hidden_layers,
            vision.num_attention_heads,
        ) == expected
        assert (vision.image_size, vision.window_size, len(vision.global_attn_indexes)) == (
            1024,
            14,
            4,
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("image_encoder.neck.1.bias"), "1 missing .vision_encoder.neck"),
        (lambda w: w.pop("mask_decoder.iou_token.weight"), "1 missing .mask_decoder.iou_token"),
        (lambda w: w.update(strange=torch.zeros(1)), "1 unknown .strange"),
        (
            lambda w: w.update({"mask_decoder.mask_tokens.weight": torch.zeros(4, 7)}),
            "1 of another shape .mask_decoder.mask_tokens",
        ),
    ],
)
def test_a_checkpoint_with_other_tensors_is_refused_and_they_are_listed(
    original: Any, change: Any, message: str
) -> None:
    weights = dict(original.state_dict())
    change(weights)
    with pytest.raises(ValueError, match=message):
        sam.load_original(weights, "tiny.pth")


def tiny_sam2() -> Any:
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "Sam2Model"):
        pytest.skip("SAM 2 needs transformers 4.56")
    backbone = transformers.Sam2HieraDetConfig(
        hidden_size=16,
        image_size=[128, 128],
        window_positional_embedding_background_size=[4, 4],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[8, 4, 8, 4],
        global_attention_blocks=[3],
    )
    vision = transformers.Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[128, 64, 32, 16],
        backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        fpn_hidden_size=64,
    )
    prompt = transformers.Sam2PromptEncoderConfig(hidden_size=64, image_size=128)
    decoder = transformers.Sam2MaskDecoderConfig(hidden_size=64, mlp_dim=64, iou_head_hidden_dim=32)
    torch.manual_seed(0)
    config = transformers.Sam2Config(
        vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder
    )
    model = transformers.Sam2Model(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape) * 0.1
    return model


def test_sam2_gives_what_transformers_own_call_gives(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    theirs = tiny_sam2()
    theirs.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["memory_attention.layer_norm.bias"] = torch.zeros(4)  # as in the published folders
    ours = sam.load_folder(str(tmp_path), "sam2", weights, "folder")
    image = picture()
    pixels = sam.prepare(ours, image)
    assert pixels.shape == (1, 3, 128, 128)
    scaled = sam.scale_boxes(ours, BOXES, 60, 90)
    logits, scores = sam.predict_masks(ours, sam.embed(ours, pixels), scaled)
    with torch.inference_mode():
        out = theirs(pixel_values=pixels, input_boxes=scaled[None], multimask_output=True)
    best = out.iou_scores[0].argmax(dim=-1)
    torch.testing.assert_close(scores, out.iou_scores[0].amax(dim=-1), rtol=0, atol=1e-4)
    expected = out.pred_masks[0][torch.arange(3), best]
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-3)
    assert sam.full_mask(ours, logits[0], 60, 90).shape == (60, 90)


def test_sam2_pictures_are_prepared_as_transformers_does() -> None:
    transformers = pytest.importorskip("transformers")
    from PIL import Image

    model = tiny_sam2()
    pixels = (picture() * 255).round().to(torch.uint8)
    processor = transformers.Sam2ImageProcessorFast(size={"height": 128, "width": 128})
    theirs = processor(Image.fromarray(pixels.numpy()), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(sam.prepare(model, pixels / 255), theirs, rtol=0, atol=0.02)
