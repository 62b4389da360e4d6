"""PIE-Bench as a data set: mapping_file.json and its images.

X. Ju et al., Direct Inversion, ICLR 2024 (arXiv 2310.01506). ALE-Edit's table 14 takes its types 1
(change object), 4 (content), 6 (colour) and 7 (material). One object an edit: TI is n/a.

The prompts are PIE-Bench's sentences without brackets. The phrase of the edited object is the
blended word with the bracketed words, and what stands between them. The edited region is
PIE-Bench's own mask (the paper finds it with Grounded-SAM from the blended word).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .dataset import (
    Dataset,
    ImageEdit,
    ImageObject,
    ObjectEdit,
    SourceImage,
    read_dataset,
    write_dataset,
)
from .json_files import JsonObject, read_json

SIZE = 512  # of images and masks
TYPES = {
    "0": "random",
    "1": "change object",
    "2": "add object",
    "3": "delete object",
    "4": "change content",
    "5": "change pose",
    "6": "change color",
    "7": "change material",
    "8": "change background",
    "9": "change style",
}
OF_THE_PAPER = ("1", "4", "6", "7")  # table 14
SCHEDULE_OF = {"6": "color", "7": "material"}
"""Self-Attention Injection's edit type; every other one counts as a change of the object."""


@dataclass(frozen=True)
class EntryType:
    """Of an entry of mapping_file.json, which has more keys."""

    editing_type_id: str


@dataclass(frozen=True)
class MappingEntry(EntryType):
    """What is read of an entry whose type was asked for."""

    image_path: str
    original_prompt: str
    editing_prompt: str
    mask: list[Any]
    blended_word: str = ""


def pie_bench(
    mapping: Path,
    images: Path,
    folder: Path,
    name: str,
    *,
    types: Sequence[str] = OF_THE_PAPER,
    seed: int = 0,
    tell: Callable[[str], None] = print,
) -> Dataset:
    """Read PIE-Bench's mapping and the images below `images`, and write a data set to `folder`."""
    sources, edits, files = {}, [], {}
    for key, entry in read_json(mapping, "mapping of PIE-Bench").entries():
        kind = entry.read_as(EntryType).editing_type_id
        if kind not in TYPES:
            raise entry.wrong(f"has an 'editing_type_id' {kind!r}", f"There are {', '.join(TYPES)}")
        if kind not in types:
            continue
        read = entry.read_as(MappingEntry)
        stem = re.sub(r"\W+", "_", key)
        mask = decode_mask(read.mask, entry, tell)
        if not mask.getbbox():
            tell(f"{key}: its mask marks nothing; the edit is left out.")
            continue
        phrases = _phrases(read)
        if phrases is None:
            tell(f"{key}: its blended words do not stand in its prompts; the prompts are taken.")
        source_prompt, target_prompt = (_plain(text) for text in _prompts(read))
        source, target = phrases or (source_prompt, target_prompt)
        if source == target:
            tell(
                f"{key}: source and target phrase are both {source!r}; what its prompts change "
                "lies outside of it."
            )
        suffix = Path(read.image_path).suffix or ".jpg"
        image = SourceImage(
            f"images/{stem}{suffix}", (ImageObject(f"masks/{stem}.png", source),), key, frame=1
        )
        files[image.file] = _image_bytes(entry, images / read.image_path)
        files[image.objects[0].mask] = mask
        sources[key] = image
        edits.append(
            ImageEdit(
                f"pie-{stem}",
                key,
                SCHEDULE_OF.get(kind, "object"),
                seed,
                (ObjectEdit(0, source, target),),
                source_prompt,
                target_prompt,
                f"{kind} {TYPES[kind]}",
            )
        )
    if not edits:
        raise ValueError(f"{mapping} has no edit of type {', '.join(types)}. Give other --types.")
    about = {"mapping": "PIE-Bench (arXiv 2310.01506)", "types": list(types), "edits": len(edits)}
    dataset = Dataset(folder, name, about, sources, tuple(in_turn(edits)))
    write_dataset(dataset, files, is_new=True)
    return read_dataset(folder, tell)


