"""Mask-guided attention against both full outputs mixed by the reader's mask, as published."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ale_edit.attention.mask_guided import WHOLE, Part, attend_in_parts, split_positions
from ale_edit.tests.tiny import generator, randn

L, C, HEADS = 30, 8, 2
CLOSE = {"rtol": 0, "atol": 1e-5}


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return out.transpose(1, 2).flatten(2)


def call_of(images: int) -> Any:
    q, k, v = (
        {b: randn(images, L, C, seed=s + i) for i, b in enumerate(("source", "target"))}
        for s in (1, 3, 5)
    )
    return SimpleNamespace(q=q, k=k, v=v, attend=attend, attend_parts=attend)


def masks(images: int, seed: int) -> Tensor:
    return torch.rand(images, L, generator=generator(seed)) < 0.4


def published(call: Any, reader: Tensor, other: Tensor) -> Tensor:
    """Each image with its own masks (B, L)."""
    q, k, v = call.q["target"], call.k["source"], call.v["source"]
    lowest = torch.finfo(q.dtype).min
    of_foreground, of_background = (
        attend(q, k, v, torch.zeros(len(q), 1, 1, L).masked_fill(hidden[:, None, None], lowest))
        for hidden in (~other, other)
    )
    return torch.where(reader[..., None], of_foreground, of_background)


@pytest.mark.parametrize("images", [1, 3])
def test_each_image_with_masks_of_its_own_equals_the_published_form(images: int):
    call, reader, other = call_of(images), masks(images, 1), masks(images, 2)
    parts = [split_positions(*pair) for pair in zip(reader, other, strict=True)]
    out = attend_in_parts(call, parts, "target")
    torch.testing.assert_close(out, published(call, reader, other), **CLOSE)


def test_one_mask_serves_all_images():
    call, reader, other = call_of(3), masks(1, 1), masks(1, 2)
    out = attend_in_parts(call, [split_positions(reader[0], other[0])], "target")
    expected = published(call, reader.expand(3, -1), other.expand(3, -1))
    torch.testing.assert_close(out, expected, **CLOSE)


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_part_that_is_everything_is_plain_attention(everywhere: bool):
    mask = torch.full((L,), everywhere)
    (part,) = split_positions(mask, mask)
    assert (part.readers, part.read) == (WHOLE.readers, WHOLE.read)
    call = call_of(2)
    out = attend_in_parts(call, [split_positions(mask, mask)], "target")
    assert torch.equal(out, attend(call.q["target"], call.k["source"], call.v["source"]))


@pytest.mark.parametrize("everywhere", [True, False])
def test_a_part_that_has_nothing_to_read_reads_everything(everywhere: bool):
    call, reader, other = call_of(1), masks(1, 1)[0], torch.full((L,), everywhere)
    out = attend_in_parts(call, [split_positions(reader, other)], "target")
    torch.testing.assert_close(
        out, attend(call.q["target"], call.k["source"], call.v["source"]), **CLOSE
    )


def test_parts_may_read_several_branches():
    call, reader = call_of(2), masks(1, 1)[0]
    mine, others = (part.nonzero().flatten() for part in (reader, ~reader))
    parts = [[Part(mine, WHOLE.read, "target"), Part(others, mine)]] * 2
    out = attend_in_parts(call, parts, "target")
    q = call.q["target"]
    own = attend(q, call.k["target"], call.v["target"])
    other = attend(q, call.k["source"][:, mine], call.v["source"][:, mine])
    torch.testing.assert_close(out, torch.where(reader[:, None], own, other), **CLOSE)
