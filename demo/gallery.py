"""One picture of the demo world for the docs: every shape, colour, material and background."""

from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .render import render, render_batch
from .scenes import (
    BACKGROUNDS,
    COLORS,
    MATERIALS,
    MAX_OBJECTS,
    SHAPES,
    Background,
    Scene,
    SceneObject,
    make_scene,
)

_LABEL = 16  # pixels
_GREY = ((0.9, 0.9, 0.9), (0.9, 0.9, 0.9))
_CELL = 64
_FIRST_SEED = 10_000


def gallery() -> tuple[Tensor, list[tuple[int, int, str]]]:
    """Image (H, W, 3) in [0, 1] and its labels (x, y, text)."""
    catalogue = torch.cat([_catalogue_row(m) for m in MATERIALS])
    scenes = [_scene_on(kind, i) for i, kind in enumerate(BACKGROUNDS)]
    pictures = [image.permute(1, 0, 2) for image in render_batch(scenes)[0]]
    per_row = catalogue.shape[1] // pictures[0].shape[0]
    labels = [(4, k * (_CELL + _LABEL), f"made of {m}") for k, m in enumerate(MATERIALS)]
    rows = [catalogue]
    for start in range(0, len(pictures), per_row):
        top = sum(row.shape[0] for row in rows)
        labels += [
            (4 + i * 128, top, f"in the {kind}")
            for i, kind in enumerate(BACKGROUNDS[start : start + per_row])
        ]
        strip = torch.cat(pictures[start : start + per_row]).permute(1, 0, 2)
        rows.append(F.pad(strip, (0, 0, 0, 0, _LABEL, 0), value=1.0))
    return torch.cat(rows), labels


def write_gallery(path: Path) -> Path:
    """Write the gallery as PNG; returns its path."""
    from PIL import Image, ImageDraw

    image, labels = gallery()
    picture = Image.fromarray((image * 255).round().byte().numpy())
    draw = ImageDraw.Draw(picture)
    for x, y, text in labels:
        draw.text((x, y + 2), text, fill=(40, 40, 40))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, format="PNG")
    return path


def _catalogue_row(material: str) -> Tensor:
    """All shapes in one material, each in another colour, below room for a label."""
    cells = []
    for shape, color in zip(SHAPES, COLORS, strict=True):
        thing = SceneObject(shape, color, material, (0.5, 0.5), 0.45)
        cells.append(render(Scene(0, (thing,), Background("fog", _GREY, 0)), _CELL)[0])
    return F.pad(torch.cat(cells, 1), (0, 0, 0, 0, _LABEL, 0), value=1.0)


def _scene_on(kind: str, index: int) -> Scene:
    """A scene with 1 to 4 objects on a background of this kind."""
    scene = make_scene(_FIRST_SEED + index, 1 + index % MAX_OBJECTS)
    return replace(scene, background=replace(scene.background, kind=kind))