def in_turn(edits: Sequence[ImageEdit]) -> list[ImageEdit]:
    """Edits of each category in turn, spread evenly, so that every beginning is a fair sample."""
    by_kind: dict[str, list[ImageEdit]] = {}
    for edit in edits:
        by_kind.setdefault(edit.kind, []).append(edit)
    placed = [
        ((number + 0.5) / len(column), kind, edit)
        for kind, column in by_kind.items()
        for number, edit in enumerate(column)
    ]
    return [edit for _, _, edit in sorted(placed, key=lambda p: p[:2])]


def decode_mask(runs: Sequence[Any], entry: JsonObject, tell: Callable[[str], None]) -> Image.Image:
    """The mask of [start, length, start, length, ...] in the rows of 512x512 pixels, without the
    border that PIE-Bench adds for its scores (SourceImage.frame).

    A run beyond the last pixel ends there, as in PIE-Bench's own code (mask_decode); this is
    reported.
    """
    if len(runs) % 2 or not all(isinstance(n, int) and n >= 0 for n in runs):
        raise entry.wrong("has a 'mask' that is not a list of starts and lengths")
    flat = np.zeros(SIZE * SIZE, np.uint8)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        if start >= len(flat):
            raise entry.wrong(f"has a 'mask' with a start {start}, outside {SIZE}x{SIZE} pixels")
        if start + length > len(flat):
            tell(
                f"{entry.place}: the run [{start}, {length}] of its 'mask' goes beyond the last of "
                f"{SIZE}x{SIZE} pixels; it ends there, as in PIE-Bench's own code."
            )
        flat[start : start + length] = 255
    return Image.fromarray(flat.reshape(SIZE, SIZE))


def _image_bytes(entry: JsonObject, path: Path) -> bytes:
    try:
        with Image.open(path) as picture:
            size = picture.size
    except FileNotFoundError:
        raise entry.wrong(
            f"names an image that is not there: {path}", "Give --images the folder that has it"
        ) from None
    except OSError as error:
        raise entry.wrong(f"names {path}, which cannot be read ({error})", "Restore it") from error
    if size != (SIZE, SIZE):
        raise entry.wrong(
            f"names {path} of {size[0]}x{size[1]} pixels, and its mask has {SIZE}x{SIZE}",
            "Take PIE-Bench's own images",
        )
    return path.read_bytes()


# -- prompts and phrases ---------------------------------------------------------------------------


def _prompts(entry: MappingEntry) -> tuple[str, str]:
    """Without round brackets, which would weigh words."""
    prompts = (entry.original_prompt, entry.editing_prompt)
    source, target = (re.sub(r"[()]", " ", text) for text in prompts)
    return source, target


def _plain(prompt: str) -> str:
    """Without the brackets that mark what is edited, and without doubled blanks."""
    return " ".join(re.sub(r"[\[\]]", " ", prompt).split())


def _phrases(entry: MappingEntry) -> tuple[str, str] | None:
    """Source and target phrase, as they stand in the prompts; None where they do not."""
    words = entry.blended_word.split()
    half = len(words) // 2
    if len(words) % 2 or not words:
        return None
    blended = (words[:half], words[half:])
    found = [phrase(p, w) for p, w in zip(_prompts(entry), blended, strict=True)]
    return (found[0], found[1]) if found[0] and found[1] else None


def phrase(prompt: str, blended: Sequence[str]) -> str:
    """The least run of words with the blended ones and the bracketed ones nearest to them.

    Empty where the blended words do not stand in the prompt.
    """
    words, marked = _split_brackets(prompt)
    bare = [_bare(word) for word in words]
    wanted = [_bare(word) for word in blended]
    places = [
        (k, k + len(wanted))
        for k in range(len(words) - len(wanted) + 1)
        if bare[k : k + len(wanted)] == wanted
    ]
    if not places:
        return ""
    spans = [(min(f, g), max(e, h)) for f, e in places for g, h in marked or [(f, e)]]
    first, end = min(spans, key=lambda span: (span[1] - span[0], span))
    return " ".join(words[first:end]).strip(".,;:!?")


def _bare(word: str) -> str:
    return word.lower().strip(".,;:!?")


def _split_brackets(prompt: str) -> tuple[list[str], list[tuple[int, int]]]:
    """Words without brackets, and the runs of words that stood in brackets."""
    words: list[str] = []
    borders = [0]
    for part in re.split(r"[\[\]]", prompt):
        words += part.split()
        borders.append(len(words))
    inside = list(pairwise(borders))[1::2]
    return words, [(first, end) for first, end in inside if end > first]
