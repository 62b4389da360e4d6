"""What a branch leaves behind in a step for branches that run later.

Branches that run in turn, and an edit that takes the source branch from the edit before, read the
attention inputs of a branch whose rows are not in the running call. A StepStore holds them, with
the branch's denoised prediction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from torch import Tensor

from ...attention.control import Control, Layer, Step
from .unet import LayerKey

Half: TypeAlias = int
"""ComfyUI's cond_or_uncond: 0 conditional, 1 unconditional."""
COND, UNCOND = HALVES = (0, 1)
Form: TypeAlias = Literal["input", "projected", "features"]

STORE_KEY = "ale_edit_store"
"""Entry of transformer_options with the StepStore of the running step."""


class StoreKey(NamedTuple):
    """Where inputs belong: a layer ("self" or "cross", and its block), a half of guidance, a
    branch, and whether they are the layer's input, the projected queries, keys and values, or the
    features of the ResBlock before the layer."""

    kind: str
    block: LayerKey
    half: Half
    branch: str
    form: Form


@dataclass(eq=False)
class StepStore:
    """Attention inputs and predictions of one step.

    collects: the branches whose inputs are put here. bytes_left: memory for attention inputs;
        beyond it none is kept.
    inputs: one tensor (B, L, C) before projection, the projected q, k and v, or the features (B, C,
        h, w). denoised: (B, C, h,
        w), the guided prediction by branch. layers: every attention layer that ran.
    """

    collects: frozenset[str]
    keeps_on_cpu: bool = False
    bytes_left: int = 2**62
    inputs: dict[StoreKey, tuple[Tensor, ...]] = field(default_factory=dict)
    denoised: dict[str, Tensor] = field(default_factory=dict)
    layers: dict[tuple[str, LayerKey], Layer] = field(default_factory=dict)

    def put(self, key: StoreKey, tensors: tuple[Tensor, ...]) -> None:
        """Keep the inputs of a branch that is collected, while there is memory."""
        if key.branch not in self.collects or key in self.inputs or self.bytes_left < 0:
            return
        self.bytes_left -= sum(tensor.nbytes for tensor in tensors)
        if self.bytes_left < 0:
            self.inputs.clear()
            return
        # A plain copy. One that does not wait would pin as much memory until ComfyUI ends.
        self.inputs[key] = tuple(
            t.to("cpu" if self.keeps_on_cpu else t.device, copy=True) for t in tensors
        )

    def get(self, key: StoreKey, like: Tensor) -> tuple[Tensor, ...]:
        """Inputs on the device and in the type of `like`."""
        return tuple(tensor.to(like) for tensor in self.inputs[key])

    def open_for(self, branches: frozenset[str]) -> StepStore:
        """A store that has what is here, and collects what these branches leave."""
        return StepStore(branches, inputs=dict(self.inputs), denoised=dict(self.denoised))

    def count_bytes(self) -> int:
        kept = (*self.denoised.values(), *(t for inputs in self.inputs.values() for t in inputs))
        return sum(tensor.nbytes for tensor in kept)

    def serves(
        self,
        controls: Iterable[Control],
        step: Step,
        running: frozenset[str],
        halves: Iterable[Half],
    ) -> bool:
        """Whether everything is here that the running branches read of others at a step.

        Not where the run that left this had no control on layers of a kind that one reads now.
        """
        active = [control for control in controls if control.is_active(step)]
        known = {layer.kind for layer in self.layers.values()}
        if not all(kinds_read(control, running) <= known for control in active):
            return False
        return all(
            key in self.inputs
            for control in active
            for layer in self.layers.values()
            for half in halves
            for key in keys_read(control, layer, step, half, running)
        )


def kinds_read(control: Control, running: frozenset[str]) -> frozenset[str]:
    """The kinds of layers in which a control may read branches that are not running."""
    others = frozenset[str]().union(*control.reads.values()) - running
    if not others:
        return frozenset()
    reads_self = control.has_routes() or control.has_features()
    return frozenset[str](control.kinds) | ({"self"} if reads_self else set())


def half_read(control: Control, half: Half) -> Half:
    """The half of guidance of other branches that a control's routes and features of `half`
    read."""
    return COND if control.uncond_reads == "cond" else half


def keys_read(
    control: Control, layer: Layer, step: Step, half: Half, running: frozenset[str]
) -> Iterator[StoreKey]:
    """What a control reads in a layer of branches that are not running."""
    if layer.kind == "self":
        read_half = half_read(control, half)
        for branch, route in control.routes(layer, step, half == COND).items():
            for read in route.branches - running if branch in running else ():
                yield StoreKey(layer.kind, layer.block, read_half, read, "input")
        for branch, read in control.features(layer, step, half == COND).items():
            if branch in running and read not in running and layer.block[-1] == 0:
                yield StoreKey(layer.kind, layer.block, read_half, read, "features")
    if layer.kind in control.kinds and control.acts(layer, step, half == COND):
        for branch in running:
            for read in control.reads.get(branch, frozenset()) - running:
                yield StoreKey(layer.kind, layer.block, half, read, "projected")
