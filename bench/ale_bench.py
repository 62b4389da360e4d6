"""A data set of ALE-Bench's construction from a folder of images, masks and words.

    FOLDER/wolf_moon.jpg                          an image
    FOLDER/masks/wolf_moon/wolf.png, moon.png     its objects, named by what they are
    FOLDER/attributes.json                        what objects can become (docs/bench.md)

S. Mun et al., ICCV 2025 (arXiv 2412.04715), section 4: 20 images, 5 types, 1 to 3 objects, 10
instances. The authors' images, masks and words were not published: bring your own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from ..headless.masks import read_mask
from ..headless.pictures import open_picture
from .construction import AttributeWords, construct
from .dataset import Attributes, Dataset, ImageObject, SourceImage, read_dataset, write_dataset
from .json_files import EXACT, JsonObject, list_some, read_json

WORDS = "attributes.json"
IMAGES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class AttributesFile:
    """What attributes.json holds. objects: what each of them can become; present: what is known of
    the objects, by image and object."""

    __pydantic_config__ = EXACT

    colors: tuple[str, ...]
    materials: tuple[str, ...]
    objects: dict[str, tuple[str, ...]]
    present: dict[str, dict[str, Attributes]] = field(default_factory=dict)


def ale_bench(
    source: Path,
    folder: Path,
    name: str,
    *,
    seed: int = 0,
    counts: Sequence[int] = (1, 2, 3),
    instances: int = 10,
    tell: Callable[[str], None] = print,
) -> Dataset:
    """Construct edits of all images in `source`, and write images, masks and edits to `folder`."""
    words = read_json(
        source / WORDS, "file of attributes", "Write it: docs/bench.md, Your own images."
    )
    read = words.read_as(AttributesFile)
    paths, present = image_files(source), read.present
    vocabulary = AttributeWords(read.colors, read.materials, read.objects)
    if unknown := sorted(set(present) - {path.stem for path in paths}):
        raise words.wrong(
            f"knows an image {unknown[0]!r} in 'present', which {source} does not have",
            f"Correct it; there are {list_some([path.stem for path in paths])}",
        )
    images, files = {}, {}
    for path in paths:
        masks = mask_files(source, path)
        known = present.get(path.stem, {})
        if unknown := sorted(set(known) - {mask.stem for mask in masks}):
            raise words.wrong(
                f"knows an object {unknown[0]!r} of image {path.stem!r}, which has no such mask",
                f"It has {', '.join(mask.stem for mask in masks)}",
            )
        objects = tuple(
            ImageObject(
                f"masks/{path.stem}_{k}.png",
                mask.stem,
                {**known.get(mask.stem, {}), "object": mask.stem},
            )
            for k, mask in enumerate(masks)
        )
        image = SourceImage(f"images/{path.stem}.png", objects, group=path.stem)
        images[path.stem] = image
        picture = files[image.file] = open_picture(path, tell).convert("RGB")
        for o, mask in zip(objects, masks, strict=True):
            files[o.mask] = _mask(mask, path, picture.size, tell)
    _check_words(words, vocabulary, images)
    edits = construct(images, vocabulary, seed=seed, counts=counts, instances=instances)
    about: dict[str, Any] = {
        "construction": "ALE-Bench (arXiv 2412.04715, section 4)",
        "images": len(images),
        "objects an edit": list(counts),
        "instances": instances,
        "seed": seed,
    }
    write_dataset(Dataset(folder, name, about, images, edits), files, is_new=True)
    return read_dataset(folder, tell)


def image_files(source: Path) -> list[Path]:
    """The images of a folder in the order of their names; their stems differ."""
    found = sorted(p for p in source.iterdir() if p.suffix.lower() in IMAGES)
    if not found:
        raise ValueError(f"{source} holds no image. Give a folder with {', '.join(IMAGES)} files.")
    for first, second in zip(found, found[1:], strict=False):
        if first.stem == second.stem:
            raise ValueError(f"{first} and {second.name} have one name. Rename one of them.")
    return found


def mask_files(source: Path, image: Path) -> list[Path]:
    folder = source / "masks" / image.stem
    found = sorted(p for p in folder.glob("*") if p.suffix.lower() in IMAGES)
    if not found:
        raise ValueError(
            f"There is no mask of {image.name}. Put one for each of its objects into {folder}, "
            "each named by its object: wolf.png."
        )
    return found


def _mask(
    path: Path, image: Path, size: tuple[int, int], tell: Callable[[str], None]
) -> Image.Image:
    mask = read_mask(path, tell)
    if mask.size != size:
        raise ValueError(
            f"{path} is {mask.width}x{mask.height}, its image {image.name} {size[0]}x{size[1]}. "
            "Give the mask the size of the image."
        )
    return mask


def _check_words(
    words: JsonObject, vocabulary: AttributeWords, images: dict[str, SourceImage]
) -> None:
    for name, image in images.items():
        for o in image.objects:
            if o.phrase not in vocabulary.objects:
                raise words.wrong(
                    f"does not say what {o.phrase!r} (image {name!r}) can become",
                    f"Add a list {o.phrase!r} to 'objects'",
                )
