"""The attention seam: what a method reads and replaces in one attention layer.

A method is a Control. The host turns ComfyUI's hooks into Layers, Steps and Calls
(host/attention/), so a method never sees a hook. Branches are named: "source", "target", and
others that an editor adds. Shapes: B images, L positions, N keys, C = heads * width channels; each
branch has B rows.

A Control acts in three ways:

- `routes` says with whose queries, keys and values a branch attends. Most published controls are
  routes (MasaCtrl, Free-Prompt-Editing, the self-attention part of Prompt-to-Prompt). They cost
  nothing: the host exchanges rows before the layer projects them, so token merging and every
  attention kernel still fit.
- `features` says which branch's features a branch takes out of a ResBlock (Plug-and-Play).
- `outputs` computes a branch's attention output itself, from the queries, keys and values of the
  branches.

Beside that, `optimise` may change the latents that a step starts from, by gradients through the
network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from torch import Tensor

LayerKind: TypeAlias = Literal["self", "cross"]
Reads: TypeAlias = Mapping[str, frozenset[str]]
"""For each branch that a control changes, the other branches that it reads."""
UncondReads: TypeAlias = Literal["uncond", "cond", "nothing"]
IMAGE = "image"
"""The image itself, beside the branches that `Control.blend_latents` is given."""


@dataclass(frozen=True)
class Layer:
    """One attention layer on the grid of a running call.

    block: ComfyUI's name, ("input" | "middle" | "output", block, transformer) on a UNet.
    ordinal: 0-based position among the `count` layers of its kind, in the order in which they run.
    grid: (h, w) of the image cells. latent: (h, w) of the whole latent.
    stage: 0-based position of its block among those of the input, the middle or the output that
        have such layers. On SD 1.5, output blocks 3 to 11 are stages 0 to 8.
    """

    kind: LayerKind
    block: tuple[str, int, int]
    ordinal: int
    count: int
    grid: tuple[int, int]
    latent: tuple[int, int]
    stage: int = 0

    @property
    def is_decoder(self) -> bool:
        return self.block[0] == "output"

    @property
    def is_half_or_coarser(self) -> bool:
        """Whether the grid has at most half the latent's side: on SD 1.5 at 512 pixels, 32 x 32
        cells and fewer. A network rounds up where it halves an odd side."""
        return self._is_at_most(2)

    @property
    def is_quarter_or_coarser(self) -> bool:
        """Whether the grid has at most a quarter of the latent's side: on SD 1.5 at 512 pixels, 16
        x 16 cells and fewer."""
        return self._is_at_most(4)

    @property
    def is_half(self) -> bool:
        """Whether the grid has half the latent's side, rounded up."""
        return all(n == -(-whole // 2) for n, whole in zip(self.grid, self.latent, strict=True))

    def _is_at_most(self, part: int) -> bool:
        sides = zip(self.grid, self.latent, strict=True)
        return all(part * n <= whole + part - 1 for n, whole in sides)


@dataclass(frozen=True)
class Step:
    """The 0-based number of a step, how many a run has, and its noise level."""

    number: int
    count: int
    sigma: float


@dataclass(frozen=True)
class Route:
    """The branches whose queries, keys and values a branch attends with in a self-attention
    layer."""

    q: str
    k: str
    v: str

    @property
    def branches(self) -> frozenset[str]:
        return frozenset((self.q, self.k, self.v))


class Attend(Protocol):
    """Attention with a layer's heads and precision: q (B, L, C), k and v (B, N, C) -> (B, L, C).

    bias: (L, N) or (B, 1, L, N), added to the scores.
    """

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Call:
    """One attention layer in one call of the model, for one chunk of rows.

    is_cond: whether the rows are the conditional half of guidance.
    running: the branches that run in this call; only their outputs can be given.
    q, k, v: (B, L, C), (B, N, C) and (B, N, C) by branch: the running ones, and those that the
        control reads.
    texts: what came with the text of a branch (an ObjectRestrictedEmbeddings), where anything did.
    attend: ComfyUI's chosen attention. attend_parts: the same for several small calls; equal to
        `attend` unless that is slow to start.
    plain: the output (B, L, C) of a branch in this call without any control.
    project_keys, project_values: (M, N, D) of another text -> (M, N, C), by the layer itself.
    keeps_projections: whether they give the same during the whole run.
    is_slow_to_start: whether several calls of `attend` on a few positions take longer than one
        masked call of `attend_parts`.
    """

    layer: Layer
    step: Step
    is_cond: bool
    running: frozenset[str]
    heads: int
    q: Mapping[str, Tensor]
    k: Mapping[str, Tensor]
    v: Mapping[str, Tensor]
    texts: Mapping[str, object]
    attend: Attend
    attend_parts: Attend
    plain: Callable[[str], Tensor]
    project_keys: Callable[[Tensor], Tensor]
    project_values: Callable[[Tensor], Tensor]
    keeps_projections: bool = True
    is_slow_to_start: bool = False

    def probs(self, q: Tensor, k: Tensor, bias: Tensor | None = None) -> Tensor:
        """The attention map (B, heads, L, N) in 32 bits: softmax(q k^T / sqrt(width) + bias)."""
        q, k = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2).float() for t in (q, k))
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if bias is not None:
            scores = scores + bias
        return scores.softmax(-1)

    def mix(self, probs: Tensor, v: Tensor) -> Tensor:
        """The output (B, L, C) of an attention map (B, heads, L, N) over values (B, N, C)."""
        values = v.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return (probs.to(v) @ values).transpose(1, 2).flatten(2)


