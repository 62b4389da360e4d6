"""What the cells of a model's latents stand for."""

from __future__ import annotations

from typing import Any

RATIOS_ON_THE_FLOOR = {"Flux2": 16, "ChromaRadiance": 1, "HunyuanImage21": 32}
"""Pixels per cell by the class of the latent format, other than the usual 8, for ComfyUI 0.3.75,
whose formats do not say it."""


def pixels_per_cell(model: Any) -> int:
    """Pixels of the image along one side of a latent cell of a MODEL."""
    latent_format = model.get_model_object("latent_format")
    ratio = getattr(latent_format, "spacial_downscale_ratio", None)  # from ComfyUI 0.33 on
    return int(ratio or RATIOS_ON_THE_FLOOR.get(type(latent_format).__name__, 8))
