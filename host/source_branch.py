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

from .conditioning import BRANCHES_KEY, ORE_KEY
from .unet import LayerKey

LIMIT_BYTES = 2 * 1024**3
"""Most memory for one source branch; also at most a quarter of what is free. Steps beyond it are
computed again."""
SOURCE_KEY = "ale_edit_source"
"""Entry of transformer_options with the OpenStep that attention patches fill, or the SourceStep
that they read."""
OWN_WRAPPERS = {"ale_edit.rgb_cam", "ale_edit.self_injection", "ale_edit.background_blending"}
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
    """A step that runs with both branches: attention patches leave the source's inputs here."""

    def __init__(self) -> None:
        self.attention: dict[AttentionKey, Tensor] = {}


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
        self.inputs = dict(inputs)
        self.steps: dict[int, SourceStep] = {}
        free: Any = comfy.model_management.get_free_memory(torch.device("cpu"))
        self._bytes_left = min(LIMIT_BYTES, int(free) // 4)

    def add(self, number: int, attention: Mapping[AttentionKey, Tensor], denoised: Tensor) -> None:
        """Keep a step that has run, in place of an earlier one; without its attention inputs when
        there is no memory left for them."""
        if number in self.steps:
            self._bytes_left += self.steps[number].bytes()
        if sum(tensor.nbytes for tensor in attention.values()) > self._bytes_left:
            self._bytes_left, attention = 0, {}
        on_cpu = {key: tensor.cpu() for key, tensor in attention.items()}
        self.steps[number] = step = SourceStep(denoised.to("cpu", copy=True), on_cpu)
        self._bytes_left -= step.bytes()

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
    """The kept source branch of a BaseModel that was computed from the same inputs."""
    branch = _kept.get(model)
    return branch if branch is not None and is_same(branch.inputs, inputs) else None


def forget() -> None:
    """Free the kept source branch."""
    _kept.clear()


def is_source_separable(patcher: Any, sampler: Any, conds: Sequence[Mapping[str, Any]]) -> bool:
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
        "objects": dict(patcher.object_patches),
        "source": {key: source.get(key) for key in ("cross_attn", "pooled_output")},
        "entry": _described(entry, ("cross_attn", "pooled_output")),
        "negative": [_described(cond, ()) for cond in negative],
        **numbers,
    }


def _described(cond: Mapping[str, Any], left_out: Sequence[str]) -> dict[str, Any]:
    ours = (ORE_KEY, BRANCHES_KEY, "uuid")
    return {key: value for key, value in cond.items() if key not in (*ours, *left_out)}


def is_same(first: Any, second: Any) -> bool:
    """Equality of nested values that may hold tensors."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.shape == second.shape and torch.equal(first.cpu(), second.cpu())
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return first.keys() == second.keys() and all(is_same(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(is_same, first, second))
    return first is second or bool(first == second)
