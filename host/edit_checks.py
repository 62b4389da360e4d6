"""What an edit by any editor refuses, and the notices that it gives."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..editors.editor import Start
from ..inversion.stored import OPTIMISED, Inversion
from .comfy_types import Conditioning
from .messages import tell
from .sampling.latents import pixels_per_cell
from .sampling.run_checks import require_width

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


def advise_negative(start: Start, guidance: float, node: str) -> None:
    """Gives a notice where an inversion puts its own text in the place of the negative input."""
    if start == "negative-prompt":
        own = "the source prompt"
    elif start in OPTIMISED and not math.isclose(guidance, 1.0):
        own = "texts that it optimises for each step"
    else:
        return
    tell(
        f"{node}: {start} inversion replaces the negative input with {own}. Disconnect negative, "
        "or use another inversion method."
    )


def advise_guidance(inversion: Inversion, guidance: float, node: str) -> None:
    """Gives a notice where null texts were found at another guidance than the edit runs at."""
    if inversion.method in OPTIMISED and abs(inversion.guidance - guidance) > 1e-6:
        tell(
            f"{node}: the inversion's null texts were found at guidance {inversion.guidance:g}, "
            f"but the edit runs at {guidance:g}; the source will not be followed well. Set "
            "source_guidance to the inversion's guidance."
        )


def require_method(inversion: Inversion, settings: Any) -> None:
    """Raises ValueError for an inversion by a method that is none of an editor's. Those with
    negative texts of their own serve alike."""
    for field in fields(settings):
        if field.name != "inversion_method":
            continue
        alike = set(OPTIMISED) if inversion.method in OPTIMISED else {inversion.method}
        if alike.isdisjoint(field.metadata["choices"]):
            ways = [way for way in field.metadata["choices"] if way != "virtual"]
            raise ValueError(
                f"the inversion is by {inversion.method}, which this editor cannot start from. "
                f"Invert the image by {', '.join(ways)}, or disconnect inversion."
            )


def require_size(image: Tensor, model: ModelPatcher, node: str) -> None:
    """Raises ValueError when an image is smaller than one cell of the latent."""
    height, width = image.shape[1:3]
    least = pixels_per_cell(model)
    if min(height, width) < least:
        raise ValueError(
            f"{node}: the image input is {height}x{width} (height x width); at least {least} "
            "pixels a side are needed. Connect a larger image."
        )


def require_one_text(conditioning: Conditioning, model: ModelPatcher, node: str) -> None:
    """Raises ValueError for a text encoder that gives several texts, or those of another model."""
    if len(conditioning) != 1:
        raise ValueError(
            f"{node}: the clip input gives {len(conditioning)} texts, one for each part of a "
            "schedule of hooks, where one is needed. Connect a CLIP whose hooks stay the same in "
            "all steps."
        )
    width = model.model.model_config.unet_config.get("context_dim")
    if width is not None:
        require_width("clip", conditioning[0][0].shape[-1], width, node)


def require_decoded(edited: Tensor, image: Tensor, model: ModelPatcher, node: str) -> None:
    """Raises ValueError for a VAE whose picture is not the encoded one's, or none."""
    size, made, most = image.shape[1:3], edited.shape[1:3], pixels_per_cell(model)
    if not all(0 <= whole - part < most for whole, part in zip(size, made, strict=True)):
        raise ValueError(
            f"{node}: the vae input makes a picture of {made[0]}x{made[1]} (height x width) of one "
            f"of {size[0]}x{size[1]}. Connect the VAE of the same checkpoint."
        )
    if not bool(edited.isfinite().all()):
        raise ValueError(
            f"{node}: the vae input makes a picture of numbers that are not finite. Use a VAE in "
            "fp32 (--fp32-vae): one in fp16 makes such numbers of some pictures."
        )
