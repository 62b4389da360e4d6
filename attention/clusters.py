"""Which cells of an image show none of some nouns: clusters of its self-attention, named by the
maps of the nouns.

Wang et al.: Dynamic Prompt Learning (NeurIPS 2023, arXiv 2309.15664), with the numbers of its
published code.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, interpolate

CLUSTERS = 5
TRIES = 10
ITERATIONS = 100
LEAST_SCORE = 0.2
"""Mean of a noun's map over a cluster, less its least value and as a share of its greatest, above
which the cluster is the noun's."""


def find_background(
    self_maps: Tensor, cross_maps: Tensor, grid: tuple[int, int], seed: int = 1
) -> Tensor:
    """(B, h, w) of the nouns' maps, 1 where a cell has any part of the background, else 0.

    self_maps: (B, L, L), rows are what a cell attends to; L = the cells of `grid`. cross_maps: (B,
    K, h, w) of the nouns, at least 0.
    """
    found = []
    for rows, maps in zip(self_maps.float().cpu(), cross_maps.float().cpu(), strict=True):
        labels = cluster_rows(rows, seed).view(grid)
        is_free = name_clusters(labels, maps) < 0
        found.append(adaptive_max_pool2d(is_free[None].float(), maps.shape[-2:])[0])
    return torch.stack(found).to(cross_maps)


def cluster_rows(rows: Tensor, seed: int) -> Tensor:
    """(L,) the cluster of each row of (L, D): k-means with the least squared distances of some
    tries."""
    from scipy.cluster.vq import kmeans2

    data, draws = rows.double().numpy(), np.random.default_rng(seed)
    best, least = np.zeros(len(data), dtype=np.int64), np.inf
    for _ in range(TRIES):
        start = _draw_centers(data, draws)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a cluster that is left empty
            centers, labels = kmeans2(data, start, iter=ITERATIONS, minit="matrix")
        spread = float(((data - centers[labels]) ** 2).sum())
        if spread < least:
            best, least = labels, spread
    return torch.from_numpy(np.asarray(best, dtype=np.int64))


def _draw_centers(data: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """Centres to begin with, each drawn by its squared distance from those before (k-means++); as
    many as there are different rows, where those are few."""
    centers = [data[draws.integers(len(data))]]
    while len(centers) < CLUSTERS:
        away = np.min([((data - center) ** 2).sum(1) for center in centers], axis=0)
        if away.sum() <= 0:
            break
        centers.append(data[draws.choice(len(data), p=away / away.sum())])
    return np.stack(centers)


def name_clusters(labels: Tensor, cross_maps: Tensor) -> Tensor:
    """(h, w) the noun of each cell's cluster, -1 for none.

    labels: (h, w) clusters. cross_maps: (K, ...) on any grid. A cluster is of the noun with the
    highest score.
    """
    least, greatest = (f(cross_maps, (1, 2), keepdim=True) for f in (torch.amin, torch.amax))
    shown = interpolate(((cross_maps - least) / greatest)[None], labels.shape)[0]
    named = torch.full_like(labels, -1)
    for cluster in labels.unique().tolist():
        cells = labels == cluster
        scores = shown[:, cells].mean(1)
        if float(scores.max()) > LEAST_SCORE:
            named[cells] = int(scores.argmax())
    return named
