"""Edits and an image -> Regions, by a detector and a segmenter."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..prompts.edits import ARROW, Edit, Edits, require_choice
from ..regions.cleaning import without_specks
from ..regions.detection import Detector, Segmenter, Thresholds
from ..regions.objects import Found, find_objects, parse_choices
from ..regions.regions import Regions
from .grounding import NODE
from .regions import regions_from_edits

logger = logging.getLogger(__name__)

MISSING = ("stop", "leave out", "whole image")
NOTHING_FOUND = ("stop", "without regions")
SHOWN = 10


@dataclass(frozen=True)
class MaskSettings:
    """box_threshold, text_threshold: the least scores of a phrase and of its head noun. instances:
    as parse_choices reads it. missing: what becomes of an object that is not found; nothing_found:
    of an image in which none is. clean_up: islands and holes below this fraction of a mask go."""

    box_threshold: float
    text_threshold: float
    instances: str
    missing: str
    nothing_found: str
    dilation: float
    clean_up: float

    def __post_init__(self) -> None:
        require_choice("missing", self.missing, MISSING, NODE)
        require_choice("nothing_found", self.nothing_found, NOTHING_FOUND, NODE)
        for name in ("box_threshold", "text_threshold", "dilation", "clean_up"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{NODE}: the {name} input is {value}. It must be from 0 to 1.")


def grounded_regions(
    image: Tensor,
    edits: Edits,
    detector: Detector,
    segmenter: Segmenter | None,
    settings: MaskSettings,
) -> tuple[Regions, Edits, str]:
    """The regions of all edits, the edits that remain, and what was found, as text.

    image: (B, H, W, 3 or 4) in [0, 1], of which the first is looked at. Edits with a mask keep it.
    Without a segmenter the boxes are the masks. Raises ValueError for an object that is not found,
    where settings.missing is "stop".
    """
    picture = single_image(image)
    if len(image) > 1:
        logger.warning("%s: the first of %d images is looked at.", NODE, len(image))
    if not edits.items:
        raise ValueError(f"{NODE}: the edits input is empty. Add at least one Edit Object.")
    looked_for = [edit for edit in edits.items if edit.mask is None]
    choices = parse_choices(settings.instances, len(looked_for)) if looked_for else []
    thresholds = Thresholds(settings.box_threshold, settings.text_threshold)
    phrases = [edit.source for edit in looked_for]
    found = find_objects(detector, picture, phrases, thresholds, choices) if looked_for else []
    text = "\n".join(described(entry) for entry in found)
    size = (picture.shape[0], picture.shape[1])
    if len(looked_for) == len(edits.items) and not any(entry.instances for entry in found):
        return *_nothing(edits, found, choices, settings, size), text
    masks = iter(_masks(picture, found, segmenter, settings.clean_up))
    kept: list[Edit] = []
    rest = iter(zip(found, choices, strict=True))
    for edit in edits.items:
        if edit.mask is not None:
            kept.append(edit)
            continue
        entry, choice = next(rest)
        mask = next(masks)
        if mask is None and settings.missing == "leave out":
            _require_no_full_prompt(edits, edit)
            logger.warning("%s: %s That edit is left out.", NODE, why_missing(entry, settings))
            continue
        if mask is None and settings.missing == "whole image":
            logger.warning(
                "%s: %s Its edit gets the whole image.", NODE, why_missing(entry, settings)
            )
            mask = torch.ones(size)
        if mask is None:
            raise ValueError(_stopped(entry, choice, settings))
        kept.append(replace(edit, mask=mask))
    with_masks = replace(edits, items=tuple(kept))
    regions = regions_from_edits(with_masks, None, settings.dilation, 0.0, size)
    return regions, with_masks, text


def single_image(image: Tensor) -> Tensor:
    """The first image (H, W, 3) of an IMAGE, without its alpha channel.

    Raises ValueError for something that is no picture.
    """
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise ValueError(
            f"{NODE}: the image input has the shape {tuple(image.shape)}, not (images, height, "
            "width, channels) with 1, 3 or 4 channels. Connect the IMAGE of Load Image."
        )
    picture = image[0].cpu().float()
    picture = picture.expand(-1, -1, 3) if picture.shape[-1] == 1 else picture[..., :3]
    if not picture.isfinite().all():
        raise ValueError(
            f"{NODE}: the image input holds numbers that are not finite. A node before this one, "
            "such as a VAE in fp16, made them; connect the picture itself."
        )
    return picture.clamp(0, 1).contiguous()


def _masks(
    picture: Tensor, found: list[Found], segmenter: Segmenter | None, clean_up: float
) -> list[Tensor | None]:
    """The mask (H, W) of each object, of all of its boxes together; None where it has none."""
    boxes = torch.tensor([i.box for entry in found for i in entry.instances]).reshape(-1, 4)
    height, width = picture.shape[:2]
    if segmenter is None:
        masks = (
            torch.stack([box_mask(box, height, width) for box in boxes]) if len(boxes) else boxes
        )
    else:
        masks = segmenter.segment(picture, boxes) if len(boxes) else boxes
    out: list[Tensor | None] = []
    start = 0
    for entry in found:
        own = masks[start : start + len(entry.instances)]
        start += len(own)
        if not len(own):
            out.append(None)
            continue
        if empty := [i for i, mask in enumerate(own) if not mask.any()]:
            logger.warning(
                '%s: the segmenter sees nothing in a box of "%s"; the box itself is its mask.',
                NODE,
                entry.phrase,
            )
            own = own.clone()
            for i in empty:
                own[i] = box_mask(torch.tensor(entry.instances[i].box), height, width)
        cleaned = torch.stack([without_specks(mask.bool(), clean_up) for mask in own])
        out.append(cleaned.any(dim=0).float())
    return out


def box_mask(box: Tensor, height: int, width: int) -> Tensor:
    """(height, width), True on the pixels that a box (4,) touches; at least one."""
    left, top = (int(v) for v in box[:2].floor())
    right, bottom = (int(v) for v in box[2:].ceil())
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top : max(bottom, top + 1), left : max(right, left + 1)] = True
    return mask


def _nothing(
    edits: Edits,
    found: list[Found],
    choices: list[str],
    settings: MaskSettings,
    size: tuple[int, int],
) -> tuple[Regions, Edits]:
    """Regions over everything, and the edits without regions' effects, for an image in which no
    object was found: what the paper does. ValueError where the user wants to stop."""
    if settings.nothing_found == "stop":
        if len(found) == 1:
            raise ValueError(_stopped(found[0], choices[0], settings))
        sentences = " ".join(why_missing(entry, settings) for entry in found[:SHOWN])
        raise ValueError(f"{NODE}: nothing was found. {sentences} {_CURE}")
    logger.warning(
        "%s: nothing was found; the whole image is edited, without RGB-CAM and Background "
        "Blending, as in the paper.",
        NODE,
    )
    everywhere = replace(
        edits,
        items=tuple(replace(edit, mask=torch.ones(size)) for edit in edits.items),
        settings=replace(edits.settings, rgb_cam=False, blending=False),
    )
    return regions_from_edits(everywhere, None, 0.0, 0.0, size), everywhere


_CURE = (
    "Lower box_threshold, name the object in other words in its Edit Object or Edit List, give "
    "that edit a mask, or choose in missing what happens to its edit."
)


def _stopped(entry: Found, choice: str, settings: MaskSettings) -> str:
    if entry.available and choice.isdigit():
        return (
            f'{NODE}: the instances input asks for number {choice} of "{entry.phrase}", but '
            f"{entry.available} {'was' if entry.available == 1 else 'were'} found. Choose a number "
            f"from 1 to {entry.available}, best, or all."
        )
    return f"{NODE}: {why_missing(entry, settings)} {_CURE}"


def why_missing(entry: Found, settings: MaskSettings) -> str:
    """Why an object has no box, with its best score and the threshold, as a sentence."""
    if entry.claimed_by:
        return (
            f'"{entry.phrase}" has no region of its own: the only fitting one fits '
            f'"{entry.claimed_by}" better (best score {entry.best:.2f}).'
        )
    threshold = f"box_threshold {settings.box_threshold:g}"
    if entry.best >= settings.box_threshold:
        threshold += f", text_threshold {settings.text_threshold:g} for its noun"
    return f'"{entry.phrase}" was not found: its best score is {entry.best:.2f} ({threshold}).'


def described(entry: Found) -> str:
    """What was found for one object, as a line: instances, scores, boxes in pixels."""
    if not entry.instances:
        return f"{entry.phrase}: not found, best score {entry.best:.2f}"
    asked = f' (as "{entry.words}")' if entry.words != entry.phrase.lower() else ""
    boxes = "; ".join(
        f"score {i.score:.2f} box " + " ".join(f"{v:.0f}" for v in i.box) for i in entry.instances
    )
    return f"{entry.phrase}{asked}: {len(entry.instances)} of {entry.available}: {boxes}"


def _require_no_full_prompt(edits: Edits, edit: Edit) -> None:
    """Raises ValueError where a left-out edit's words would stay in a whole sentence."""
    if edits.source_prompt or edits.target_prompt:
        raise ValueError(
            f'{NODE}: the edit "{edit.source} {ARROW} {edit.target}" cannot be left out, because '
            "its words stand in the sentences of Full Prompts. Choose stop or whole image in "
            "missing, or leave Full Prompts out."
        )
