"""What the cells of a model's latents stand for."""

from __future__ import annotations

from typing import Any

from ..versions import pixels_per_cell_of


def pixels_per_cell(model: Any) -> int:
    """Pixels of the image along one side of a latent cell of a MODEL."""
    return pixels_per_cell_of(model.get_model_object("latent_format"))
