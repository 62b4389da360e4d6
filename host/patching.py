"""Adding our wrappers to a clone of a model, and to one run's own options."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.patcher_extension

WRAPPERS = comfy.patcher_extension.WrappersMP


def with_wrapper(model: Any, kind: str, key: str, wrapper: Callable[..., Any], node: str) -> Any:
    """A clone of `model` that carries `wrapper`; the input model stays as it is.

    Raises ValueError when the model already carries one under the same key: two would not know of
        each other.
    """
    if model.wrappers.get(kind, {}).get(key):
        raise ValueError(
            f"{node}: the model input already went through a {node} node. Remove one of the two."
        )
    clone = model.clone()
    clone.add_wrapper_with_key(kind, key, wrapper)
    return clone


def require_two_branch(guider: Any, node: str) -> None:
    """Raises ValueError when a run has no source branch."""
    if not getattr(guider, "is_two_branch", False):
        raise ValueError(
            f"{node} needs a source branch, but this run has none: the model went into a "
            f"{type(guider).__name__}. Use Two-Branch Guider with SamplerCustomAdvanced, or "
            f"bypass {node}."
        )
