"""ALE-Edit as one call: the same functions that the single nodes wire together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..editors.ale import ALESettings
from ..editors.editor import plan_virtual_inversion
from ..prompts.edits import Edits
from ..regions.paste import paste_background, restore_size
from ..regions.regions import Regions, each_image
from .attention.rgb_cam import apply_rgb_cam
from .attention.self_injection import apply_self_injection
from .comfy_types import Conditioning
from .editing import OpenEdit, require_decoded, require_one_text, require_size
from .messages import name_node
from .sampling.blending import apply_background_blending
from .sampling.branch_guider import BranchGuider
from .sampling.branch_inputs import Branch
from .sampling.latents import pixels_per_cell
from .text.embedding import embed_edits, encode_text

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP, VAE

NODE = "ALE Edit"


def edit_image(
    model: ModelPatcher,
    clip: CLIP,
    vae: VAE,
    image: Tensor,
    edits: Edits,
    regions: Regions,
    settings: ALESettings,
    seed: int,
    keeps_source_pixels: bool,
    reuses_source: bool = True,
    negative: Conditioning | None = None,
) -> Tensor:
    """Edit a batch of images (B, H, W, 3 or 4) in [0, 1]: (B, H, W, 3), at exactly the same size.

    regions: those of each image, or of one for all.
    keeps_source_pixels: paste the source's own pixels back outside the regions, and its alpha.
    reuses_source: take the source branch from the last edit where it is the same.
    negative: CONDITIONING that both branches share; the empty prompt if None.
    """
    require_size(image, model, NODE)
    _require_same(edits, regions, image)
    patched = apply_rgb_cam(model, regions)
    patched = apply_self_injection(patched, settings.schedule)
    patched = apply_background_blending(patched, regions)
    source, target = embed_edits(clip, edits)
    require_one_text(target, model, NODE)
    if negative is None:
        negative = encode_text(clip, "")
    branches = (
        Branch("source", source, settings.source_guidance),
        Branch("target", target, settings.target_guidance),
    )
    guider = BranchGuider(patched, branches, negative, reuses_source=reuses_source)
    edit = OpenEdit(guider, patched, plan_virtual_inversion(settings, settings.eta))
    edited = edit.edit_image(vae, image, seed)
    require_decoded(edited, image, model, NODE)
    cell = pixels_per_cell(model)
    if keeps_source_pixels:
        return paste_background(edited, image, regions, cell)
    return restore_size(edited, image, cell)


def _require_same(edits: Edits, regions: Regions, image: Tensor) -> None:
    with name_node(NODE):
        each_image(regions, len(image))
    if len(edits.items) != len(regions.names):
        raise ValueError(
            f"{NODE}: the edits input has {len(edits.items)} objects ({', '.join(edits.sources)}), "
            f"the regions input has {len(regions.names)} ({', '.join(regions.names)}). Connect the "
            f"same edits to {NODE} and to Regions."
        )
