"""A folder for ALE-Bench's construction, and a PIE-Bench mapping, drawn from the demo world."""

import json
from pathlib import Path

import numpy as np

from ale_edit.bench.main_job import to_picture
from ale_edit.demo.world import COLORS, MATERIALS, SHAPES, make_scene, render


def ale_sample(folder: Path, seeds: range) -> Path:
    """Images of three objects each, their masks, and attributes.json."""
    present = {}
    for seed in seeds:
        scene = make_scene(seed, 3)
        image, masks = render(scene)
        to_picture(image).save(_made(folder / f"photo{seed}.png"))
        known = present[f"photo{seed}"] = {}
        for o, mask in zip(scene.objects, masks, strict=True):
            to_picture(mask).save(_made(folder / "masks" / f"photo{seed}" / f"{o.shape}.png"))
            known[o.shape] = {"color": o.color, "material": o.material}
    words = {
        "colors": list(COLORS),
        "materials": list(MATERIALS),
        "objects": {shape: [s for s in SHAPES if s != shape] for shape in SHAPES},
        "present": present,
    }
    (folder / "attributes.json").write_text(json.dumps(words))
    return folder


def pie_sample(folder: Path, kinds: tuple[str, ...] = ("1", "4", "6", "7")) -> Path:
    """One edit of each type: mapping_file.json, and 512x512 images in annotation_images."""
    mapping = {}
    for number, kind in enumerate(kinds):
        scene = make_scene(number, 3)
        image, masks = render(scene, 512)
        o = scene.objects[0]
        name = f"{kind}_type/{number:012}.jpg"
        path = _made(folder / "annotation_images" / name)
        to_picture(image).save(path, quality=95)
        target = {"6": f"[green] {o.shape}", "7": f"[chrome] {o.shape}"}.get(kind, "[moon]")
        mapping[f"{number:012}"] = {
            "image_path": name,
            "original_prompt": f"a {o.shape} on a plain background",
            "editing_prompt": f"a {target} on a plain background",
            "editing_instruction": "change it",
            "editing_type_id": kind,
            "blended_word": f"{o.shape} {o.shape if kind in '67' else 'moon'}",
            "mask": runs_of(masks[0].numpy() > 0.5),
        }
    path = folder / "mapping_file.json"
    path.write_text(json.dumps(mapping))
    return path


def runs_of(mask: np.ndarray) -> list[int]:
    """[start, length, ...] of a mask's rows."""
    flat = np.concatenate([[0], mask.ravel().astype(int), [0]])
    changes = np.flatnonzero(np.diff(flat))
    return [int(n) for a, b in zip(changes[::2], changes[1::2], strict=True) for n in (a, b - a)]


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
