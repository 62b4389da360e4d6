"""Data sets on disk: one JSON file beside images and masks (docs/bench.md describes it).

dataset.json names images, each with its objects (mask, phrase, attributes), and edits, each of
some objects of one image. Their order matters: every beginning of the list is to be a fair sample.
"""

import io
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from .options import EDIT_TYPES

FILE = "dataset.json"
FORMAT = "ale-edit dataset 1"


@dataclass(frozen=True)
class ImageObject:
    """An object of an image: its mask's file, the phrase for it, and what it is, where known."""

    mask: str
    phrase: str
    attributes: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SourceImage:
    """An image file and the objects on it; `group` holds what a bootstrap draws together."""

    file: str
    objects: tuple[ImageObject, ...]
    group: str = ""


@dataclass(frozen=True)
class ObjectEdit:
    """What object number `object` becomes; asked: attributes a judge must then find."""

    object: int
    source: str
    target: str
    asked: dict[str, str] = field(default_factory=dict)
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class ImageEdit:
    """One edit of some objects of an image at once; type is one of Self-Attention Injection's."""

    id: str
    image: str
    type: str
    seed: int
    objects: tuple[ObjectEdit, ...]


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
        return [Image.open(self.folder / o.mask).convert("L") for o in objects]


def write_dataset(dataset: Dataset, pictures: Mapping[str, Image.Image]) -> None:
    """Write the JSON file and the pictures (by file name); equal files stay untouched."""
    for name, picture in pictures.items():
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        write_bytes(dataset.folder / name, buffer.getvalue())
    content = {"format": FORMAT, "name": dataset.name, "about": dataset.about}
    content["images"] = {name: asdict(image) for name, image in dataset.images.items()}
    content["edits"] = [asdict(edit) for edit in dataset.edits]
    text = json.dumps(content, indent=1) + "\n"
    write_bytes(dataset.folder / FILE, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; one with this content already stays as it is."""
    if path.is_file() and path.read_bytes() == data:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def read_dataset(folder: Path) -> Dataset:
    """Read and check a data set; ValueError with file, key and cure where it is wrong."""
    path = folder / FILE
    content = _read_json(path)
    if content.get("format") != FORMAT:
        raise ValueError(
            f"{path}: its format is {content.get('format')!r}, not {FORMAT!r}. Make the data set "
            "anew, or use the version of the pack that it was made with."
        )
    try:
        images = {name: _image(entry) for name, entry in content["images"].items()}
        edits = tuple(_edit(entry) for entry in content["edits"])
        dataset = Dataset(folder, content["name"], content["about"], images, edits)
    except KeyError as error:
        raise ValueError(f"{path}: an entry has no key {error}. See docs/bench.md.") from None
    except (TypeError, AttributeError) as error:
        raise ValueError(f"{path}: an entry has another form ({error}). See docs/bench.md.") from (
            error
        )
    _check_edits(dataset)
    _check_files(dataset)
    return dataset


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"There is no data set {path}. Give the folder that has it.") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}). Correct it there.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not an object of JSON.")
    return content


def _image(entry: dict[str, Any]) -> SourceImage:
    objects = tuple(
        ImageObject(o["mask"], o["phrase"], dict(o.get("attributes", {}))) for o in entry["objects"]
    )
    return SourceImage(entry["file"], objects, entry.get("group", ""))


def _edit(entry: dict[str, Any]) -> ImageEdit:
    objects = tuple(
        ObjectEdit(
            o["object"],
            o["source"],
            o["target"],
            dict(o.get("asked", {})),
            tuple(o.get("tags", ())),
        )
        for o in entry["objects"]
    )
    return ImageEdit(entry["id"], entry["image"], entry["type"], entry["seed"], objects)


def _check_edits(dataset: Dataset) -> None:
    path, seen = dataset.folder / FILE, set[str]()
    for edit in dataset.edits:
        place = f"{path}, edit {edit.id!r}"
        if edit.id in seen or Path(edit.id).name != edit.id:
            raise ValueError(f"{place}: ids must differ and serve as file names. Change it.")
        seen.add(edit.id)
        if edit.image not in dataset.images:
            raise ValueError(f"{place}: there is no image {edit.image!r}. Add it, or rename it.")
        if edit.type not in EDIT_TYPES:
            raise ValueError(
                f"{place}: there is no type {edit.type!r}. Use one of {', '.join(EDIT_TYPES)}."
            )
        count = len(dataset.images[edit.image].objects)
        numbers = [o.object for o in edit.objects]
        if not numbers or len(set(numbers)) < len(numbers) or not set(numbers) <= set(range(count)):
            raise ValueError(
                f"{place}: it edits objects {numbers}, and its image has {count}. Name each object "
                f"once, from 0 to {count - 1}."
            )


def _check_files(dataset: Dataset) -> None:
    for image in dataset.images.values():
        size = _size(dataset.folder / image.file)
        for o in image.objects:
            if (found := _size(dataset.folder / o.mask)) != size:
                raise ValueError(
                    f"{dataset.folder / o.mask} is {found[0]}x{found[1]}, its image {image.file} "
                    f"{size[0]}x{size[1]}. Give the mask the size of the image."
                )


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as picture:
            return picture.size
    except FileNotFoundError:
        raise ValueError(f"There is no file {path}, which {FILE} names. Restore it.") from None
    except OSError as error:
        raise ValueError(f"{path} is no image that can be read ({error}). Restore it.") from error
