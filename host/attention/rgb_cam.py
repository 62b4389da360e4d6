"""RGB-CAM in a ComfyUI run: its control (editors/ale.py), and what it refuses.

The rows to act on are known by the conditioning: entries that carry Object-Restricted Embeddings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ...editors.ale import RegionControl
from ...prompts.ore import ObjectRestrictedEmbeddings
from ...regions.regions import Regions
from ..comfy_types import Cond, Conditioning
from ..messages import NodeName
from ..patching import RGB_CAM_KEY
from ..regions import masks_of_latent, require_places
from ..sampling.latents import pixels_per_cell
from ..sampling.run_checks import require_width
from ..text.conditioning import TARGET, EntryBranches, branch_entries
from .adapter import add_control
from .unet import cross_attention_layers, require_cross_attention

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.samplers import CFGGuider

NODE = NodeName("Region Cross-Attention")


def apply_rgb_cam(
    model: ModelPatcher,
    regions: Regions,
    strength: float = 1.0,
    background: Conditioning | None = None,
) -> ModelPatcher:
    """A clone of a MODEL whose cross-attention follows the regions.

    strength: 0 is the unpatched model, 1 is RGB-CAM; between them the two attention outputs are
        mixed.
    background: a CONDITIONING of one entry and one text, which the positions of no region see
        instead of the whole prompt without its objects' words (an extension: the paper edits images
        whose background is kept anyway), or None.
    Raises ValueError for a model without cross-attention and for any other background.
    """
    require_cross_attention(model, NODE)
    outside = None if background is None else _background_text(background)

    def make_control(guider: CFGGuider, latent_image: Tensor) -> RegionControl | None:
        texts = _require_texts(guider, regions)
        masks = masks_of_latent(regions, latent_image, pixels_per_cell(guider.model_patcher), NODE)
        settings = texts[0].settings
        if strength == 0 or not settings.rgb_cam:
            return None
        height, width = latent_image.shape[-2:]
        require_places(regions, masks, (height, width), settings, NODE)
        _require_widths(guider.model_patcher, texts, outside)
        return RegionControl(masks, strength, outside)

    return add_control(model, RGB_CAM_KEY, make_control, NODE)


def _require_widths(
    patcher: ModelPatcher, texts: list[ObjectRestrictedEmbeddings], background: Tensor | None
) -> None:
    inputs = [("positive", text.keys) for text in texts]
    if background is not None:
        inputs.append(("background", background))
    for module in cross_attention_layers(patcher.get_model_object("diffusion_model")).values():
        for name, text in inputs:
            require_width(name, text.shape[-1], module.to_k.in_features, NODE)


def _background_text(background: Conditioning) -> Tensor:
    """(N, D): the text of a background CONDITIONING."""
    texts = [text for text, _ in background]
    if len(texts) != 1 or texts[0].shape[0] != 1:
        found = f"{len(texts)} entries" if len(texts) != 1 else f"{texts[0].shape[0]} texts"
        raise ValueError(
            f"{NODE}: the background input has {found}; it must be one text. Connect one CLIP Text "
            "Encode."
        )
    return texts[0][0]


def _require_texts(guider: CFGGuider, regions: Regions) -> list[ObjectRestrictedEmbeddings]:
    """The embeddings of a run's conditionings, checked against the regions."""
    entries = {uuid: entry for uuid, entry in branch_entries(guider.conds).items() if entry.texts}
    if not entries:
        raise ValueError(
            f"{NODE}: no conditioning of this run was made by Object-Restricted Embeddings. "
            "Connect the target output of that node to the positive input of the sampler, or to "
            "the target input of Two-Branch Guider."
        )
    for cond in (cond for conds in guider.conds.values() for cond in conds):
        if cond["uuid"] in entries:
            _require_untouched(cond, entries[cond["uuid"]])
    texts = [entry.texts[TARGET] for entry in entries.values()]
    if len({text.settings for text in texts}) > 1:
        raise ValueError(
            f"{NODE}: the conditionings of this run were made with different Method Settings. "
            "Connect the same edits to every Object-Restricted Embeddings."
        )
    for text in texts:
        if len(text.phrases) != len(regions.names):
            raise ValueError(
                f"{NODE}: the conditioning has {len(text.phrases)} objects "
                f"({', '.join(text.phrases)}), the regions input has {len(regions.names)} "
                f"({', '.join(regions.names)}). Connect the same edits to Object-Restricted "
                "Embeddings and to Regions."
            )
    return texts


def _require_untouched(cond: Cond, entry: EntryBranches) -> None:
    """Refuses what other nodes may have done to our conditioning on its way to the sampler."""
    text, base = cond["cross_attn"], entry.texts[TARGET].base
    tokens, expected = text.shape[1], base.shape[0]
    if tokens % expected:
        raise ValueError(
            f"{NODE}: the conditioning has {tokens} tokens where Object-Restricted Embeddings made "
            f"{expected}; another node changed the text after it. Remove what appends tokens to "
            "this conditioning."
        )
    if text.shape[0] > 1:  # a negative has one text for all branches
        text = text.chunk(len(entry.branches))[entry.branches.index(TARGET)]
    if not bool((text.unflatten(1, (-1, expected)).to(base) == base).all()):
        raise ValueError(
            f"{NODE}: another node changed the text of the conditioning after Object-Restricted "
            "Embeddings (such as Conditioning Concat or Average). Connect that node's output "
            "directly."
        )
    if cond.get("area") is not None:
        raise ValueError(
            f"{NODE}: the conditioning is limited to the area {tuple(cond['area'])}. Remove "
            "Conditioning (Set Area); the regions say where each object is."
        )
    if cond.get("mask") is not None and cond.get("set_area_to_bounds"):
        raise ValueError(
            f"{NODE}: the conditioning is limited to the area of a mask. Set Conditioning (Set "
            "Mask) to default instead of mask bounds; the regions say where each object is."
        )
