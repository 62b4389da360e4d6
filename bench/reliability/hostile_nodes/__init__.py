"""A node pack for the server of `dev.py bench reliability`, never part of an install.

"ALEReliabilityValue" turns a good value into a hostile one that no widget can hold; its output fits
every socket. "ALEReliabilityLook" raises where an output is not finite or not of a right size.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from .models import MODELS
from .tensors import TENSORS

MARK = "Not a right output: "
"""How the errors of Look begin."""


class Everything(str):
    """The name of a type that links to every socket."""

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


ANY = Everything("*")


class Value:
    """A hostile value of a kind, made from a good one."""

    FUNCTION, CATEGORY, RETURN_TYPES = "make", "ALE-Edit/reliability", (ANY,)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"kind": ("STRING", {})}, "optional": {"good": (ANY, {})}}

    def make(self, kind: str, good: Any = None) -> tuple[Any]:
        return ({**TENSORS, **MODELS}[kind](good),)


class Look:
    """Raises RuntimeError unless a value is finite and, where sizes are given, has one of them."""

    FUNCTION, CATEGORY, RETURN_TYPES, OUTPUT_NODE = "look", "ALE-Edit/reliability", (), True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"value": (ANY, {}), "sizes": ("STRING", {"default": "[]"})}}

    def look(self, value: Any, sizes: str) -> dict[str, Any]:
        if isinstance(value, dict) and "samples" in value:
            value = value["samples"]
        if isinstance(value, torch.Tensor):
            shape, wanted = list(value.shape), json.loads(sizes)
            if not bool(torch.isfinite(value).all()):
                raise RuntimeError(f"{MARK}{shape} with NaN or infinite values")
            if wanted and shape not in wanted:
                raise RuntimeError(f"{MARK}{shape} where one of {wanted} is expected")
        return {}


NODE_CLASS_MAPPINGS = {"ALEReliabilityValue": Value, "ALEReliabilityLook": Look}
