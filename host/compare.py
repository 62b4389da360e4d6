"""Equality of nested values that may hold tensors, as conditionings do."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def is_same(first: object, second: object) -> bool:
    """Whether two values are equal: tensors by content, containers by their items, others by ==.
    What cannot be compared is not the same."""
    if first is second:
        return True
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.shape == second.shape and torch.equal(first.cpu(), second.cpu())
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(is_same(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(is_same, first, second))
    try:
        return bool(first == second)
    except (RuntimeError, TypeError, ValueError):  # such as arrays of several values
        return False
