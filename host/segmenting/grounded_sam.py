"""Edits and an image -> Regions, by a detector and a segmenter."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...prompts.edits import Edit, Edits, require_choice
from ...regions.cleaning import remove_specks
from ...regions.detection import Detector, Segmenter, Thresholds
from ...regions.objects import GroundedObject, find_objects, parse_choices, require_words
from ...regions.phrases import clean_phrase
from ...regions.regions import ImageRegions, Regions, make_regions, resize_masks
from ..abilities import require_visible
from ..messages import name_node, speak_as, tell
from ..pictures import read_pictures
from ..regions import CURE_OF_EMPTY, mask_batch, regions_from_edits
from .grounding import NODE

logger = logging.getLogger(__name__)

MISSING = ("stop", "leave out", "whole image")
NOTHING_FOUND = ("stop", "without regions")
SHOWN = 10
CURE_OF_NO_WORD = (
    "Name the object in its Edit Object or Edit List, such as wolf, or give that edit a mask."
)


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
        with name_node(NODE):
            require_choice("missing", self.missing, MISSING)
            require_choice("nothing_found", self.nothing_found, NOTHING_FOUND)
        for name in ("box_threshold", "text_threshold", "dilation", "clean_up"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise ValueError(f"{NODE}: the {name} input is {value}. It must be from 0 to 1.")


def ground_regions(
    image: Tensor,
    edits: Edits,
    detector: Detector,
    segmenter: Segmenter | None,
    settings: MaskSettings,
) -> tuple[Regions, Edits, str]:
    """The regions of all edits, the edits that remain, and what was found, as text.

    image: (B, H, W, 1, 3 or 4) in [0, 1]; each image has its own regions. Edits with a mask keep
    it. Without a segmenter the boxes are the masks. Raises ValueError for an object that is not
    found, where settings.missing is "stop".
    """
    pictures = read_pictures(image, NODE)
    if not edits.items:
        raise ValueError(f"{NODE}: the edits input is empty. Add at least one Edit Object.")
    looked_for = [edit for edit in edits.items if edit.mask is None]
    require_visible(looked_for, NODE)
    found = [_find(detector, picture, looked_for, settings) for picture in pictures]
    text = _describe_all(found)
    size = (pictures.shape[1], pictures.shape[2])
    is_nothing = [not any(entry.instances for entry in entries) for entries in found]
    if len(looked_for) == len(edits.items) and any(is_nothing):
        return *_edit_everywhere(edits, found, is_nothing, settings, size), text
    masks = [
        _make_masks(picture, entries, segmenter, settings.clean_up)
        for picture, entries in zip(pictures, found, strict=True)
    ]
    kept = _add_masks(edits, found, masks, settings, size)
    with speak_as(NODE):
        regions = regions_from_edits(kept, None, settings.dilation, 0.0, size, len(pictures))
    return regions, kept, text


def _find(
    detector: Detector, picture: Tensor, looked_for: list[Edit], settings: MaskSettings
) -> list[GroundedObject]:
    if not looked_for:
        return []
    phrases = [edit.source for edit in looked_for]
    with name_node(NODE):
        choices = parse_choices(settings.instances, len(looked_for))
    with name_node(NODE, CURE_OF_NO_WORD):
        require_words(phrases)
    thresholds = Thresholds(settings.box_threshold, settings.text_threshold)
    return find_objects(detector, picture, phrases, thresholds, choices)


def _add_masks(
    edits: Edits,
    found: list[list[GroundedObject]],
    masks: list[list[Tensor | None]],
    settings: MaskSettings,
    size: tuple[int, int],
) -> Edits:
    """The edits with the masks of their objects in each image, without those left out.

    found, masks: for each image, those of the edits without a mask.
    """
    looked_for = iter(range(len(found[0])))
    kept: list[tuple[Edit, list[Tensor | None]]] = []
    for edit in edits.items:
        if edit.mask is not None:
            kept.append((edit, _own_masks(edit.mask, len(found), size)))
            continue
        i = next(looked_for)
        if not _is_left_out(edits, edit, [entries[i] for entries in found], settings):
            kept.append((edit, [own[i] for own in masks]))
    each = [
        _fill([masks[j] for _, masks in kept], [edit.name for edit, _ in kept], settings, size)
        for j in range(len(found))
    ]
    items = [
        replace(edit, mask=_stack([own[i] for own in each])) if edit.mask is None else edit
        for i, (edit, _) in enumerate(kept)
    ]
    return replace(edits, items=tuple(items))


def _own_masks(mask: Tensor, images: int, size: tuple[int, int]) -> list[Tensor | None]:
    """The mask of an edit in each image, at its size."""
    with name_node(NODE):
        own = list(resize_masks(mask_batch(mask), *size))
    return [own[j % len(own)] for j in range(images)]


def _stack(masks: list[Tensor]) -> Tensor:
    return masks[0] if len(masks) == 1 else torch.stack(masks)


def _is_left_out(
    edits: Edits, edit: Edit, entries: list[GroundedObject], settings: MaskSettings
) -> bool:
    """What settings.missing says of an edit whose object was not found in an image."""
    missing = [j for j, entry in enumerate(entries) if not entry.instances]
    if not missing:
        return False
    where = _of_image(missing[0], len(entries))
    first = entries[missing[0]]
    if settings.missing == "stop":
        instead = "choose in missing what happens to its edit"
        raise ValueError(_explain_stop([first], settings, instead, where))
    why = f"{where}{why_missing(first, settings)}"
    if settings.missing == "leave out":
        _require_no_full_prompt(edits, edit)
        if len(missing) < len(entries):
            raise ValueError(
                f"{NODE}: {why} It was found in another image, and an edit cannot be left out of a "
                "part of a batch. Choose whole image in missing, or edit those images alone."
            )
        tell(f"{NODE}: {why} That edit is left out.")
        return True
    tell(f"{NODE}: {why} Its edit gets the image outside the other objects.")
    return False


def _fill(
    masks: list[Tensor | None], names: list[str], settings: MaskSettings, size: tuple[int, int]
) -> list[Tensor]:
    """The masks of an image, where an object without one gets what the others' grown masks leave:
    in an overlap the others would lose their text."""
    others = [(mask, name) for mask, name in zip(masks, names, strict=True) if mask is not None]
    rest = torch.ones(size)
    if 0 < len(others) < len(masks):
        with name_node(NODE, CURE_OF_EMPTY):
            given, of = zip(*others, strict=True)
            background = make_regions(given, of, settings.dilation).background
        rest = background if background.any() else rest
    return [rest if mask is None else mask for mask in masks]


def _make_masks(
    picture: Tensor, found: list[GroundedObject], segmenter: Segmenter | None, clean_up: float
) -> list[Tensor | None]:
    """The mask (H, W) of each object, of all of its boxes together; None where it has none."""
    named = [(entry.phrase, instance.box) for entry in found for instance in entry.instances]
    masks = iter(_segment_boxes(picture, named, segmenter) if named else ())
    out: list[Tensor | None] = []
    for entry in found:
        own = [remove_specks(next(masks).bool(), clean_up) for _ in entry.instances]
        out.append(torch.stack(own).any(dim=0).float() if own else None)
    return out


def _segment_boxes(
    picture: Tensor,
    named: list[tuple[str, tuple[float, float, float, float]]],
    segmenter: Segmenter | None,
) -> list[Tensor]:
    """The mask (H, W) of each box, with its phrase: the box itself without a segmenter, or where
    that sees nothing in it."""
    height, width = picture.shape[:2]
    boxes = torch.tensor([box for _, box in named])
    boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([width, height] * 2))
    if segmenter is None:
        return [box_mask(box, height, width) for box in boxes]
    masks = list(segmenter.segment(picture, boxes))
    for i, (phrase, _) in enumerate(named):
        if not masks[i].any():
            logger.warning(
                '%s: the segmenter sees nothing in a box of "%s"; the box itself is its mask.',
                NODE,
                phrase,
            )
            masks[i] = box_mask(boxes[i], height, width)
    return masks


def box_mask(box: Tensor, height: int, width: int) -> Tensor:
    """(height, width), True on the pixels that a box (4,) touches; at least one."""
    left, top = (int(v) for v in box[:2].floor())
    right, bottom = (int(v) for v in box[2:].ceil())
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top : max(bottom, top + 1), left : max(right, left + 1)] = True
    return mask


def _edit_everywhere(
    edits: Edits,
    found: list[list[GroundedObject]],
    is_nothing: list[bool],
    settings: MaskSettings,
    size: tuple[int, int],
) -> tuple[ImageRegions, Edits]:
    """Regions over everything, and the edits without regions' effects, for images in which no
    object was found: what the paper does. ValueError where the user wants to stop."""
    first = is_nothing.index(True)
    where, missing = _of_image(first, len(found)), found[first]
    if settings.nothing_found == "stop":
        instead = "choose without regions in nothing_found"
        raise ValueError(_explain_stop(missing, settings, instead, where))
    if not all(is_nothing):
        raise ValueError(
            f"{NODE}: {where}{_why_all(missing, settings)} Something was found in another image, "
            "and the regions cannot be left out of a part of a batch. Edit those images alone."
        )
    tell(
        f"{NODE}: {where}{_why_all(missing, settings)} The whole image is edited, without RGB-CAM "
        "and Background Blending, as in the paper."
    )
    everywhere = replace(
        edits,
        items=tuple(replace(edit, mask=torch.ones(size)) for edit in edits.items),
        settings=replace(edits.settings, rgb_cam=False, blending=False),
    )
    return make_regions([torch.ones(size)] * len(edits.items), edits.names, 0.0), everywhere


def _of_image(image: int, count: int) -> str:
    return f"image {image + 1}: " if count > 1 else ""


def _explain_stop(
    missing: list[GroundedObject], settings: MaskSettings, instead: str, where: str
) -> str:
    """Why it stops, and the cures. instead: the last one, the choice that decides what happens.
    where: the image of a batch."""
    cures = ", ".join(dict.fromkeys(_cure(entry, settings) for entry in missing[:SHOWN]))
    return (
        f"{NODE}: {where}{_why_all(missing, settings)} {cures[0].upper()}{cures[1:]}, name the "
        f"object in other words in its Edit Object or Edit List, give that edit a mask, or "
        f"{instead}."
    )


def _why_all(missing: list[GroundedObject], settings: MaskSettings) -> str:
    nothing = len(missing) > 1 and not any(entry.available for entry in missing)
    sentences = [why_missing(entry, settings) for entry in missing[:SHOWN]]
    return " ".join(["nothing was found."] * nothing + sentences)


def _cure(entry: GroundedObject, settings: MaskSettings) -> str:
    if entry.available:
        numbers = "1" if entry.available == 1 else f"a number from 1 to {entry.available}"
        return f"choose {numbers}, best or all in instances"
    if entry.claimed_by:
        return "say in both edits what tells the objects apart"
    return f"lower {'box' if entry.best < settings.box_threshold else 'text'}_threshold"


def why_missing(entry: GroundedObject, settings: MaskSettings) -> str:
    """Why an object has no box, with its best score and the threshold, as a sentence."""
    if entry.available:
        were = "was" if entry.available == 1 else "were"
        return (
            f'The instances input asks for number {entry.choice} of "{entry.phrase}", but '
            f"{entry.available} {were} found."
        )
    if entry.claimed_by == clean_phrase(entry.phrase):
        return (
            f'"{entry.phrase}" occurs in several edits, and another of them has what was found for '
            "this one."
        )
    if entry.claimed_by:
        return (
            f'"{entry.phrase}" has no region of its own: the only fitting one fits '
            f'"{entry.claimed_by}" better (best score {entry.best:.2f}).'
        )
    threshold = f"box_threshold {settings.box_threshold:g}"
    if entry.best >= settings.box_threshold:
        threshold += f", text_threshold {settings.text_threshold:g} for its noun"
    return f'"{entry.phrase}" was not found: its best score is {entry.best:.2f} ({threshold}).'


def _describe_all(found: list[list[GroundedObject]]) -> str:
    """What was found in each image."""
    texts = ["\n".join(describe(entry) for entry in entries) for entries in found]
    if len(texts) == 1:
        return texts[0]
    return "\n".join(f"image {j}:\n{text}" for j, text in enumerate(texts, start=1) if text)


def describe(entry: GroundedObject) -> str:
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
            f'{NODE}: the edit "{edit.text}" cannot be left out, because '
            "its words stand in the sentences of Full Prompts. Choose stop or whole image in "
            "missing, or leave Full Prompts out."
        )
