"""The source branch of the last edit, kept for the next edit of the same image.

Under virtual inversion with eta 1 the source branch knows nothing of the edit: it depends on the
image, the source prompt, the negative prompt, the seed, the schedule, its guidance and the model.
Where all of these are the same again, only the target's rows run, and take from here what they need
of the source: its denoised prediction of each step, and the inputs of its self-attention layers
where they are injected.

One source branch is kept, in main memory, until another one is, or until its model is freed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import comfy.model_management
import torch
from torch import Tensor

from .compare import is_same
from .conditioning import BRANCHES_KEY, ORE_KEY
from .patching import BLENDING_KEY, RGB_CAM_KEY, SELF_INJECTION_KEY
from .unet import LayerKey

LIMIT_BYTES = 2 * 1024**3
"""Most memory for one source branch; also at most a quarter of what is free. Steps beyond it are
computed again."""
SOURCE_KEY = "ale_edit_source"
"""Entry of transformer_options with the OpenStep that attention patches fill, or the SourceStep
that they read."""
OWN_WRAPPERS = {RGB_CAM_KEY, SELF_INJECTION_KEY, BLENDING_KEY}
"""Wrappers that change nothing in the source branch."""
KNOWN_OBJECTS = {"model_sampling"}
COUPLING_KEYS = ("control", "hooks", "gligen", "area", "mask", "start_percent", "end_percent")

AttentionKey: TypeAlias = tuple[LayerKey, int]
"""A layer, and which chunk of rows: 0 conditional, 1 unconditional."""


def attention_keys(options: Mapping[str, Any]) -> list[AttentionKey]:
    """The keys of the running self-attention layer, one for each chunk of rows."""
    layer = (*options["block"], options["block_index"])
    return [(layer, chunk) for chunk in options["cond_or_uncond"]]


class OpenStep:
    """A step that runs with both branches: attention patches leave the source's inputs here.

    bytes_left: memory for them; with more, none of the step is kept.
    """

    def __init__(self, bytes_left: int) -> None:
        self._bytes_left = bytes_left
        self.attention: dict[AttentionKey, Tensor] = {}

    def put(self, key: AttentionKey, rows: Tensor) -> None:
        """Copy a layer's rows (B, L, C) to main memory; from a GPU without waiting for it."""
        if rows.nbytes > self._bytes_left:
            self._bytes_left, self.attention = -1, {}
            return
        self._bytes_left -= rows.nbytes
        self.attention[key] = rows.to("cpu", copy=True, non_blocking=rows.is_cuda)


@dataclass(frozen=True, eq=False)
class SourceStep:
    """The source branch at one step that has run.

    denoised: (B, C, h, w), the guided prediction. attention: (B, L, C) inputs of self-attention.
    """

    denoised: Tensor
    attention: Mapping[AttentionKey, Tensor]

    def chunks(self) -> set[int]:
        """The chunks whose attention inputs are here."""
        return {chunk for _, chunk in self.attention}

    def bytes(self) -> int:
        return self.denoised.nbytes + sum(tensor.nbytes for tensor in self.attention.values())


class SourceBranch:
    """The source branch of one run: what it was computed from, and what came out at each step."""

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        self.inputs = _copied(inputs)
        self.steps: dict[int, SourceStep] = {}
        free: Any = comfy.model_management.get_free_memory(torch.device("cpu"))
        self._bytes_left = min(LIMIT_BYTES, int(free) // 4)

    def open(self) -> OpenStep:
        """A step that is about to run with both branches."""
        return OpenStep(self._bytes_left)

    def add(self, number: int, step: OpenStep, denoised: Tensor) -> None:
        """Keep a step that has run, in place of an earlier one."""
        if number in self.steps:
            self._bytes_left += self.steps[number].bytes()
        done = SourceStep(denoised.to("cpu", copy=True), step.attention)
        self.steps[number] = done
        self._bytes_left -= done.bytes()

    def step(self, number: int, injected_chunks: set[int]) -> SourceStep | None:
        """A step that serves a run which injects self-attention into the given chunks of rows."""
        found = self.steps.get(number)
        return found if found is not None and injected_chunks <= found.chunks() else None


_kept: WeakKeyDictionary[Any, SourceBranch] = WeakKeyDictionary()


def keep(model: Any, branch: SourceBranch) -> None:
    """Keep the source branch of a finished run of a BaseModel, in place of any other."""
    _kept.clear()
    _kept[model] = branch


def find(model: Any, inputs: Mapping[str, Any]) -> SourceBranch | None:
    """The kept source branch of a BaseModel that was computed from the same inputs; one of other
    inputs is freed."""
    branch = _kept.get(model)
    if branch is not None and is_same(branch.inputs, inputs):
        return branch
    forget()
    return None


def forget() -> None:
    """Free the kept source branch."""
    _kept.clear()


def is_source_separable(
    patcher: Any,
    sampler: Any,
    positive: Mapping[str, Any],
    negative: Sequence[Mapping[str, Any]],
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
    if any(key not in OWN_WRAPPERS for kind in patcher.wrappers.values() for key in kind):
        return False
    if len(negative) > 1:  # chunks of one call could not be told apart
        return False
    conds = [positive, *negative]
    return not any(cond.get(key) is not None for cond in conds for key in COUPLING_KEYS)


def run_inputs(
    patcher: Any,
    entry: Mapping[str, Any],
    source: Mapping[str, Any],
    negative: Sequence[Mapping[str, Any]],
    numbers: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that the source branch of a separable run is computed from.

    entry: the conditioning entry of both branches; source: that of the source alone. numbers: the
        latent, the noise mask, the sigmas, the seed and the source's guidance.
    """
    return {
        "weights": patcher.patches_uuid,
        "weight patches": {key: len(patches) for key, patches in patcher.patches.items()},
        "objects": dict(patcher.object_patches),
        "model sampling": patcher.get_model_object("model_sampling").state_dict(),
        "source": {key: source.get(key) for key in ("cross_attn", "pooled_output")},
        "entry": _described(entry, ("cross_attn", "pooled_output")),
        "negative": [_described(cond, ()) for cond in negative],
        **numbers,
    }


def _described(cond: Mapping[str, Any], left_out: Sequence[str]) -> dict[str, Any]:
    ours = (ORE_KEY, BRANCHES_KEY, "uuid")
    return {key: value for key, value in cond.items() if key not in (*ours, *left_out)}


def _copied(value: Any) -> Any:
    """Nested values whose tensors are copies: the caller may change its own in place."""
    if isinstance(value, Tensor):
        return value.to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, list | tuple) else value
