"""Self-attention injection: the target branch attends with the source branch's queries and keys.

Free-Prompt-Editing (Liu et al., CVPR 2024) injects the self-attention map; ALE-Edit and InfEdit
copy queries and keys in every self-attention layer, which gives the same map, and keep the target's
values.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def rows_with_source(rows: int, pairs: Iterable[tuple[slice, slice]]) -> Tensor:
    """(rows,) int64 index that reads, for each target row of a batch, its source row, and for other
    rows themselves.

    pairs: (source rows, target rows) slices of equal length.
    """
    index = torch.arange(rows)
    for source, target in pairs:
        index[target] = torch.arange(source.start, source.stop)
    return index
