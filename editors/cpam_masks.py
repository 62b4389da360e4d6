"""CPAM's masks of an image, by its strategy and by what the edits do with their objects.

The paper leaves its strategies open; these are from the code of its predecessor (vdkhoi20/thesis).
Differs from both: one run may change some objects, remove others and add more. An edit without a
target phrase removes its object and one without a source phrase adds it, by the masks of the
strategies remove and add, whatever the strategy of the other objects is. An object's own mask goes
before what another one's mask grows into, and nothing grows into an object that is removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from ..regions.regions import grow_by_area

StrategyName: TypeAlias = Literal[
    "add", "replace", "replace (refined)", "pose / view", "background", "remove"
]
Task: TypeAlias = Literal["change", "add", "remove"]
"""What becomes of an object; change: as the strategy says."""
BY_STRATEGY = -1.0


@dataclass(frozen=True)
class Strategy:
    """One way to set the masks. expansion: by how much the mask grows, as a share of the side of a
    square of its area. is_refined: whether the target's mask follows the words after the first
    step. keeps_object: whether the object reads the source's object. of_all: what it does with all
    masks, where that leaves no choice for an object."""

    expansion: float
    is_refined: bool = False
    keeps_object: bool = False
    of_all: str = ""


STRATEGIES: Mapping[StrategyName, Strategy] = {
    "add": Strategy(0.10),
    "replace": Strategy(0.07),
    "replace (refined)": Strategy(0.10, is_refined=True),
    "pose / view": Strategy(0.10, is_refined=True, keeps_object=True),
    "background": Strategy(0.0, of_all="keeps what is in the masks"),
    "remove": Strategy(0.0, of_all="removes what is in the masks"),
}


class Masks(NamedTuple):
    """Of one image, (H, W) in {0, 1}, or on a layer's grid (L,) bool.

    source: M_s, which the background does not read. target: M_t, where the prompt acts. added: the
    part of it in which objects are added. removed: where objects are removed.
    """

    source: Tensor
    target: Tensor
    added: Tensor
    removed: Tensor


def find_tasks(strategy: StrategyName, phrases: Sequence[tuple[str, str]]) -> tuple[Task, ...]:
    """What becomes of each object, by the source and target phrases of the edits.

    Raises ValueError for an empty phrase that the strategy leaves no choice for.
    """
    of_all, found = STRATEGIES[strategy].of_all, list[Task]()
    for source, target in phrases:
        task: Task = "add" if not source else "remove" if not target else "change"
        if of_all and task not in ("change", strategy):
            raise ValueError(
                f'the strategy {strategy} {of_all}, so it cannot {task} "{source or target}". '
                "Choose another strategy, or write both sides of that edit."
            )
        found.append("remove" if strategy == "remove" else task)
    return tuple(found)


def make_masks(
    raw: Tensor, tasks: Sequence[Task], strategy: StrategyName, expansion: float
) -> Masks:
    """Those of an image. raw: (K, H, W), the objects. expansion: in place of the strategies' own;
    below 0, theirs."""
    own = {task: unite(raw, tasks, task) for task in ("change", "add", "remove")}

    def grow(task: Task, by: StrategyName) -> Tensor:
        share = STRATEGIES[by].expansion if expansion < 0 else expansion
        return grow_by_area(own[task], share)

    changed, added, removed = grow("change", strategy), grow("add", "add"), grow("remove", "remove")
    drawn = torch.maximum(own["change"], own["add"])
    removed = removed * (1 - drawn)
    added = torch.maximum(own["add"], added * (1 - own["change"])) * (1 - removed)
    if strategy == "background":
        drawn = changed
    return Masks(
        source=torch.maximum(drawn, removed),
        target=torch.maximum(changed * (1 - removed), added),
        added=added,
        removed=removed,
    )


def unite(raw: Tensor, tasks: Sequence[Task], task: Task) -> Tensor:
    """(H, W): the masks (K, H, W) of the objects with a task together; zeros of none."""
    chosen = [mask for mask, own in zip(raw, tasks, strict=True) if own == task]
    return torch.stack(chosen).amax(0) if chosen else torch.zeros_like(raw[0])
