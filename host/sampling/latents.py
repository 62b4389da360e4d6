"""What the cells of a model's latents stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ..versions import pixels_per_cell_of

if TYPE_CHECKING:
    from comfy.latent_formats import LatentFormat
    from comfy.model_patcher import ModelPatcher


def pixels_per_cell(model: ModelPatcher) -> int:
    """Pixels of the image along one side of a latent cell of a MODEL."""
    latent_format = cast("LatentFormat", model.get_model_object("latent_format"))
    return pixels_per_cell_of(latent_format)
