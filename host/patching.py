"""Adding our wrappers to a clone of a model, and to one run's own options."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import comfy.patcher_extension

from .comfy_types import Options
from .messages import own_name

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

WRAPPERS = comfy.patcher_extension.WrappersMP
RGB_CAM_KEY = "ale_edit.rgb_cam"
SELF_INJECTION_KEY = "ale_edit.self_injection"
BLENDING_KEY = "ale_edit.background_blending"
OWN_KEY = "ale_edit."
"""Start of the keys of our own wrappers. None of them changes the source branch."""


def wrap_model(
    model: ModelPatcher, kind: str, key: str, wrapper: Callable[..., Any], node: str
) -> ModelPatcher:
    """A clone of `model` that carries `wrapper`; the input model stays as it is.

    Raises ValueError when the model already carries one under the same key: two would not know of
        each other.
    """
    if model.wrappers.get(kind, {}).get(key):
        same = own_name(node)
        cure = "one of the two" if same == f"{node}" else f"that node, {node} does the same"
        raise ValueError(
            f"{node}: the model input already went through a {same} node. Remove {cure}."
        )
    clone = model.clone()
    clone.parent = _first(model)  # pyright: ignore[reportAttributeAccessIssue]
    clone.add_wrapper_with_key(kind, key, wrapper)
    return clone


def _first(model: ModelPatcher) -> ModelPatcher:
    """The MODEL that all clones of a chain come from.

    ComfyUI falls back to a clone's parent when the clone is gone; a parent that went with it, as
    after an interruption, would be reported as a memory leak at every later load.
    """
    while (parent := getattr(model, "parent", None)) is not None:
        model = parent
    return model


def add_outermost_wrapper(
    model_options: Options, kind: str, key: str, wrapper: Callable[..., Any]
) -> None:
    """Put a wrapper around those of every other node into one run's own model options."""
    options = model_options["transformer_options"] = dict(
        model_options.get("transformer_options", {})
    )
    wrappers = options["wrappers"] = dict(options.get("wrappers", {}))
    wrappers[kind] = {key: [wrapper], **wrappers.get(kind, {})}
