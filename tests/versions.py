"""What differs between the versions of ComfyUI that the tests were run on: 0.3.75, the oldest that
the pack works with, and 0.33.0. Each difference stands here alone, with the version it is for;
versions in between were not tried.

Imported by tests as `ale_edit.tests.versions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfyui_version
import torch

VERSION = tuple(int(part) for part in comfyui_version.__version__.split(".") if part.isdigit())
IS_0_33 = VERSION >= (0, 33)

FLUX_CONFIG: dict[str, Any] = {"txt_ids_dims": []} if IS_0_33 else {}
"""What Flux's classes ask for besides: 0.33 lets a model number its text's positions."""

CHROMA_CONFIG: dict[str, Any] = {**FLUX_CONFIG, "vec_in_dim": None} if IS_0_33 else {}
"""The same for Chroma, which has Flux's settings in 0.33."""

FLUX2_CONFIG: dict[str, Any] = {"txt_ids_dims": [3]} if IS_0_33 else {}
"""The same for Flux.2, whose text is numbered; 0.3.75 numbers it wherever there are four axes."""

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


REPORTS_CACHED_NODES = IS_0_33
"""Whether a run without a client_id has the outputs of cached nodes in its history."""


def keeps_scaled_fp8(model: Any, layer: Any) -> bool:
    """Whether a MODEL holds the fp8 numbers and the scale that its file has for a linear layer: in
    0.3.75 as a weight of its own kind of layer, in 0.33 as a tensor that stands for the product."""
    if IS_0_33:
        return layer.weight._qdata.dtype == torch.float8_e4m3fn
    return model.model.model_config.scaled_fp8 == layer.weight.dtype == torch.float8_e4m3fn


SCALED_FP8_ROUNDS_BIASES = not IS_0_33
"""0.3.75 keeps the biases of such layers in fp8 too, 0.33 in the file's type."""

HAS_CFG_OVERRIDE = IS_0_33
"""A stock node that sets a guider's guidance for a part of the steps; 0.3.75 has none such."""

TRANSLATED = "zh" if IS_0_33 else "de"
"""A language in which the front end shows the translations of packs. 1.32.9 loses them where it has
a translation of its own, which it loads later and puts in their place; it has no German."""


REFUSES_CHOICES = IS_0_33
"""Whether ComfyUI refuses a value of a V3 node that is not in its input's list; 0.3.75 leaves that
to the node."""


def load_mask(node: Any, name: str, channel: str) -> torch.Tensor:
    """What the stock Load Image (as Mask) gives: 0.33 renamed its method."""
    return getattr(node, node.FUNCTION)(name, channel)[0]


@dataclass(frozen=True)
class PageParts:
    """Where a front end has what the browser tests press and read, as CSS selectors.

    error_card: what says that a run failed. details_button, dismiss_button: in that card, where it
    is no dialog with the whole message. missing_link: its words for an input without a link.
    right_panel: the setting that is true while it is open.
    help_picture: (left, top, right, bottom) of the help panel and its node in a screenshot.
    """

    dialog: str
    close: str
    search: str
    run_button: str
    error_card: str
    details: str
    details_button: str | None
    dismiss_button: str | None
    missing_link: str
    right_panel: str | None
    help_panel: str
    help_picture: tuple[int, int, int, int]


PAGE = (
    PageParts(  # front end 1.49.6
        dialog="[role=dialog][data-state=open]",
        close="button[aria-label=Close], button:has(.pi-times), button:has(.icon-\\[lucide--x\\])",
        search="input[type=text][placeholder^=Search]",
        run_button="button[data-testid=queue-button]",
        error_card="[data-testid=error-overlay]",
        details="[data-testid=properties-panel]",
        details_button="[data-testid=error-overlay-see-errors]",
        dismiss_button="[data-testid=error-overlay-dismiss]",
        missing_link="Required input slots have no connection",
        right_panel="Comfy.RightSidePanel.IsOpen",
        help_panel="[data-testid=properties-panel]",
        help_picture=(400, 0, 2000, 1000),
    )
    if IS_0_33
    else PageParts(  # front end 1.32.9
        dialog=".p-dialog",
        close="button:has(.pi-times), .p-dialog-close-button",
        search="input[type=text][placeholder^=Search]",
        run_button="[data-testid=queue-button] button",
        error_card=".p-dialog",
        details=".p-dialog",
        details_button=None,
        dismiss_button=None,
        missing_link="Required input is missing",
        right_panel=None,
        help_panel=".side-bar-panel, .sidebar-content-container",
        help_picture=(0, 0, 1000, 1000),
    )
)