class Evaluate(Protocol):
    """One evaluation of the network under the control: latents (B, C, h, w) under the text of a
    branch, in the conditional half of guidance -> their denoised prediction (B, C, h, w).

    What the branch reads of another is what that one left when it was evaluated first, within a
    step; so a branch that is read comes first. Autograd records the evaluation where the latents
    require a gradient.
    """

    def __call__(self, branch: str, latents: Tensor) -> Tensor: ...


class Control:
    """A method's attention control for one run. State of the run may live here.

    reads: the branches that the control changes, and which others each of them reads. The host runs
        the branches together, or in turn in an order that this allows. kinds: the kinds of layers
        whose `outputs` it gives.
    replaces_text: whether its outputs use another text than the layer was given, so that no other
        node may change that text inside the layer.
    uncond_reads: which rows of other branches the unconditional half of guidance reads, by routes
        and features. The conditional half reads conditional rows. Where the unconditional one does
        too, the host runs these rows first; where it reads nothing, the host may leave out
        unconditional rows of other branches.
    cond_first: whether the unconditional half uses what the control found in the conditional half
        of the same step. The host then runs these rows first.
    """

    reads: Reads = {}
    kinds: frozenset[LayerKind] = frozenset()
    replaces_text: bool = False
    uncond_reads: UncondReads = "uncond"
    cond_first: bool = False

    def is_active(self, step: Step) -> bool:
        """Whether the control may read other branches at a step."""
        return True

    def routes(self, layer: Layer, step: Step, is_cond: bool) -> Mapping[str, Route]:
        """Routes of a self-attention layer by branch; a branch without one attends by itself."""
        return {}

    def features(self, layer: Layer, step: Step, is_cond: bool) -> Mapping[str, str]:
        """By branch, the branch whose features it takes from the ResBlock before a self-attention
        layer, the first of its block: the output of the residual path, before the skip path is
        added."""
        return {}

    def acts(self, layer: Layer, step: Step, is_cond: bool) -> bool:
        """Whether `outputs` may change a layer of one of `kinds`; if not, it is not called."""
        return True

    def outputs(self, call: Call) -> Mapping[str, Tensor]:
        """New attention outputs (B, L, C) by branch; a branch without one stays as it is.

        Called where a branch that the control changes is running; only those may be given.
        """
        return {}

    def blend(self, denoised: Mapping[str, Tensor], step: Step) -> Mapping[str, Tensor]:
        """The guided predictions (B, C, h, w) by branch after a step, changed where the method
        blends branches."""
        return denoised

    def blend_latents(self, latents: Mapping[str, Tensor], step: Step) -> Mapping[str, Tensor]:
        """The latents (B, C, h, w) by branch that a step leads to, changed where the method blends
        branches; after the last step, the images.

        IMAGE: the image itself at the level that the step leads to, by its inversion or with noise.
        It cannot be changed.
        """
        return latents

    def optimises(self, step: Step) -> bool:
        """Whether `optimise` is to be called before a step."""
        return False

    def optimise(
        self, latents: Mapping[str, Tensor], step: Step, evaluate: Evaluate
    ) -> Mapping[str, Tensor]:
        """The latents (B, C, h, w) by branch that a step starts from, changed where the method
        optimises them. Called where autograd records.

        Raises ValueError, with the step, when a loss or a gradient is not finite.
        """
        return latents

    def acts_in_network(self) -> bool:
        """Whether the control has routes, features or outputs at all."""
        return bool(self.kinds) or self.has_routes() or self.has_features()

    def has_routes(self) -> bool:
        return type(self).routes is not Control.routes

    def has_features(self) -> bool:
        return type(self).features is not Control.features

    def has_optimisation(self) -> bool:
        return type(self).optimise is not Control.optimise


def first_step(share: float, steps: int) -> int:
    """The 0-based step at which a share of the steps, in [0, 1], is over: floor(share * steps)."""
    return int(share * steps + 1e-9)


def first_layer(share: float, layers: int) -> int:
    """The 0-based layer at which a share of the layers, in [0, 1], is over."""
    return int(share * layers + 1e-9)


def running_order(branches: tuple[str, ...], reads: Reads) -> tuple[str, ...] | None:
    """The branches in an order in which each comes after those that it reads, or None where
    branches read each other."""
    order: list[str] = []
    while len(order) < len(branches):
        ready = [b for b in branches if b not in order and reads.get(b, frozenset()) <= {*order, b}]
        if not ready:
            return None
        order.append(ready[0])
    return tuple(order)
