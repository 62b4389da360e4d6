"""A group of figures of one edited picture, and what they are computed from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from .dataset import Dataset, ImageEdit

Values: TypeAlias = dict[str, list[float]]
"""Of one edit: values by figure; a figure of the bench is their mean over edits."""


@dataclass(frozen=True)
class Views:
    """One edit's pictures as tensors: (H, W, 3), and (K, H, W) for all objects of the image."""

    source: Tensor
    edited: Tensor
    masks: Tensor

    def background(self, edit: ImageEdit) -> Tensor:
        """1 where none of the edited objects is."""
        return 1 - self.own(edit).amax(0)

    def own(self, edit: ImageEdit) -> Tensor:
        """Masks of the edited objects, in the edit's order."""
        return (self.masks[[o.number for o in edit.objects]] > 0.5).float()


@dataclass(frozen=True)
class Metric:
    """A group of figures; a new `version` makes all of them again."""

    name: str
    version: str
    values: Callable[[Dataset, ImageEdit, Views], Values]
