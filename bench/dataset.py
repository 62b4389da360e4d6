"""Data sets on disk: one JSON file beside images and masks (docs/bench.md describes it).

dataset.json names images, each with its objects (mask, phrase, attributes), and edits, each of
some objects of one image. Their order matters: every beginning of the list is to be a fair sample.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from PIL import Image, ImageDraw
from pydantic import Field, StrictInt, TypeAdapter

from ..headless.masks import WHOLE, is_whole, read_mask
from ..headless.pictures import as_png, write_whole
from .json_files import EXACT, keys_of, list_some, read_json
from .options import DATASET, MAKING
from .parsers import EDIT_TYPES

FILE = DATASET
FORMAT = "ale-edit dataset 1"
ATTRIBUTES = ("object", "color", "material")
Attributes: TypeAlias = dict[Annotated[str, keys_of(ATTRIBUTES)], str]
"""What is known of an object, or asked for."""


@dataclass(frozen=True)
class ImageObject:
    """An object of an image: its mask's file, the phrase for it, and what it is, where known."""

    __pydantic_config__ = EXACT

    mask: str
    phrase: str
    attributes: Attributes = field(default_factory=dict)


@dataclass(frozen=True)
class SourceImage:
    """An image file and the objects on it; `group` holds what a bootstrap draws together.

    frame: so many pixels along the image's border count as edited in scores (PIE-Bench: 1).
    """

    __pydantic_config__ = EXACT

    file: str
    objects: tuple[ImageObject, ...]
    group: str = ""
    frame: StrictInt = 0


@dataclass(frozen=True)
class ObjectEdit:
    """What an object of the image, by its number, becomes; asked: attributes a judge must then
    find. An empty target removes it; with an empty source it is added, and the image's object says
    where."""

    __pydantic_config__ = EXACT

    number: Annotated[StrictInt, Field(alias="object")]
    source: str
    target: str
    asked: Attributes = field(default_factory=dict)
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageEdit:
    """One edit of some objects of an image at once; edit_type: one of Self-Attention Injection's.

    source_prompt, target_prompt: sentences that hold the phrases; else phrases are joined by "and".
    category: the kind under which a report counts it, where that is not the type.
    """

    __pydantic_config__ = EXACT

    name: Annotated[str, Field(alias="id")]
    image: str
    edit_type: Annotated[str, Field(alias="type")]
    seed: StrictInt
    objects: tuple[ObjectEdit, ...]
    source_prompt: str = ""
    target_prompt: str = ""
    category: str = ""

    @property
    def kind(self) -> str:
        return self.category or self.edit_type


@dataclass(frozen=True)
class Dataset:
    """Images by name, and edits; `about` says how it was made."""

    folder: Path
    name: str
    about: dict[str, Any]
    images: dict[str, SourceImage]
    edits: tuple[ImageEdit, ...]

    def picture(self, image: str) -> Image.Image:
        return Image.open(self.folder / self.images[image].file).convert("RGB")

    def masks(self, image: str) -> list[Image.Image]:
        """One 8-bit mask per object of the image, white on the object."""
        objects = self.images[image].objects
        return [read_mask(self.folder / o.mask, lambda _text: None) for o in objects]

    def frame_masks(self, image: str) -> list[Image.Image]:
        """The masks as scores take them: with the image's frame."""
        masks, frame = self.masks(image), self.images[image].frame
        for mask in masks if frame else ():
            box = (0, 0, mask.width - 1, mask.height - 1)
            ImageDraw.Draw(mask).rectangle(box, outline=255, width=frame)
        return masks


@dataclass(frozen=True)
class DatasetFile:
    """What dataset.json holds."""

    __pydantic_config__ = EXACT

    file_format: Annotated[str, Field(alias="format")]
    name: str
    about: dict[str, Any]
    images: dict[str, SourceImage]
    edits: tuple[ImageEdit, ...]


def write_dataset(
    dataset: Dataset, files: Mapping[str, Image.Image | bytes], *, is_new: bool = False
) -> None:
    """Write the JSON file, and pictures or whole files by name; equal files stay untouched.

    is_new: ValueError, before anything is written, where the folder holds anything else.
    """
    whole = DatasetFile(FORMAT, dataset.name, dataset.about, dataset.images, dataset.edits)
    content = TypeAdapter(DatasetFile).dump_python(whole, by_alias=True)
    written = {
        name: file if isinstance(file, bytes) else as_png(file) for name, file in files.items()
    }
    written[FILE] = (json.dumps(content, indent=1) + "\n").encode("utf-8")  # last
    if is_new:
        _check_new(dataset.folder, written)
    for name, data in written.items():
        write_whole(dataset.folder / name, data)


