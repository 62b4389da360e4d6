"""What differs between the versions of ComfyUI that the tests were run on: 0.3.75, the oldest that
the pack works with, and 0.33.0. Each difference stands here alone, with the version it is for;
versions in between were not tried.

Imported by tests as `ale_edit.tests.versions`.
"""

from __future__ import annotations

from typing import Any

import comfyui_version
import torch

VERSION = tuple(int(part) for part in comfyui_version.__version__.split(".") if part.isdigit())
IS_0_33 = VERSION >= (0, 33)

FLUX_CONFIG: dict[str, Any] = {"txt_ids_dims": []} if IS_0_33 else {}
"""What Flux's classes ask for besides: 0.33 lets a model number its text's positions."""

PASSED_ON: dict[str, tuple[str, ...]] = (
    {
        "SaveImage": ("IMAGE",),
        "PreviewImage": ("IMAGE",),
        "MaskPreview": ("MASK",),
        "PreviewAny": ("STRING",),
    }
    if IS_0_33
    else {}
)
"""Outputs that 0.33 gave to stock nodes which only show something in 0.3.75. The pack's workflows
are saved without them, so that both versions open them."""


def keeps_scaled_fp8(model: Any, layer: Any) -> bool:
    """Whether a MODEL holds the fp8 numbers and the scale that its file has for a linear layer: in
    0.3.75 as a weight of its own kind of layer, in 0.33 as a tensor that stands for the product."""
    if IS_0_33:
        return layer.weight._qdata.dtype == torch.float8_e4m3fn
    return model.model.model_config.scaled_fp8 == layer.weight.dtype == torch.float8_e4m3fn


SCALED_FP8_ROUNDS_BIASES = not IS_0_33
"""0.3.75 keeps the biases of such layers in fp8 too, 0.33 in the file's type."""
