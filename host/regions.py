"""Edits and MASK inputs -> Regions."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..editors.editor import Editor, S
from ..prompts.edits import Edits, MethodSettings
from ..regions.grid import coverage, find_hidden_objects
from ..regions.regions import (
    ImageRegions,
    Regions,
    RegionsBatch,
    each_image,
    fit_masks,
    make_regions,
    resize_masks,
)
from .messages import NodeName, name_node, tell

logger = logging.getLogger(__name__)

NODE = NodeName("Regions")
COARSER = (1, 2, 4, 8)
"""Cells of the latent along a side of one cell of the layers of a UNet."""
CURE_OF_EMPTY = (
    "Paint or select the object in the mask of its Edit Object or in the masks input of Regions, "
    "choose another channel if Load Image (as Mask) loaded it, or remove its edit."
)

CURE_OF_EMPTY_INPUT = (
    "Paint the foreground, choose another channel if Load Image (as Mask) loaded the mask, or "
    "disconnect the masks."
)


def read_edit_mask(mask: Tensor, node: str) -> Tensor:
    """What an edit keeps of a MASK input of any of ComfyUI's shapes: (H, W) of one mask, or (B, H,
    W) with one for each image of a batch.

    Raises ValueError when it holds none.
    """
    masks = mask_batch(mask)
    if not len(masks):
        raise ValueError(
            f"{node}: the mask input holds 0 masks, one object takes one. Connect the mask of the "
            "object."
        )
    return masks[0] if len(masks) == 1 else masks


def mask_batch(mask: Tensor) -> Tensor:
    """(K, H, W) of a MASK input of any of ComfyUI's shapes."""
    return mask.reshape(-1, *mask.shape[-2:])


def regions_from_edits(
    edits: Edits,
    masks: Tensor | None,
    dilation: float,
    feather: float = 0.0,
    size: tuple[int, int] | None = None,
    images: int = 1,
) -> Regions:
    """Regions of all edits: each edit's own mask, and for those without one the masks of a batch,
    in order, those of image 1 first. With `images` masks for an edit each image has its own
    regions.

    size: (height, width) of the images, when it is known; masks of another size but the same shape
    are resized, which is logged. Raises ValueError when masks are missing or left over, their
    shapes differ, or one is empty.
    """
    chosen = assign_masks(edits, masks, images)
    height, width = size or (chosen[0].shape[-2], chosen[0].shape[-1])
    with name_node(NODE):
        fitted = [
            _fit(f'{NODE}: the mask of "{edit.name}"', mask, height, width)
            for edit, mask in zip(edits.items, chosen, strict=True)
        ]
    count = max(map(len, fitted))
    made = []
    for j in range(count):
        own = [mask[j if len(mask) > 1 else 0] for mask in fitted]
        with name_node(_speaker(j, count), CURE_OF_EMPTY):
            made.append(make_regions(own, edits.names, dilation, feather))
    whole = [(j, _describe_whole(one)) for j, one in enumerate(made)]
    _tell_first(whole, count)
    _tell_first([(j, _describe_overlaps(one, edits.settings)) for j, one in enumerate(made)], count)
    if not all(text or one.background.any() for (_, text), one in zip(whole, made, strict=True)):
        logger.warning(
            "%s: the masks cover the whole image; Background Blending keeps nothing.", str(NODE)
        )
    return made[0] if count == 1 else RegionsBatch(tuple(made))


def regions_on_images(edits: Edits, image: Tensor, dilation: float) -> Regions:
    """Regions of the edits' own masks on a batch of images (B, H, W, C)."""
    size = (image.shape[1], image.shape[2])
    return regions_from_edits(edits, None, dilation, size=size, images=len(image))


def regions_from_inputs(
    masks: Mapping[str, Tensor], size: tuple[int, int], images: int, node: str
) -> Regions | None:
    """Regions of the mask inputs of an editor, under their names; None of none. With `images` masks
    in an input each image has its own.

    size: (height, width) of the images. Raises ValueError when the masks of an input are of another
    number or shape, or empty.
    """
    if not masks:
        return None
    fitted = []
    for name, given in masks.items():
        mask = mask_batch(given)
        if len(mask) not in (1, images):
            of_batch = f", or {images}, one for each image" if images > 1 else ""
            raise ValueError(
                f"{node}: the {name} input holds {len(mask)} masks, where one is needed{of_batch}. "
                "Connect the mask of this image."
            )
        with name_node(f"{node}: {name}"):
            fitted.append(_fit(f"{node}: {name}", mask, *size))
    count = max(map(len, fitted))
    made = []
    for j in range(count):
        own = [mask[j if len(mask) > 1 else 0] for mask in fitted]
        with name_node(_speaker(j, count, node), CURE_OF_EMPTY_INPUT):
            made.append(make_regions(own, tuple(masks), 0.0))
    return made[0] if count == 1 else RegionsBatch(tuple(made))


