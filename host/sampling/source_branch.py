"""The source branch of the last edit, kept for the next edit of the same image.

Under virtual inversion with eta 1 the source branch knows nothing of the edit: it depends on the
image, the source prompt, the negative prompt, the seed, the schedule, its guidance and the model.
Where all of these are the same again, only the other branches run. They take from here what they
read of the source: its denoised prediction of each step, and its attention inputs.

A model keeps one source branch, in main memory, until another takes its place or the model is
freed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import comfy.model_management
import torch
from torch import Tensor

from ..attention.store import StepStore
from ..comfy_types import Cond
from ..compare import is_same
from ..patching import OWN_KEY
from ..text.conditioning import BRANCHES_KEY, ORE_KEY
from .branch_inputs import OWN_KEYS

if TYPE_CHECKING:
    from comfy.model_base import BaseModel
    from comfy.model_patcher import ModelPatcher
    from comfy.samplers import Sampler

logger = logging.getLogger(__name__)

SOURCE = "source"
KEPT = "ale_edit_source_branch"
"""Attribute of a BaseModel, which all clones of a MODEL share, with its SourceBranch."""
LIMIT_BYTES = 2 * 1024**3
"""Most memory for one source branch; also at most a quarter of what is free. Steps beyond it are
computed again."""
KNOWN_OBJECTS = {"model_sampling"}
COUPLING_KEYS = ("control", "hooks", "gligen", "area", "mask", "start_percent", "end_percent")


class SourceBranch:
    """The source branch of one run: what it was computed from, and what came out at each step."""

    def __init__(self, inputs: Mapping[str, object]) -> None:
        self.inputs = _copy(inputs)
        self.steps: dict[int, StepStore] = {}
        free = comfy.model_management.get_free_memory(torch.device("cpu"))
        self._bytes_left = min(LIMIT_BYTES, int(cast(int, free)) // 4)

    def open_step(self) -> StepStore:
        """A step that is about to run with all branches together."""
        return StepStore(frozenset({SOURCE}), keeps_on_cpu=True, bytes_left=self._bytes_left)

    def add(self, number: int, step: StepStore, denoised: Tensor) -> None:
        """Keep the source's part of a step that has run, in place of an earlier one."""
        if number in self.steps:
            self._bytes_left += self.steps[number].count_bytes()
        done = StepStore(frozenset(), layers=step.layers)
        done.denoised[SOURCE] = denoised.to("cpu", copy=True)
        inputs = {
            key: tuple(tensor.to("cpu") for tensor in tensors)
            for key, tensors in step.inputs.items()
            if key.branch == SOURCE
        }
        if sum(t.nbytes for tensors in inputs.values() for t in tensors) <= self._bytes_left:
            done.inputs = inputs
        self.steps[number] = done
        self._bytes_left -= done.count_bytes()

    def count_bytes(self) -> int:
        return sum(step.count_bytes() for step in self.steps.values())


def keep(model: BaseModel, branch: SourceBranch) -> None:
    """Keep the source branch of a finished run of a BaseModel, in place of any other."""
    if getattr(model, KEPT, None) is not branch:
        logger.info(
            "The source branch of this edit is kept for the next one of the same image: %.0f MB of "
            "main memory (reuse_source).",
            branch.count_bytes() / 1e6,
        )
    setattr(model, KEPT, branch)


def find(model: BaseModel, inputs: Mapping[str, object]) -> SourceBranch | None:
    """The kept source branch of a BaseModel that was computed from the same inputs; one of other
    inputs is freed."""
    branch = getattr(model, KEPT, None)
    if branch is not None and is_same(branch.inputs, inputs):
        return branch
    forget(model)
    return None


def forget(model: BaseModel | None) -> None:
    """Free the kept source branch of a BaseModel."""
    if hasattr(model, KEPT):
        delattr(model, KEPT)


def is_source_separable(
    patcher: ModelPatcher,
    sampler: Sampler,
    positive: Cond,
    negative: Sequence[Cond],
) -> bool:
    """Whether the source branch of a run is certain not to depend on its target branch.

    Other packs' patches may let rows of a batch see each other, remember earlier calls, or call the
    model again, and control and hooks bring models of their own: a model or conditioning with any
    of these is computed whole.
    """
    if not getattr(sampler, "keeps_source_apart", False):
        return False
    options = dict(patcher.model_options)
    inner = options.pop("transformer_options", {})
    if options or any(inner.values()) or patcher.injections or patcher.additional_models:
        return False
    if not patcher.object_patches.keys() <= KNOWN_OBJECTS or any(patcher.callbacks.values()):
        return False
    if not all(str(key).startswith(OWN_KEY) for kind in patcher.wrappers.values() for key in kind):
        return False
    if len(negative) > 1:  # chunks of one call could not be told apart
        return False
    conds = [positive, *negative]
    return not any(cond.get(key) is not None for cond in conds for key in COUPLING_KEYS)


def source_inputs(
    patcher: ModelPatcher,
    entry: Cond,
    source: Cond,
    negative: Sequence[Cond],
    numbers: Mapping[str, object],
) -> dict[str, object]:
    """Everything that the source branch of a separable run is computed from.

    entry: the conditioning entry of both branches; source: that of the source alone. numbers: the
        latent, the noise mask, the sigmas, the seed and the source's guidance.
    """
    return {
        "weights": patcher.patches_uuid,
        "weight patches": {key: len(patches) for key, patches in patcher.patches.items()},
        "objects": dict(patcher.object_patches),
        "model sampling": patcher.get_model_object("model_sampling").state_dict(),
        "source": {key: source.get(key) for key in OWN_KEYS - {ORE_KEY}},
        "entry": _describe(entry, ("cross_attn", *OWN_KEYS)),
        "negative": [_describe(cond, ()) for cond in negative],
        **numbers,
    }


def _describe(cond: Cond, left_out: Sequence[str]) -> Cond:
    ours = (ORE_KEY, BRANCHES_KEY, "uuid")
    return {key: value for key, value in cond.items() if key not in (*ours, *left_out)}


def _copy(value: object) -> object:
    """Nested values whose tensors are copies: the caller may change its own in place."""
    if isinstance(value, Tensor):
        return value.to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list | tuple) else value
