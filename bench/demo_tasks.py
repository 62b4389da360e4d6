"""Edit lists of the demo world for what CPAM does and ALE-Edit cannot: objects that are removed,
alone or while another changes, and a changed background.

A list names its task in `about`; task_scores.py has the scores.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from ..demo.world import BACKGROUNDS, COLORS, make_scene, object_phrase
from .dataset import Dataset, ImageEdit, ObjectEdit, SourceImage, read_dataset, write_dataset
from .demo_scenes import describe_scenes, draw_images

SCENES = 30
OBJECTS = {"removal": 3, "mixed": 3, "background": 2}
"""A scene's, by task."""


def task_dataset(folder: Path, task: str, *, first_seed: int = 0, scenes: int = SCENES) -> Dataset:
    """One edit of each scene first_seed, first_seed + 1, ..., written to a folder.

    removal: one of three objects is removed. mixed: also another gets a new colour, in one run; the
    third stays. background: both objects stay, on another background.
    """
    seeds = range(first_seed, first_seed + scenes)
    about = describe_scenes(seeds, OBJECTS[task])
    images, pictures = draw_images(seeds, OBJECTS[task])
    edits = tuple(
        _EDITS[task](name, image, seed)
        for seed, (name, image) in zip(seeds, images.items(), strict=True)
    )
    write_dataset(Dataset(folder, task, {**about, "task": task}, images, edits), pictures)
    return read_dataset(folder)


def _remove(name: str, image: SourceImage, seed: int) -> ImageEdit:
    number = seed % len(image.objects)
    removed = ObjectEdit(number, image.objects[number].phrase, "")
    return ImageEdit(f"{name}-remove", name, "object", seed, (removed,))


def _remove_and_change(name: str, image: SourceImage, seed: int) -> ImageEdit:
    (removed,) = _remove(name, image, seed).objects
    number = (removed.number + 1) % len(image.objects)
    was = image.objects[number]
    present = {o.attributes["color"] for o in image.objects}
    free = [color for color in COLORS if color not in present]
    color, shape = free[seed % len(free)], was.attributes["object"]
    asked = {"object": shape, "color": color}
    changed = ObjectEdit(number, was.phrase, object_phrase(shape, color), asked)
    return ImageEdit(f"{name}-mixed", name, "color", seed, (removed, changed))


def _change_background(name: str, image: SourceImage, seed: int) -> ImageEdit:
    present = make_scene(seed, len(image.objects)).background.kind
    others = [word for word in BACKGROUNDS if word != present]
    word = others[seed % len(others)]
    kept = tuple(
        ObjectEdit(number, o.phrase, word, asked=o.attributes)
        for number, o in enumerate(image.objects)
    )
    return ImageEdit(f"{name}-{word}", name, "object", seed, kept, target_prompt=word)


_EDITS: Mapping[str, Callable[[str, SourceImage, int], ImageEdit]] = {
    "removal": _remove,
    "mixed": _remove_and_change,
    "background": _change_background,
}
