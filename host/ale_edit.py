"""ALE-Edit as one call: the same functions that the single nodes wire together."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ..editors.ale import ALESettings
from ..prompts.edits import Edits
from ..regions.paste import paste_background, restore_size
from ..regions.regions import AnyRegions, each_image
from .blending import apply_background_blending
from .branch_guider import Branch, BranchGuider
from .messages import name_node
from .regions import PIXELS_PER_CELL
from .rgb_cam import apply_rgb_cam
from .run_checks import require_width
from .schedule import lcm_sigmas
from .self_injection import apply_self_injection
from .text import embed_edits
from .virtual_inversion import virtual_inversion_sampler

NODE = "ALE Edit"


def edit_image(
    model: Any,
    clip: Any,
    vae: Any,
    image: Tensor,
    edits: Edits,
    regions: AnyRegions,
    settings: ALESettings,
    seed: int,
    keeps_source_pixels: bool,
    reuses_source: bool = True,
) -> Tensor:
    """Edit a batch of images (B, H, W, 3 or 4) in [0, 1]: (B, H, W, 3), at exactly the same size.

    regions: those of each image, or of one for all.
    keeps_source_pixels: paste the source's own pixels back outside the regions, and its alpha.
    reuses_source: take the source branch from the last edit where it is the same.
    """
    import latent_preview

    _require_size(image)
    _require_same(edits, regions, image)
    patched = apply_rgb_cam(model, regions)
    patched = apply_self_injection(patched, settings.schedule)
    patched = apply_background_blending(patched, regions)
    source, target = embed_edits(clip, edits)
    _require_one_text(target, model)
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
    _require_decoded(edited, image)
    return (
        paste_background(edited, image, regions)
        if keeps_source_pixels
        else restore_size(edited, image)
    )


def _require_size(image: Tensor) -> None:
    height, width = image.shape[1:3]
    if min(height, width) < PIXELS_PER_CELL:
        raise ValueError(
            f"{NODE}: the image input is {height}x{width} (height x width); at least "
            f"{PIXELS_PER_CELL} pixels a side are needed. Connect a larger image."
        )


def _require_same(edits: Edits, regions: AnyRegions, image: Tensor) -> None:
    with name_node(NODE):
        each_image(regions, len(image))
    if len(edits.items) != len(regions.names):
        raise ValueError(
            f"{NODE}: the edits input has {len(edits.items)} objects ({', '.join(edits.sources)}), "
            f"the regions input has {len(regions.names)} ({', '.join(regions.names)}). Connect the "
            f"same edits to {NODE} and to Regions."
        )


def _require_one_text(target: Any, model: Any) -> None:
    """Refuses a text encoder that gives several texts, or those of another model."""
    if len(target) != 1:
        raise ValueError(
            f"{NODE}: the clip input gives {len(target)} texts, one for each part of a schedule of "
            "hooks, where one is needed. Connect a CLIP whose hooks stay the same in all steps."
        )
    width = model.model.model_config.unet_config.get("context_dim")
    if width is not None:
        require_width("clip", target[0][0].shape[-1], width, NODE)


def _require_decoded(edited: Tensor, image: Tensor) -> None:
    """Refuses a VAE whose picture is not the encoded one's."""
    size, made = image.shape[1:3], edited.shape[1:3]
    if not all(0 <= whole - part < PIXELS_PER_CELL for whole, part in zip(size, made, strict=True)):
        raise ValueError(
            f"{NODE}: the vae input makes a picture of {made[0]}x{made[1]} (height x width) of one "
            f"of {size[0]}x{size[1]}. Connect the VAE of the same checkpoint."
        )