def assign_masks(edits: Edits, masks: Tensor | None, images: int) -> list[Tensor]:
    """The masks (1 or images, H, W) of each edit: its own, or else those of a batch in order."""
    if not edits.items:
        raise ValueError(f"{NODE}: the edits input is empty. Add at least one Edit Object.")
    own = [None if edit.mask is None else mask_batch(edit.mask) for edit in edits.items]
    for edit, mask in zip(edits.items, own, strict=True):
        if mask is not None and len(mask) not in (1, images):
            of_batch = f" (or one for each of the {images} images)" if images > 1 else ""
            raise ValueError(
                f'{NODE}: the mask of "{edit.name}" holds {len(mask)} masks, one object '
                f"takes one{of_batch}. Select one of them in its Edit Object, connect the image "
                "batch that they belong to, or connect the whole batch to the masks input of "
                "Regions."
            )
    open_edits = [edit for edit in edits.items if edit.mask is None]
    batch = torch.empty(0) if masks is None else mask_batch(masks)
    needed = len(open_edits)
    if len(batch) in (needed, needed * images):
        rest = iter(range(needed))
        return [batch[next(rest) :: needed] if mask is None else mask for mask in own]
    if len(batch) > needed:
        of_batch = f", or {needed * images} for the {images} images" if images > 1 else ""
        raise ValueError(
            f"{NODE}: the masks input holds {len(batch)} masks, but {needed} of "
            f"{len(edits.items)} edits need one{of_batch}. Add an edit for each mask, in the order "
            "of the masks, or connect only the masks of objects that are edited."
        )
    edit = open_edits[len(batch)]
    raise ValueError(
        f'{NODE}: the edit "{edit.text}" has no region; {needed} masks are '
        f"needed, {len(batch)} given. Connect a mask to its Edit Object or to the masks input of "
        "Regions, or remove the edit."
    )


def read_regions(
    editor: Editor[S], settings: S, edits: Edits, image: Tensor, masks: Mapping[str, Tensor]
) -> Regions | None:
    """Those of the masks that the person gave."""
    if editor.grow_regions is not None:
        grown = editor.grow_regions(settings)
        return None if grown is None else regions_on_images(edits, image, grown)
    if editor.find_mask is not None and any(edit.mask is not None for edit in edits.items):
        if bare := [edit.name for edit in edits.items if edit.mask is None]:
            raise ValueError(
                f'{editor.title}: some of the edits have a mask, but "{bare[0]}" has none. Connect '
                "a mask to every Edit Object, or to none, so that the place is found."
            )
        return regions_on_images(edits, image, 0.0)
    if editor.has_edit_branches:
        masked = replace(edits, items=tuple(edit for edit in edits.items if edit.mask is not None))
        return regions_on_images(masked, image, 0.0) if masked.items else None
    size = (image.shape[1], image.shape[2])
    return regions_from_inputs(masks, size, len(image), editor.title)


