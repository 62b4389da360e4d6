"""ALE-Edit as one call: the same functions that the single nodes wire together."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ..editors.ale import ALESettings
from ..prompts.edits import Edits
from ..regions.paste import paste_background, restore_size
from ..regions.regions import Regions
from .blending import apply_background_blending
from .branch_guider import Branch, BranchGuider
from .regions import PIXELS_PER_CELL
from .rgb_cam import apply_rgb_cam
from .schedule import lcm_sigmas
from .self_injection import apply_self_injection
from .text import embed_edits
from .virtual_inversion import virtual_inversion_sampler


def edit_image(
    model: Any,
    clip: Any,
    vae: Any,
    image: Tensor,
    edits: Edits,
    regions: Regions,
    settings: ALESettings,
    seed: int,
    keeps_source_pixels: bool,
    reuses_source: bool = True,
) -> Tensor:
    """Edit a batch of images (B, H, W, 3) in [0, 1]: (B, H, W, 3), at exactly the same size.

    keeps_source_pixels: paste the source's own pixels back outside the regions.
    reuses_source: take the source branch from the last edit where it is the same.
    """
    import latent_preview

    _require_size(image)
    patched = apply_rgb_cam(model, regions)
    patched = apply_self_injection(patched, settings.schedule)
    patched = apply_background_blending(patched, regions)
    source, target = embed_edits(clip, edits)
    negative = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    branches = (
        Branch("source", source, settings.source_guidance),
        Branch("target", target, settings.target_guidance),
    )
    guider = BranchGuider(patched, branches, negative, reuses_source=reuses_source)
    sigmas = lcm_sigmas(model, settings.steps, settings.strength)
    latent = vae.encode(image[..., :3])
    samples = guider.sample(
        torch.zeros_like(latent),  # the sampler draws its own noise
        latent,
        virtual_inversion_sampler(settings.eta),
        sigmas,
        callback=latent_preview.prepare_callback(patched, len(sigmas) - 1),
        seed=seed,
    )
    edited = vae.decode(samples.to(comfy.model_management.intermediate_device()))
    return (
        paste_background(edited, image, regions)
        if keeps_source_pixels
        else restore_size(edited, image)
    )


def _require_size(image: Tensor) -> None:
    height, width = image.shape[1:3]
    if min(height, width) < PIXELS_PER_CELL:
        raise ValueError(
            f"ALE Edit: the image input is {height}x{width} (height x width); at least "
            f"{PIXELS_PER_CELL} pixels a side are needed. Connect a larger image."
        )