def _check_new(folder: Path, written: Mapping[str, bytes]) -> None:
    found = (path for path in folder.rglob("*") if path.is_file())
    for path in sorted(path for path in found if not path.name.startswith(".")):
        name = path.relative_to(folder).as_posix()
        of_a_killed_run = name.endswith(".part") and name.removesuffix(".part") in written
        if not of_a_killed_run and (name not in written or written[name] != path.read_bytes()):
            raise ValueError(
                f"{folder} holds {name} already, which is not of this data set. Give a new folder "
                "to --out, or remove that one."
            )


def read_dataset(folder: Path, tell: Callable[[str], None] = lambda _text: None) -> Dataset:
    """Read and check a data set; ValueError with file, entry, key and cure where it is wrong.

    tell: gets a sentence for each mask that is drawn in its alpha channel, or covers everything.
    """
    path = folder if folder.name == FILE else folder / FILE
    content = read_json(path, "data set", MAKING)
    found = content.content.get("format")
    if found != FORMAT:
        raise ValueError(
            f"{path}: its format is {found!r}, not {FORMAT!r}. Make the data set again, or use the "
            "version of the pack that it was made with."
        )
    read = content.read_as(DatasetFile)
    dataset = Dataset(path.parent, read.name, read.about, read.images, read.edits)
    if not read.edits:
        raise content.wrong("has no edits")
    if not _names_a_file(read.name):
        raise content.wrong(f"has a name that no file can have: {read.name!r}")
    _check_edits(dataset)
    _check_files(dataset, tell)
    return dataset


def _names_a_file(text: str) -> bool:
    return text not in ("", ".", "..") and Path(text).name == text


def _check_edits(dataset: Dataset) -> None:
    path, seen = dataset.folder / FILE, set[str]()
    for edit in dataset.edits:
        place = f"{path}, edit {edit.name!r}"
        if edit.name in seen:
            raise ValueError(f"{place}: another edit has this id. Change one of them.")
        if not _names_a_file(edit.name):
            raise ValueError(
                f"{place}: an image of this name is written, and no file can have it. Change the "
                "id; leave out slashes."
            )
        seen.add(edit.name)
        if edit.image not in dataset.images:
            raise ValueError(
                f"{place}: there is no image {edit.image!r}. Add it, or correct it; there are "
                f"{list_some(dataset.images)}."
            )
        if edit.edit_type not in EDIT_TYPES:
            raise ValueError(
                f"{place}: there is no type {edit.edit_type!r}. Use one of {', '.join(EDIT_TYPES)}."
            )
        count = len(dataset.images[edit.image].objects)
        numbers = [o.number for o in edit.objects]
        if not numbers or len(set(numbers)) < len(numbers) or not set(numbers) <= set(range(count)):
            raise ValueError(
                f"{place}: it edits objects {numbers}, and its image has {count}. Name each object "
                f"once, from 0 to {count - 1}."
            )
        if empty := [o.number for o in edit.objects if not (o.source.strip() or o.target.strip())]:
            raise ValueError(
                f"{place}: object {empty[0]} has neither source nor target. Write what it is, what "
                "it becomes, or both."
            )


def _check_files(dataset: Dataset, tell: Callable[[str], None]) -> None:
    several = {(e.image, o.number) for e in dataset.edits if len(e.objects) > 1 for o in e.objects}
    for name, image in dataset.images.items():
        size = _size(dataset.folder / image.file)
        for number, o in enumerate(image.objects):
            path = dataset.folder / o.mask
            if (found := _size(path)) != size:
                raise ValueError(
                    f"{path} is {found[0]}x{found[1]}, its image {image.file} "
                    f"{size[0]}x{size[1]}. Give the mask the size of the image."
                )
            if is_whole(read_mask(path, tell)) and (name, number) in several:
                tell(f"{path} {WHOLE}.")


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as picture:
            return picture.size
    except FileNotFoundError:
        raise ValueError(f"There is no file {path}, which {FILE} names. Restore it.") from None
    except OSError as error:
        raise ValueError(f"{path} is not a readable image ({error}). Restore it.") from error
