"""TE and TI against loops over the formulae with torchmetrics' CLIPScore."""

from itertools import permutations
from math import isnan
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.multimodal import clip_score

from ale_edit.scoring.leakage import cut_outs, leakage

SIZE = 12


class RandomClip(nn.Module):
    """Image and text vectors by fixed random projections, with transformers' method names."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace()
        draw = torch.Generator().manual_seed(3)
        self.image = nn.Parameter(torch.rand(SIZE * SIZE * 3, 16, generator=draw))
        self.text = nn.Parameter(torch.rand(128, 16, generator=draw))

    def get_image_features(self, pixels: Tensor) -> Tensor:
        return (pixels.float() / 255).flatten(1) @ self.image

    def get_text_features(self, ids: Tensor, _attention: Tensor | None = None) -> Tensor:
        return self.text[ids].sum(1)


def processor(text: list[str] | None = None, images: list[Tensor] | None = None, **_: Any) -> dict:
    if images is not None:
        return {"pixel_values": torch.stack(images)}
    ids = torch.tensor([[ord(c) for c in phrase.ljust(20)] for phrase in text or ()])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.fixture
def net() -> RandomClip:
    return RandomClip().requires_grad_(False)


def scored(net: RandomClip, picture: Tensor, text: str) -> float:
    """torchmetrics' CLIPScore of an 8-bit picture (H, W, 3)."""
    loader: Any = lambda: (net, processor)  # noqa: E731
    return float(clip_score(picture.permute(2, 0, 1), text, model_name_or_path=loader))


def cosines_of(net: RandomClip):
    def cosines(images: Tensor, texts: list[str]) -> Tensor:
        pictures = (images * 255).round().permute(0, 3, 1, 2)
        a = net.get_image_features(pictures)
        b = net.get_text_features(processor(text=texts)["input_ids"])
        return nn.functional.normalize(a, dim=-1) @ nn.functional.normalize(b, dim=-1).T

    return cosines


def example(count: int) -> tuple[Tensor, Tensor, list[str]]:
    """An 8-bit picture, overlapping masks, and phrases."""
    draw = torch.Generator().manual_seed(count)
    picture = torch.randint(0, 256, (SIZE, SIZE, 3), generator=draw, dtype=torch.uint8)
    masks = (torch.rand(count, SIZE, SIZE, generator=draw) < 0.3).float()
    return picture, masks, ["red ball", "box made of wood", "pink star", "moon"][:count]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_te_and_ti_are_equations_5_and_6_with_clip_scores_of_torchmetrics(net, count):
    picture, masks, targets = example(count)
    found = leakage(cosines_of(net), picture / 255, masks, targets)
    cut = [picture * m.byte()[..., None] for m in masks]
    background = picture * (1 - torch.stack(list(masks)).amax(0)).byte()[..., None]
    te = sum(scored(net, background, y) for y in targets) / count
    ti = sum(scored(net, cut[j], targets[i]) for i, j in permutations(range(count), 2))
    assert te > 1 and ti > 1
    assert found.te == pytest.approx(te, abs=1e-4)
    assert found.ti == pytest.approx(ti / (count * (count - 1)), abs=1e-4)
    diagonal = [scored(net, cut[i], targets[i]) for i in range(count)]
    assert found.pairs.diagonal().tolist() == pytest.approx(diagonal, abs=1e-4)


def test_with_one_object_ti_is_nan_and_te_is_not(net):
    picture, masks, targets = example(1)
    found = leakage(cosines_of(net), picture / 255, masks, targets)
    assert isnan(found.ti) and not isnan(found.te)


def test_the_background_is_what_no_object_covers():
    image = torch.rand(4, 4, 3)
    masks = torch.zeros(2, 4, 4)
    masks[0, :2], masks[1, 1:3] = 1, 1
    cut = cut_outs(image, masks)
    assert torch.equal(cut[2][3], image[3]) and not cut[2][:3].any()
    assert torch.equal(cut[1][1:3], image[1:3]) and not cut[1][0].any()


def test_masks_and_targets_must_match():
    with pytest.raises(ValueError, match="2 masks and 1 targets"):
        leakage(cast("Any", None), torch.zeros(4, 4, 3), torch.ones(2, 4, 4), ["a"])


def test_without_any_background_te_is_nan_and_ti_is_not(net):
    picture, _, targets = example(2)
    masks = torch.zeros(2, SIZE, SIZE)
    masks[0, :5], masks[1, 5:] = 1, 1
    found = leakage(cosines_of(net), picture / 255, masks, targets)
    assert isnan(found.te) and found.ti > 1


def test_a_score_below_zero_counts_as_zero_and_targets_are_rows():
    cosines = torch.tensor([[-0.5, 0.1], [0.4, -0.3], [-0.2, 0.6]])
    masks = torch.zeros(2, 4, 4)
    masks[0, 0], masks[1, 1] = 1, 1
    found = leakage(lambda _images, _texts: cosines, torch.rand(4, 4, 3), masks, ["a", "b"])
    assert found.pairs.tolist() == [pytest.approx([0, 40, 0]), pytest.approx([10, 0, 60])]
    assert (found.te, found.ti) == pytest.approx((30, 25))


def test_a_pixel_of_a_soft_mask_is_whole_or_not_at_all():
    masks = torch.tensor([[[0.4, 0.6]]])
    object_alone, background = cut_outs(torch.ones(1, 2, 3), masks)
    assert object_alone[0, :, 0].tolist() == [0, 1]
    assert background[0, :, 0].tolist() == [1, 0]