def require_same_objects(
    edits: Edits, regions: Regions, image: Tensor, cell: int, node: str
) -> None:
    """Raises ValueError for regions of another number of objects or images, or of another shape,
    than the edits and images (B, H, W, C). cell: pixels along each side of a latent cell."""
    height, width = (n // cell * cell for n in image.shape[1:3])
    with name_node(node):
        each_image(regions, len(image))
        for one in regions.images:  # refuses another shape before anything is sampled
            fit_masks(one.raw, height, width, cell)
    if len(edits.items) != len(regions.names):
        raise ValueError(
            f"{node}: the edits input has {len(edits.items)} objects ({', '.join(edits.names)}), "
            f"the regions input has {len(regions.names)} ({', '.join(regions.names)}). Connect the "
            f"same edits to {node} and to Regions."
        )


def masks_of_latent(regions: Regions, latent: Tensor, cell: int, node: str) -> tuple[Tensor, ...]:
    """The dilated masks (K, H, W) of the pixels that latents (B, ..., h, w) stand for, `cell` of
    them along each side of a latent cell: one for all latents, or one each.

    Raises ValueError when the regions of `node` have another shape than the images behind the
    latents, or are of another number of them.
    """
    height, width = (cell * n for n in latent.shape[-2:])
    with name_node(node):
        each_image(regions, len(latent))
        return tuple(fit_masks(one.dilated, height, width, cell) for one in regions.images)


def require_places(
    regions: Regions,
    masks: Sequence[Tensor],
    size: tuple[int, int],
    settings: MethodSettings,
    node: str,
) -> None:
    """Raises ValueError when RGB-CAM would give an object's text to no cell of the latent, because
    other objects cover all of its cells. An object that has no cell at all is a notice.

    masks: of the regions on the pixels of the latent (masks_of_latent). size: the latent's.
    """
    count = len(masks)
    for j, own in enumerate(masks):
        covered = coverage(own, *size, settings.variant)
        if hidden := find_hidden_objects(covered, settings.overlap == "last object"):
            names = [f'"{name}"' for name in regions.names]
            i, others = next(iter(hidden.items()))
            raise ValueError(
                f"{_speaker(j, count, node)}: {names[i]} has no place of its own: on the "
                f"{size[0]}x{size[1]} cells of the latent its grown mask lies within that of "
                f"{' and '.join(names[k] for k in others)}, and an overlap goes to the "
                f"{settings.overlap}. Paint the masks apart, set dilation to a smaller "
                "number, or remove one of these edits."
            )
    lost = [(j, _describe_lost(regions.names, own, size, settings)) for j, own in enumerate(masks)]
    _tell_first(lost, count, node)


def _describe_lost(
    names: Sequence[str], masks: Tensor, size: tuple[int, int], settings: MethodSettings
) -> str:
    """Which objects have no cell in any layer of the UNet, and why that may be."""
    is_found = torch.zeros(len(masks), dtype=torch.bool)
    for coarser in COARSER:
        height, width = (-(-n // coarser) for n in size)
        is_found |= coverage(masks, height, width, settings.variant).flatten(1).any(dim=1)
    if is_found.all():
        return ""
    lost = [f'"{name}"' for name, found in zip(names, is_found.tolist(), strict=True) if not found]
    reads = settings.variant == "published code"
    why = " (the published code reads the top left pixel of each)" if reads else ""
    instead = " or choose the variant paper" if reads else ""
    return (
        f"the grown mask of {' and '.join(lost)} covers no cell of the latent{why}, so that its "
        f"text is used nowhere. Set dilation to a larger number{instead}."
    )


def _fit(name: str, masks: Tensor, height: int, width: int) -> Tensor:
    """Masks (n, h, w) at the size of the image. name: the node, and which masks."""
    if tuple(masks.shape[1:]) == (height, width):
        return masks
    fitted = resize_masks(masks, height, width)
    logger.warning(
        "%s is %dx%d and was resized to %dx%d (height x width).",
        *(name, *masks.shape[1:], height, width),
    )
    return fitted


def _speaker(image: int, count: int, node: str = NODE) -> str:
    """The node, and which image of a batch it speaks of."""
    return f"{node}: image {image + 1}" if count > 1 else f"{node}"


def _tell_first(found: list[tuple[int, str]], count: int, node: str = NODE) -> None:
    """One notice of what there is to say of the images of a batch."""
    said = [(image, text) for image, text in found if text]
    if said:
        image, text = said[0]
        more = len(said) - 1
        others = f" So it is in {more} more image{'s' * (more > 1)}." if more else ""
        tell(f"{_speaker(image, count, node)}: {text}{others}")


def _describe_whole(regions: ImageRegions) -> str:
    """Which object is everywhere, and why that may be."""
    whole = regions.raw.flatten(1).all(dim=1).nonzero().flatten().tolist()
    if not whole:
        return ""
    names = " and ".join(f'"{regions.names[i]}"' for i in whole)
    return (
        f"the mask of {names} covers the whole image. Background Blending keeps nothing. If Load "
        "Image (as Mask) loaded the mask, its picture may be of one colour with the drawing in the "
        "alpha channel: choose alpha in its channel, and put Invert Mask after it where the "
        "object is opaque."
    )


def _describe_overlaps(regions: ImageRegions, settings: MethodSettings) -> str:
    """Which masks overlap, with the share of each."""
    names = [f'"{name}"' for name in regions.names]
    overlaps = [
        f"those of {names[i]} and {names[j]} ({_percent(of_i)} of {names[i]}, {_percent(of_j)} of "
        f"{names[j]})"
        for (i, j), (of_i, of_j) in regions.overlaps().items()
    ]
    if not overlaps:
        return ""
    return (
        f"some grown masks overlap: {', '.join(overlaps)}. By the settings of these edits the "
        f"overlap goes to the {settings.overlap}."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "less than 1 %"
