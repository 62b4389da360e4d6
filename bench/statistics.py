"""Means over edits, with bootstrap intervals over groups of edits.

Edits of one image are alike, so images (groups) are drawn, not edits. Every figure and method uses
the same draws: differences between methods are therefore paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan

import numpy as np

DRAWS = 2000
SEED = 0
LEVEL = 0.95


@dataclass(frozen=True)
class Figure:
    """A mean over `count` values, and its 95 % interval; NaN without values.

    low and high are also NaN where all values are of one group, of whose like nothing is known.
    """

    value: float
    low: float
    high: float
    count: int

    @property
    def has_interval(self) -> bool:
        return not isnan(self.low)


class Bootstrap:
    """`groups`: the group of each edit, by edit."""

    def __init__(self, groups: Mapping[str, str], draws: int = DRAWS, seed: int = SEED):
        self._groups = groups
        self._names = sorted(set(groups.values()))
        self._rows = {name: row for row, name in enumerate(self._names)}
        size = len(self._names)
        picks = np.random.default_rng(seed).integers(0, size, (draws, size))
        self._weights = np.stack([np.bincount(row, minlength=size) for row in picks])

    def __len__(self) -> int:
        """The number of groups."""
        return len(self._names)

    def mean(self, values: Mapping[str, Sequence[float]]) -> Figure:
        """The mean over all values of all edits, each edit with any number of values."""
        sums, counts = self._totals(values)
        low, high = _interval(self._draw_means(sums, counts)) if _several(counts) else (nan, nan)
        return Figure(_ratio(sums.sum(), counts.sum()), low, high, int(counts.sum()))

    def difference(
        self, values: Mapping[str, Sequence[float]], other: Mapping[str, Sequence[float]]
    ) -> Figure:
        """mean(values) - mean(other), in each draw of the same groups."""
        mine, theirs = self._totals(values), self._totals(other)
        known = _several(mine[1]) and _several(theirs[1])
        drawn = self._draw_means(*mine) - self._draw_means(*theirs)
        low, high = _interval(drawn) if known else (nan, nan)
        means = [_ratio(sums.sum(), counts.sum()) for sums, counts in (mine, theirs)]
        return Figure(means[0] - means[1], low, high, int(mine[1].sum()))

    def _totals(self, values: Mapping[str, Sequence[float]]) -> tuple[np.ndarray, np.ndarray]:
        """Sum and number of the values in each group."""
        sums, counts = np.zeros(len(self._names)), np.zeros(len(self._names))
        for edit, column in values.items():
            row = self._rows[self._groups[edit]]
            sums[row] += sum(column)
            counts[row] += len(column)
        return sums, counts

    def _draw_means(self, sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The mean in each draw; NaN where a draw holds no value."""
        total = self._weights @ counts
        return np.divide(self._weights @ sums, total, out=np.full(len(total), nan), where=total > 0)


def _several(counts: np.ndarray) -> bool:
    """Whether more than one group has values."""
    return int((counts > 0).sum()) > 1


def _ratio(total: float, count: float) -> float:
    return float(total / count) if count else nan


def _interval(means: np.ndarray) -> tuple[float, float]:
    known = means[~np.isnan(means)]
    if not len(known):
        return nan, nan
    low, high = np.quantile(known, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)
