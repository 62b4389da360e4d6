"""Scenes of the demo world as data: which objects an image holds, where, and on which background.

Scene seeds are shared out once, so that no figure is measured on what was tuned or trained on:
0..2999 published tables; 10,000..99,999 choosing settings; 100,000..199,999 the model card's
checks; 1,000,000 and above training.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np

SHAPES = ("ball", "box", "star", "heart", "moon", "ring", "cross", "cone")
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
MATERIALS = ("paper", "wood", "brick", "wool", "chrome")
BACKGROUNDS = ("fog", "sky", "room", "corner", "hills", "sand", "sea", "spotlight")
MAX_OBJECTS = 4

TABLE_SEEDS = range(0, 3_000)
TUNING_SEEDS = range(10_000, 100_000)
CHECK_SEEDS = range(100_000, 200_000)
TRAINING_SEEDS = range(1_000_000, 2**31)

# Object radius as a fraction of the image's side, by the number of objects.
_RADIUS = {1: (0.17, 0.32), 2: (0.15, 0.24), 3: (0.13, 0.19), 4: (0.12, 0.16)}
_GAP = 0.02  # free space between two objects' circumscribed circles, and to the border

Triples = Literal["trained", "held_out", "all"]
RGB = tuple[float, float, float]


@dataclass(frozen=True)
class SceneObject:
    """One object; centre (x, y) and size (outer radius) are fractions of the image's side."""

    shape: str
    color: str
    material: str
    centre: tuple[float, float]
    size: float
    shade: float = 1.0  # brightness of this object's colour, 0.88..1.08


@dataclass(frozen=True)
class Background:
    """A low-chroma background: its kind, two RGB colours in [0, 1], and the seed of its details."""

    kind: str
    colors: tuple[RGB, RGB]
    seed: int


@dataclass(frozen=True)
class Scene:
    """Everything that `render` needs to draw one image."""

    seed: int
    objects: tuple[SceneObject, ...]
    background: Background


def is_held_out(shape: str, color: str, material: str) -> bool:
    """Whether training never shows this triple (one in six; its pairs are trained on)."""
    total = SHAPES.index(shape) + COLORS.index(color) + MATERIALS.index(material)
    return total % 6 == 0


def make_scene(
    seed: int,
    objects: int = 2,
    *,
    triples: Triples = "trained",
    distinct_colors: bool = True,
) -> Scene:
    """The scene of a seed: 0..4 objects of different shapes that do not touch each other.

    Without objects it is a background alone. `triples` says which (shape, color, material) triples
    occur; training only uses "trained".
    """
    if not 0 <= objects <= MAX_OBJECTS:
        raise ValueError(
            f"A demo scene holds 0 to {MAX_OBJECTS} objects, {objects} were asked for. "
            "Ask for one of these numbers."
        )
    rng = np.random.default_rng((seed, objects))
    looks = _draw_looks(rng, objects, triples, distinct_colors) if objects else []
    places = _draw_places(rng, objects) if objects else []
    drawn = tuple(
        SceneObject(*look, centre=(x, y), size=r, shade=float(rng.uniform(0.88, 1.08)))
        for look, (x, y, r) in zip(looks, places, strict=True)
    )
    return Scene(seed, drawn, _draw_background(rng))


def training_scenes(
    seeds: Iterable[int], counts: Sequence[int], triples: Triples = "trained"
) -> list[Scene]:
    """Scenes of the seeds with so many objects in turn, which may have the same color."""
    return [
        make_scene(seed, counts[seed % len(counts)], triples=triples, distinct_colors=False)
        for seed in seeds
    ]


def _draw_looks(
    rng: np.random.Generator, count: int, triples: Triples, distinct_colors: bool
) -> list[tuple[str, str, str]]:
    """`count` triples (shape, color, material) with different shapes."""
    while True:
        shapes = rng.permutation(len(SHAPES))[:count]
        colors = (
            rng.permutation(len(COLORS))[:count]
            if distinct_colors
            else rng.integers(0, len(COLORS), count)
        )
        materials = rng.integers(0, len(MATERIALS), count)
        looks = [
            (SHAPES[s], COLORS[c], MATERIALS[m])
            for s, c, m in zip(shapes, colors, materials, strict=True)
        ]
        held_out = [is_held_out(*look) for look in looks]
        if triples == "all" or all(h == (triples == "held_out") for h in held_out):
            return looks


def _draw_places(rng: np.random.Generator, count: int) -> list[tuple[float, float, float]]:
    """`count` circles (x, y, radius) that neither touch each other nor leave the image."""
    low, high = _RADIUS[count]
    while True:
        radii = rng.uniform(low, high, count)
        places: list[tuple[float, float, float]] = []
        for r in radii.tolist():
            for x, y in rng.uniform(r + _GAP, 1 - r - _GAP, (20, 2)).tolist():
                if all((x - a) ** 2 + (y - b) ** 2 > (r + q + _GAP) ** 2 for a, b, q in places):
                    places.append((x, y, r))
                    break
        if len(places) == count:
            return places


def _draw_background(rng: np.random.Generator) -> Background:
    """A kind and two greyish colours of different brightness."""
    kind = BACKGROUNDS[int(rng.integers(0, len(BACKGROUNDS)))]
    grey = rng.uniform(0.3, 0.85, (2, 1)) + rng.uniform(-0.05, 0.05, (2, 3))
    first, second = (cast("RGB", tuple(float(v) for v in row)) for row in grey)
    return Background(kind, (first, second), int(rng.integers(0, 2**31)))
