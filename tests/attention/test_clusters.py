"""Clusters of self-attention, and which of them are background."""

import pytest
import torch
from torch import Tensor

from ale_edit.attention.clusters import cluster_rows, find_background, name_clusters


def blocks(rows: int, columns: int) -> Tensor:
    """(rows, columns) the number of one of five areas: four corners around a middle row."""
    areas = torch.full((rows, columns), 4)
    areas[: rows // 2 - 1, : columns // 2], areas[: rows // 2 - 1, columns // 2 :] = 0, 1
    areas[rows // 2 + 1 :, : columns // 2], areas[rows // 2 + 1 :, columns // 2 :] = 2, 3
    return areas


def attention_of(areas: Tensor, seed: int) -> Tensor:
    """(L, L): cells attend to those of their area, with some noise."""
    same = (areas.flatten()[:, None] == areas.flatten()).float()
    noise = torch.rand(same.shape, generator=torch.Generator().manual_seed(seed))
    maps = same + 0.3 * noise
    return maps / maps.sum(1, keepdim=True)


@pytest.mark.parametrize("seed", range(5))
def test_areas_that_attend_to_themselves_are_clusters(seed):
    areas = blocks(8, 12)
    labels = cluster_rows(attention_of(areas, seed), 1).view(8, 12)
    pairs = {(int(a), int(b)) for a, b in zip(areas.flatten(), labels.flatten(), strict=True)}
    assert len(pairs) == 5 and len({b for _, b in pairs}) == 5


def test_a_cluster_is_of_the_noun_that_is_there_or_of_the_background():
    areas = blocks(8, 12)
    wolf, moon = (areas == 0).float(), 0.5 * (areas == 3).float() + 0.05
    named = name_clusters(areas, torch.stack([wolf, moon]))
    assert {int(areas[named == k].unique()) for k in (0, 1)} == {0, 3}
    assert (named[(areas != 0) & (areas != 3)] == -1).all()


@pytest.mark.parametrize("grid", [(8, 12), (4, 6), (16, 24)])
def test_a_cell_with_any_part_of_the_background_is_background(grid):
    areas = blocks(8, 12)
    share = torch.nn.functional.adaptive_avg_pool2d((areas == 0).float()[None], grid)
    wolf = (share == 1).float()
    found = find_background(attention_of(areas, 1)[None], wolf[None], (8, 12))
    free = torch.nn.functional.adaptive_max_pool2d((areas != 0).float()[None], grid)
    assert torch.equal(found, free) and 0 < float(found.mean()) < 1


def test_few_different_rows_make_fewer_clusters():
    rows = torch.zeros(12, 12)
    rows[:6] = 1
    labels = cluster_rows(rows, 1)
    assert len(labels.unique()) == 2 and len(labels[:6].unique()) == 1
