"""The demo world for the bench (worlds.py): its judge's readings, the mini CLIP for TE and TI, and
the words that its model knows."""

import hashlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from ..demo.captions import unknown_words
from ..demo.finder import SceneFinder
from ..demo.judge import Judge
from ..demo.mini_clip import MiniClip
from ..demo.weights import FOLDER, read_weights
from ..regions.phrases import clean_phrase
from ..scoring.leakage import Cosines
from .dataset import Dataset, ImageEdit, SourceImage
from .demo_scenes import HELD_OUT
from .metric import Metric, Values, Views
from .task_scores import score_background, score_removal
from .worlds import World

ATTRIBUTES = {"object": "shape", "color": "color", "material": "material"}
"""Names in a data set, and the judge's."""


def weights_key(*parts: str) -> str:
    """Changes with the demo weights of these parts (none: all that sampling uses)."""
    files = [FOLDER / f"{part}.safetensors" for part in parts or ("autoencoder", "text", "unet")]
    digests = [hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.is_file()]
    return hashlib.sha256("".join(digests).encode()).hexdigest()[:16]


def readings(judge: Judge, image: Tensor, masks: Tensor) -> list[dict[str, str]]:
    """What the judge finds under each object's raw mask (K, H, W) of an image (H, W, 3)."""
    found = (judge.read(image, mask) for mask in masks)
    return [{name: getattr(r, own) for name, own in ATTRIBUTES.items()} for r in found]


def judge_objects(
    edit: ImageEdit, image: SourceImage, found: Sequence[dict[str, str]], held_out: str
) -> dict[str, list[bool]]:
    """Hits of each figure. `found`: a reading of every object of the image, edited or not.

    object, color, material: edited objects that have what was asked; a removed one is asked
    nothing. all: everything asked; also apart for held-out triples and the rest. wrong: objects
    that show an attribute which another object was to get, and which they neither had nor were to
    get themselves; apart for edited and untouched ones.
    """
    asked = {o.number: o.asked for o in edit.objects if o.target}
    removed = {o.number for o in edit.objects if not o.target}
    hits: dict[str, list[bool]] = {name: [] for name in (*ATTRIBUTES, "all", *_SPLIT, *_WRONG)}
    for o in filter(lambda o: o.target, edit.objects):
        right = {name: found[o.number][name] == word for name, word in o.asked.items()}
        for name, hit in right.items():
            hits[name].append(hit)
        hits["all"].append(all(right.values()))
        hits[_SPLIT[held_out not in o.tags]].append(all(right.values()))
    for number, (read, was) in enumerate(zip(found, image.objects, strict=True)):
        others = [words for other, words in asked.items() if other != number]
        if others and number not in removed:
            own = asked.get(number, {})
            wrong = any(
                read[name] == word and word not in (was.attributes[name], own.get(name))
                for words in others
                for name, word in words.items()
            )
            hits[_WRONG[number in asked]].append(wrong)
    return hits


_SPLIT = ("all, held out", "all, trained")
_WRONG = ("wrong, untouched", "wrong, edited")


def load_mini_clip(
    folder: Path = FOLDER,
) -> tuple[Cosines | None, str]:
    """The mini CLIP's cosines, or None and why TE and TI are not available."""
    if not (folder / "clip.safetensors").is_file():
        return None, "n/a: no mini CLIP weights (demo/weights has no clip.safetensors)"
    try:
        from ..demo.models import build_clip

        clip: Any = build_clip(read_weights("text", folder))
    except ImportError as error:
        return None, (
            f"n/a: the mini CLIP's text encoder needs ComfyUI here ({error}): give --comfyui DIR, "
            "or score again with --score-only"
        )
    return MiniClip.load(clip, folder).similarity, ""


def _task_of(dataset: Dataset) -> str:
    """Of demo_tasks.py; none for edits that change objects alone."""
    return str(dataset.about.get("task", ""))


def _list_metrics(dataset: Dataset) -> list[Metric]:
    judge, task, found = Judge.load(), _task_of(dataset), list[Metric]()
    if task in ("removal", "mixed"):
        scores = partial(score_removal, SceneFinder.load(), judge)
        found.append(Metric("removal", weights_key("finder", "judge"), scores))
    if task == "background":
        cosines, version = _mini_clip_cosines()
        if cosines is not None:
            found.append(Metric("new background", version, partial(score_background, cosines)))

    def values(dataset: Dataset, edit: ImageEdit, views: Views) -> Values:
        found = readings(judge, views.edited, views.masks)
        hits = judge_objects(edit, dataset.images[edit.image], found, HELD_OUT)
        return {name: [float(hit) for hit in column] for name, column in hits.items()}

    return found if task == "removal" else [*found, Metric("judge", weights_key("judge"), values)]


def _leave_out(dataset: Dataset) -> frozenset[str]:
    """Where all edited objects go, there is no target; where the background changes, it is none to
    keep."""
    by_task = {
        "removal": ("leakage",),
        "background": ("background", "leakage", "lpips", "structure"),
    }
    return frozenset(by_task.get(_task_of(dataset), ()))


def _mini_clip_cosines() -> tuple[Cosines | None, str]:
    cosines, why = load_mini_clip()
    return cosines, why or weights_key("clip", "text")


def _find_unknown_words(prompt: str) -> list[str]:
    """Without weights and textual inversions, which are not words."""
    return unknown_words(clean_phrase(prompt))


WORLD = World(
    name="demo",
    card="demo/MODEL_CARD.md",
    metrics=_list_metrics,
    leaves_out=_leave_out,
    cosines=_mini_clip_cosines,
    weights_key=weights_key,
    unknown_words=_find_unknown_words,
)
