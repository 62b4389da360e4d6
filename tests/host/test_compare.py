"""Equality of nested values that may hold tensors."""

from __future__ import annotations

import numpy as np
import torch

from ale_edit.host.compare import is_same
from ale_edit.tests.tiny import randn


def test_nested_values_are_compared_and_tensors_by_content():
    one = {"a": [torch.zeros(2), {"b": 1.0}], "c": (None, "x")}
    assert is_same(one, {"a": [torch.zeros(2), {"b": 1.0}], "c": (None, "x")})
    draws = randn(2)
    for other in (
        {"a": [draws, {"b": 1.0}], "c": (None, "x")},
        {"a": [torch.zeros(3), {"b": 1.0}], "c": (None, "x")},
        {"a": [torch.zeros(2), {"b": 1.5}], "c": (None, "x")},
        {"a": [torch.zeros(2), {"b": 1.0}], "c": (None, None)},
        {"a": [torch.zeros(2), {"b": 1.0}]},
    ):
        assert not is_same(one, other)


def test_what_cannot_be_compared_is_not_the_same():
    assert not is_same(np.zeros(2), np.zeros(2))
    values = np.zeros(2)
    assert is_same({"a": values}, {"a": values})
