"""RGB-CAM's grouped and joined forms against Algorithm 2 as published, and their properties. fp32,
1e-5."""

from collections.abc import Callable
from itertools import permutations

import pytest
import torch
from torch import Tensor

from ale_edit.attention.rgb_cam import (
    LayerText,
    attend_joined,
    join_text,
    layer_text,
    region_cross_attention,
    region_text,
    visible_tokens,
)
from ale_edit.regions.grid import cell_groups
from ale_edit.tests.tiny import generator, randn

Form = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, str], Tensor]
HEADS, CHANNELS, TOKENS = 2, 8, 40
CLOSE = {"rtol": 0, "atol": 1e-5}


def probabilities(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d) + mask), (B, heads, L, N); mask (L, N)."""
    q, k = (x.unflatten(-1, (HEADS, -1)).transpose(1, 2) for x in (q, k))
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return (scores if mask is None else scores + mask).softmax(dim=-1)


def weighted(p: Tensor, v: Tensor) -> Tensor:
    """p (B, heads, L, N) times v (B or 1, N, C): (B, L, C)."""
    v = v.unflatten(-1, (HEADS, -1)).transpose(1, 2)
    return (p @ v).transpose(1, 2).flatten(2)


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    return weighted(probabilities(q, k, bias), v)


def algorithm_2(
    q: Tensor, keys: Tensor, values: Tensor, owner: Tensor, covered: Tensor, overlap: str
) -> Tensor:
    """As published: one map with an additive mask of -100, every value on every position."""
    masks = covered.flatten(1)  # (K, L)
    mask = torch.zeros(masks.shape[1], len(owner))
    for token, obj in enumerate(owner.tolist()):  # lines 2 to 4
        if obj >= 0:
            mask[~masks[obj], token] = -100
    p = probabilities(q, keys[None], mask)
    out = weighted(p, values[-1][None])
    for i in range(len(masks)):  # lines 8 to 12
        inside = masks[i] if overlap == "last object" else masks[i] & (masks.sum(dim=0) == 1)
        out = torch.where(inside[:, None], weighted(p, values[i][None]), out)
    return out


def texts(keys: Tensor, values: Tensor, owner: Tensor, covered: Tensor, overlap: str) -> LayerText:
    groups = cell_groups(covered, overlap == "last object")
    return layer_text(
        [region_text(keys, values, owner, g.cells, g.value, g.visible) for g in groups]
    )


def grouped(
    q: Tensor, keys: Tensor, values: Tensor, owner: Tensor, covered: Tensor, overlap: str
) -> Tensor:
    return region_cross_attention(q, texts(keys, values, owner, covered, overlap), attention)


def joined(
    q: Tensor, keys: Tensor, values: Tensor, owner: Tensor, covered: Tensor, overlap: str
) -> Tensor:
    text = join_text(texts(keys, values, owner, covered, overlap))
    return attend_joined(q, text, attention)


def disjoint(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """(count, height, width) bool; some cells belong to no object, and every object has a cell."""
    labels = torch.randint(-1, count, (height * width,), generator=generator(seed))
    labels[:count] = torch.arange(count)
    return torch.stack([labels == i for i in range(count)]).view(count, height, width)


def overlapping(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    return randn(count, height, width, seed=seed) > 0.3


def text(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """keys (N, C), values (K+1, N, C), owner (N,): two words an object, unowned tokens between."""
    keys = 2 * randn(TOKENS, CHANNELS, seed=seed)
    values = randn(count + 1, TOKENS, CHANNELS, seed=seed + 1)
    owner = torch.full((TOKENS,), -1)
    for i in range(count):
        owner[1 + 2 * i : 3 + 2 * i] = i
    return keys, values, owner


def queries(batch: int, length: int, seed: int = 7) -> Tensor:
    return 2 * randn(batch, length, CHANNELS, seed=seed)


@pytest.mark.parametrize("form", [grouped, joined])
@pytest.mark.parametrize("overlap", ["background", "last object"])
@pytest.mark.parametrize("count", range(1, 17))
def test_the_fast_path_is_algorithm_2_for_disjoint_masks(count: int, overlap: str, form: Form):
    q, covered = queries(2, 48), disjoint(count, 6, 8, seed=count)
    args = (q, *text(count), covered, overlap)
    torch.testing.assert_close(form(*args), algorithm_2(*args), **CLOSE)


@pytest.mark.parametrize("form", [grouped, joined])
@pytest.mark.parametrize("overlap", ["background", "last object"])
@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (3, 11), (10, 4)])
@pytest.mark.parametrize("batch", [1, 3])
def test_the_fast_path_follows_the_overlap_rule(
    overlap: str, count: int, height: int, width: int, batch: int, form: Form
):
    covered = overlapping(count, height, width, seed=count)
    assert (covered.sum(dim=0) > 1).any()
    args = (queries(batch, height * width), *text(count), covered, overlap)
    torch.testing.assert_close(form(*args), algorithm_2(*args), **CLOSE)


def test_the_two_overlap_rules_differ_in_the_overlap_and_only_there():
    covered = overlapping(3, 8, 8)
    args = (queries(1, 64), *text(3), covered)
    difference = (
        (grouped(*args, "background") - grouped(*args, "last object")).abs().amax(dim=-1)[0]
    )
    shared = (covered.sum(dim=0) > 1).flatten()
    assert (difference[shared] > 1e-2).all()
    assert (difference[~shared] < 1e-6).all()


def test_one_object_under_a_mask_of_ones_is_plain_attention_with_its_value():
    keys, values, owner = text(1)
    q = queries(2, 30)
    out = grouped(q, keys, values, owner, torch.ones(1, 5, 6, dtype=torch.bool), "background")
    torch.testing.assert_close(out, attention(q, keys[None], values[:1]), **CLOSE)


def test_permuting_the_objects_changes_nothing():
    keys, values, owner = text(3)
    covered, q = overlapping(3, 6, 6), queries(1, 36)
    expected = grouped(q, keys, values, owner, covered, "background")
    for order in permutations(range(3)):
        place = torch.tensor([order.index(i) for i in range(3)] + [-1])  # [-1] maps -1 to itself
        out = grouped(
            q, keys, values[[*order, 3]], place[owner], covered[list(order)], "background"
        )
        torch.testing.assert_close(out, expected, **CLOSE)


def test_splitting_a_region_in_two_with_the_same_value_changes_nothing():
    """Both halves see the same words: those of the split object are owned by none here."""
    keys, values, owner = text(2)
    owner[owner == 0] = -1
    covered, q = disjoint(2, 6, 6), queries(1, 36)
    expected = grouped(q, keys, values, owner, covered, "background")
    half = torch.zeros_like(covered[0])
    half[:, :3] = True
    split = torch.stack([covered[0] & half, covered[0] & ~half, covered[1]])
    assert split.flatten(1).any(dim=1).all()
    doubled = values[[0, 0, 1, 2]]
    out = grouped(q, keys, doubled, torch.where(owner == 1, 2, owner), split, "background")
    torch.testing.assert_close(out, expected, **CLOSE)


@pytest.mark.parametrize("form", [grouped, joined])
def test_a_region_sees_no_word_of_another_object(form: Form):
    keys, values, owner = text(3)
    covered, q = disjoint(3, 6, 6), queries(1, 36)
    before = form(q, keys, values, owner, covered, "background")
    keys[owner == 2] += 50
    values[:, owner == 2] += 50
    after = form(q, keys, values, owner, covered, "background")
    changed = (before - after).abs().amax(dim=-1)[0] > 1e-6
    assert torch.equal(changed, covered[2].flatten())


def test_attention_rows_sum_to_the_grid_whatever_the_number_of_objects():
    for count in (1, 3, 10):
        rows = []

        def counting(q: Tensor, k: Tensor, v: Tensor, rows: list[int] = rows) -> Tensor:
            rows.append(q.shape[0] * q.shape[1])
            return attention(q, k, v)

        keys, values, owner = text(count)
        texts = [
            region_text(keys, values, owner, g.cells, g.value, g.visible)
            for g in cell_groups(disjoint(count, 8, 8), False)
        ]
        region_cross_attention(queries(2, 64), layer_text(texts), counting)
        assert sum(rows) == 2 * 64
        assert len(rows) == count + 1


def test_visible_tokens_are_those_of_no_object_and_of_the_given_ones():
    owner = torch.tensor([-1, 0, 0, -1, 1, 2, -1])
    assert visible_tokens(owner, []).tolist() == [0, 3, 6]
    assert visible_tokens(owner, [1]).tolist() == [0, 3, 4, 6]
    assert visible_tokens(owner, [0, 2]).tolist() == [0, 1, 2, 3, 5, 6]


def test_the_queries_are_left_as_they_were():
    q = queries(1, 36)
    before = q.clone()
    grouped(q, *text(2), disjoint(2, 6, 6), "background")
    assert torch.equal(q, before)
