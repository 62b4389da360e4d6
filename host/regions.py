"""Edits and MASK inputs -> Regions."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from torch import Tensor

from ..prompts.edits import ARROW, Edits
from ..regions.regions import Regions, fit_masks, make_regions, resize_masks
from .messages import NodeName, name_node

logger = logging.getLogger(__name__)

NODE = NodeName("Regions")
PIXELS_PER_CELL = 8
CURE_OF_EMPTY = (
    "Paint or select the object in the mask of its Edit Object or in the masks input of Regions, "
    "or remove its edit."
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
    _warn(regions, edits)
    return regions


def masks_of_latent(regions: Regions, latent: Tensor, node: str) -> Tensor:
    """The dilated masks (K, 8h, 8w) of the pixels that a latent (..., h, w) stands for.

    Raises ValueError when the regions of `node` have another shape than the image behind the
    latent.
    """
    height, width = (PIXELS_PER_CELL * n for n in latent.shape[-2:])
    with name_node(node):
        return fit_masks(regions.dilated, height, width)


def _warn(regions: Regions, edits: Edits) -> None:
    """Say once what is legal, but seldom meant."""
    pairs = [
        f'"{regions.names[i]}" and "{regions.names[j]}"' for i, j in regions.overlapping_pairs()
    ]
    if pairs:
        logger.warning(
            "%s: the dilated masks of %s overlap; the overlap goes to the %s.",
            str(NODE),
            ", ".join(pairs),
            edits.settings.overlap,
        )
    if not regions.background.any():
        logger.warning(
            "%s: the masks cover the whole image; Background Blending keeps nothing.", str(NODE)
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
