"""Scores of the edit lists of demo_tasks.py: whether a removed object is gone, and whether the
background is the one that was asked for."""

from collections.abc import Sequence

from torch import Tensor

from ..demo.finder import FoundObject, SceneFinder
from ..demo.judge import Judge
from ..demo.world import BACKGROUNDS, join_phrases
from ..scoring.leakage import Cosines
from .dataset import Dataset, ImageEdit
from .metric import Values, Views

LEAST_SHARE = 0.1  # of an object's mask, that a patch covers which is still this object
OF_ITSELF = 0.5  # of a patch that lies in the mask


def is_gone(found: Sequence[FoundObject], mask: Tensor) -> bool:
    """Whether none of the patches that the finder finds is the object of a mask (H, W)."""
    inside = mask > 0.5
    for patch in found:
        both = float((patch.mask & inside).sum())
        if both >= LEAST_SHARE * float(inside.sum()) or both >= OF_ITSELF * float(patch.mask.sum()):
            return False
    return True


def score_removal(
    finder: SceneFinder, judge: Judge, dataset: Dataset, edit: ImageEdit, views: Views
) -> Values:
    """gone: of each removed object, also in the source. others kept: of each object that is not
    edited, whether the judge reads the attributes that it had."""
    removed = [o.number for o in edit.objects if not o.target]
    edited = {o.number for o in edit.objects}
    values: Values = {}
    for name, image in (("gone", views.edited), ("gone of the source", views.source)):
        found = finder.find(image)
        values[name] = [float(is_gone(found, views.masks[number])) for number in removed]
    values["others kept"] = []
    for number, o in enumerate(dataset.images[edit.image].objects):
        if number not in edited:
            read = judge.read(views.edited, views.masks[number])
            was = {("shape" if k == "object" else k): v for k, v in o.attributes.items()}
            values["others kept"].append(float(read.agrees(was)))
    return values


def score_background(cosines: Cosines, dataset: Dataset, edit: ImageEdit, views: Views) -> Values:
    """CLIP, background: of the whole image and "OBJECTS in the BACKGROUND", with the background
    that was asked for. background: whether it fits this better than any other; also in the source.
    """
    phrases = [o.phrase for o in dataset.images[edit.image].objects]
    texts = [join_phrases(phrases, word) for word in BACKGROUNDS]
    asked = BACKGROUNDS.index(edit.target_prompt)
    values: Values = {}
    for suffix, image in (("", views.edited), (" of the source", views.source)):
        (row,) = cosines(image[None], texts)
        values[f"CLIP, background{suffix}"] = [100 * max(float(row[asked]), 0.0)]
        values[f"background{suffix}"] = [float(int(row.argmax()) == asked)]
    return values
