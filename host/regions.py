"""Edits and MASK inputs -> Regions."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import Tensor

from ..prompts.edits import ARROW, Edits, MethodSettings
from ..regions.grid import coverage, hidden_objects
from ..regions.regions import Regions, fit_masks, make_regions, resize_masks
from .messages import NodeName, name_node, tell

logger = logging.getLogger(__name__)

NODE = NodeName("Regions")
PIXELS_PER_CELL = 8
CURE_OF_EMPTY = (
    "Paint or select the object in the mask of its Edit Object or in the masks input of Regions, "
    "choose another channel if Load Image (as Mask) loaded it, or remove its edit."
)


def single_mask(mask: Tensor, node: str) -> Tensor:
    """(H, W) of a MASK input, which may come as (H, W), (1, H, W) or (1, 1, H, W).

    Raises ValueError when it holds several masks.
    """
    masks = mask_batch(mask)
    if len(masks) != 1:
        raise ValueError(
            f"{node}: the mask input holds {len(masks)} masks, one object takes one. Select one "
            "of them, or connect the whole batch to the masks input of Regions."
        )
    return masks[0]


def mask_batch(mask: Tensor) -> Tensor:
    """(K, H, W) of a MASK input of any of ComfyUI's shapes."""
    return mask.reshape(-1, *mask.shape[-2:])


def regions_from_edits(
    edits: Edits,
    masks: Tensor | None,
    dilation: float,
    feather: float = 0.0,
    size: tuple[int, int] | None = None,
) -> Regions:
    """Regions of all edits: each edit's own mask, and for those without one the masks of a batch,
    in order.

    size: (height, width) of the image, when it is known; masks of another size but the same shape
    are resized, which is logged. Raises ValueError when masks are missing or left over, or their
    shapes differ.
    """
    chosen = _assign(edits, masks)
    height, width = size or (chosen[0].shape[-2], chosen[0].shape[-1])
    fitted = []
    for edit, mask in zip(edits.items, chosen, strict=True):
        if tuple(mask.shape) != (height, width):
            given = tuple(mask.shape)
            with name_node(NODE):
                mask = resize_masks(mask[None], height, width)[0]
            logger.warning(
                '%s: the mask of "%s" is %dx%d and was resized to %dx%d (height x width).',
                str(NODE),
                edit.source,
                *given,
                height,
                width,
            )
        fitted.append(mask)
    with name_node(NODE, CURE_OF_EMPTY):
        regions = make_regions(fitted, edits.sources, dilation, feather)
    _advise_of_whole(regions)
    _require_places(regions, edits.settings)
    _advise_of_overlaps(regions, edits.settings)
    return regions


def masks_of_latent(regions: Regions, latent: Tensor, node: str) -> Tensor:
    """The dilated masks (K, 8h, 8w) of the pixels that a latent (..., h, w) stands for.

    Raises ValueError when the regions of `node` have another shape than the image behind the
    latent.
    """
    height, width = (PIXELS_PER_CELL * n for n in latent.shape[-2:])
    with name_node(node):
        return fit_masks(regions.dilated, height, width)


def _advise_of_whole(regions: Regions) -> None:
    """Say which of several objects is everywhere: its mask may be another channel."""
    whole = regions.raw.flatten(1).all(dim=1).nonzero().flatten().tolist()
    if whole and len(regions.names) > 1:
        names = " and ".join(f'"{regions.names[i]}"' for i in whole)
        tell(
            f"{NODE}: the mask of {names} covers the whole image. If Load Image (as Mask) loaded "
            "it, its picture may be of one colour with the drawing in the alpha channel: choose "
            "alpha in its channel, and put Invert Mask behind it where the object is opaque."
        )


def _advise_of_overlaps(regions: Regions, settings: MethodSettings) -> None:
    """Say what is legal, but seldom meant."""
    names = [f'"{name}"' for name in regions.names]
    overlaps = [
        f"those of {names[i]} and {names[j]} ({_percent(of_i)} of {names[i]}, {_percent(of_j)} of "
        f"{names[j]})"
        for (i, j), (of_i, of_j) in regions.overlaps().items()
    ]
    if overlaps:
        tell(
            f"{NODE}: some grown masks overlap: {', '.join(overlaps)}. The overlap goes to the "
            f"{settings.overlap}."
        )
    if not regions.background.any():
        logger.warning(
            "%s: the masks cover the whole image; Background Blending keeps nothing.", str(NODE)
        )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "less than 1 %"


def _require_places(regions: Regions, settings: MethodSettings) -> None:
    """Raises ValueError when RGB-CAM would give an object's text to no cell of the latent, because
    other objects cover all of its cells."""
    if not settings.rgb_cam:
        return
    height, width = (max(side // PIXELS_PER_CELL, 1) for side in regions.dilated.shape[-2:])
    covered = coverage(regions.dilated, height, width, settings.variant)
    hidden = hidden_objects(covered, settings.overlap == "last object")
    if hidden:
        names = [f'"{name}"' for name in regions.names]
        i, others = next(iter(hidden.items()))
        raise ValueError(
            f"{NODE}: {names[i]} has no place of its own: its grown mask lies within that of "
            f"{' and '.join(names[j] for j in others)}, and an overlap goes to the "
            f"{settings.overlap}. Paint the masks apart, set dilation to a smaller number, or "
            "remove one of these edits."
        )


def _assign(edits: Edits, masks: Tensor | None) -> Sequence[Tensor]:
    if not edits.items:
        raise ValueError(f"{NODE}: the edits input is empty. Add at least one Edit Object.")
    open_edits = [edit for edit in edits.items if edit.mask is None]
    batch = list(mask_batch(masks)) if masks is not None else []
    if len(batch) > len(open_edits):
        raise ValueError(
            f"{NODE}: the masks input holds {len(batch)} masks, but {len(open_edits)} of "
            f"{len(edits.items)} edits need one. Add an edit for each mask, in the order of the "
            "masks, or connect only the masks of objects that are edited."
        )
    if len(batch) < len(open_edits):
        edit = open_edits[len(batch)]
        raise ValueError(
            f'{NODE}: the edit "{edit.source} {ARROW} {edit.target}" has no region; '
            f"{len(open_edits)} masks are needed, {len(batch)} given. Connect a mask to its Edit "
            "Object or to the masks input of Regions, or remove the edit."
        )
    rest = iter(batch)
    return [edit.mask if edit.mask is not None else next(rest) for edit in edits.items]
