"""Background Blending in a ComfyUI run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ...editors.ale import BlendingControl
from ...regions.regions import Regions
from ..attention.adapter import add_control
from ..flow_families import require_editable
from ..messages import NodeName
from ..patching import BLENDING_KEY
from ..regions import masks_of_latent
from ..text.conditioning import run_settings
from .latents import pixels_per_cell
from .run_checks import require_branches

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.samplers import CFGGuider

NODE = NodeName("Background Blending")


def apply_background_blending(
    model: ModelPatcher, regions: Regions, is_soft: bool = False
) -> ModelPatcher:
    """A clone of a MODEL that keeps the source outside the regions, under a guider of branches."""
    require_editable(model, NODE)

    def make_control(guider: CFGGuider, latent_image: Tensor) -> BlendingControl | None:
        require_branches(guider, ("source", "target"), NODE)
        cell = pixels_per_cell(guider.model_patcher)
        masks_of_latent(regions, latent_image, cell, NODE)  # refuses regions of other images
        settings = run_settings(guider.conds)
        if not settings.blending:
            return None
        return BlendingControl(regions, settings.variant, cell, is_soft)

    return add_control(model, BLENDING_KEY, make_control, NODE)
