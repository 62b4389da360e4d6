"""The demo bench's data: ALE-Bench's construction on scenes of the demo world."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..demo.scenes import TABLE_SEEDS, TUNING_SEEDS
from ..demo.world import (
    COLORS,
    IMAGE_SIZE,
    MATERIALS,
    MAX_OBJECTS,
    SHAPES,
    Scene,
    SceneObject,
    demo_edits,
    is_held_out,
    make_scene,
    object_phrase,
    render,
)
from .construction import AttributeWords, construct
from .dataset import Dataset, ImageEdit, ImageObject, SourceImage, read_dataset, write_dataset
from .main_job import MaskedEdit, to_picture

SCENES = 20
HELD_OUT = "held out"
"""Tag of an object that becomes a triple of shape, colour and material never trained on."""
VOCABULARY = AttributeWords(COLORS, MATERIALS, dict.fromkeys(SHAPES, SHAPES))
LARGE_SIZE = 256
_LARGE_RADIUS = {4: (0.10, 0.15), 6: (0.085, 0.12), 8: (0.075, 0.10)}  # 19 to 38 pixels of 256
_GAP = 0.02


def demo_input(seed: int) -> tuple[Image.Image, list[MaskedEdit]]:
    """A scene with its colour edits, for the main job."""
    image, masks = render(make_scene(seed))
    edits = [
        MaskedEdit(source, target, to_picture(mask), asked)
        for (source, target, asked), mask in zip(
            demo_edits(seed, name_colors=True), masks, strict=True
        )
    ]
    return to_picture(image), edits


def demo_dataset(
    folder: Path,
    name: str = "demo",
    *,
    first_seed: int = 0,
    scenes: int = SCENES,
    counts: Sequence[int] = (1, 2, 3),
    instances: int = 10,
    size: int = IMAGE_SIZE,
) -> Dataset:
    """Draw scenes first_seed, first_seed + 1, ..., construct edits of them, and write all of it.

    Every scene holds as many objects as the largest count. Source phrases name the present colour.
    """
    seeds, objects = range(first_seed, first_seed + scenes), max(counts)
    about = describe_scenes(seeds, objects, size)
    images, pictures = draw_images(seeds, objects, size)
    edits = construct(images, VOCABULARY, seed=0, counts=counts, instances=instances)
    tagged = tuple(_tag_held_out(edit, images[edit.image]) for edit in edits)
    write_dataset(Dataset(folder, name, about, images, tagged), pictures)
    return read_dataset(folder)


def describe_scenes(seeds: range, objects: int, size: int = IMAGE_SIZE) -> dict[str, Any]:
    """What a data set of these scenes says about itself; ValueError for seeds that are for nothing
    that is published or chosen."""
    return {
        "world": "demo",
        "scene seeds": [seeds[0], seeds[-1]],
        "seeds are for": seeds_use(seeds),
        "objects a scene": objects,
        "size": size,
    }


def draw_images(
    seeds: range, objects: int, size: int = IMAGE_SIZE
) -> tuple[dict[str, SourceImage], dict[str, Image.Image]]:
    """The scenes of these seeds in their order, by name, and their pictures and masks by file."""
    images: dict[str, SourceImage] = {}
    pictures: dict[str, Image.Image] = {}
    for seed in seeds:
        image, masks, looks = draw_scene(seed, objects, size)
        key = f"scene{seed}"
        files = [f"masks/{key}_{k}.png" for k in range(objects)]
        described = tuple(
            ImageObject(file, object_phrase(o.shape, o.color), _attributes(o))
            for file, o in zip(files, looks, strict=True)
        )
        images[key] = SourceImage(f"images/{key}.png", described, group=key)
        pictures[f"images/{key}.png"] = to_picture(image)
        pictures |= {file: to_picture(mask) for file, mask in zip(files, masks, strict=True)}
    return images, pictures


def seeds_use(seeds: range) -> str:
    """What these scene seeds are for; ValueError where they are for neither."""
    for use, allowed in (("published tables", TABLE_SEEDS), ("choosing settings", TUNING_SEEDS)):
        if seeds[0] in allowed and seeds[-1] in allowed:
            return use
    raise ValueError(
        f"Scene seeds {seeds[0]} to {seeds[-1]} are neither for published tables (0 to "
        f"{TABLE_SEEDS[-1]}) nor for choosing settings ({TUNING_SEEDS[0]} to {TUNING_SEEDS[-1]}). "
        "Choose a first seed from one of these."
    )


def draw_scene(
    seed: int, objects: int, size: int
) -> tuple[Tensor, Tensor, tuple[SceneObject, ...]]:
    """Image (H, W, 3), masks (K, H, W) and objects; more than four need a large image."""
    if objects <= MAX_OBJECTS and size == IMAGE_SIZE:
        scene = make_scene(seed, objects)
        return *render(scene, size), scene.objects
    scene = large_scene(seed, objects)
    image, masks = render(replace(scene, objects=scene.objects[:MAX_OBJECTS]), size)
    for first in range(MAX_OBJECTS, objects, MAX_OBJECTS):
        more = replace(scene, objects=scene.objects[first : first + MAX_OBJECTS])
        shown, own = render(more, size)
        # Objects never touch, so the soft edge of each lies within a pixel of its mask.
        around = torch.nn.functional.max_pool2d(own.amax(0)[None], 5, 1, 2)[0] > 0
        image = torch.where(around[..., None], shown, image)
        masks = torch.cat([masks, own])
    return image, masks, scene.objects


def large_scene(seed: int, objects: int) -> Scene:
    """4, 6 or 8 objects of different shapes for an image of 256x256.

    As in training, they are 15 to 41 pixels in radius and of triples that were trained on. Colours
    repeat from six objects on, so that some are left to edit to.
    """
    if objects not in _LARGE_RADIUS:
        raise ValueError(
            f"Large demo scenes hold {', '.join(map(str, _LARGE_RADIUS))} objects, not {objects}."
        )
    rng = np.random.default_rng((seed, objects, LARGE_SIZE))
    shapes = [SHAPES[int(k)] for k in rng.permutation(len(SHAPES))[:objects]]
    palette = [COLORS[int(k)] for k in rng.permutation(len(COLORS))[:4]]
    looks = []
    for k, shape in enumerate(shapes):
        color = palette[k % len(palette)]
        known = [m for m in MATERIALS if not is_held_out(shape, color, m)]
        looks.append((shape, color, known[int(rng.integers(len(known)))]))
    drawn = tuple(
        SceneObject(*look, centre=(x, y), size=r, shade=float(rng.uniform(0.88, 1.08)))
        for look, (x, y, r) in zip(looks, _places(rng, objects), strict=True)
    )
    backdrop = make_scene(seed, 0).background
    return Scene(seed, drawn, backdrop)


def _places(rng: np.random.Generator, count: int) -> list[tuple[float, float, float]]:
    """`count` circles (x, y, radius) that neither touch each other nor leave the image."""
    low, high = _LARGE_RADIUS[count]
    while True:
        places: list[tuple[float, float, float]] = []
        for r in rng.uniform(low, high, count).tolist():
            for x, y in rng.uniform(r + _GAP, 1 - r - _GAP, (60, 2)).tolist():
                if all((x - a) ** 2 + (y - b) ** 2 > (r + q + _GAP) ** 2 for a, b, q in places):
                    places.append((x, y, r))
                    break
        if len(places) == count:
            return places


def _attributes(o: SceneObject) -> dict[str, str]:
    return {"object": o.shape, "color": o.color, "material": o.material}


def _tag_held_out(edit: ImageEdit, image: SourceImage) -> ImageEdit:
    """With HELD_OUT on the objects that become something never trained on."""

    def tags(number: int, asked: dict[str, str]) -> tuple[str, ...]:
        becomes = {**image.objects[number].attributes, **asked}
        new = is_held_out(becomes["object"], becomes["color"], becomes["material"])
        return (HELD_OUT,) if new else ()

    objects = tuple(replace(o, tags=tags(o.number, o.asked)) for o in edit.objects)
    return replace(edit, objects=objects)
