"""Attention maps that show an image's layout: averaged over an inversion, and of one evaluation
with their gradients.

Shapes: B images, L = h * w positions of a layer's grid, N tokens, K words.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from .control import Call, Control, Layer, Reads, Step
from .word_losses import Words
from .word_maps import WordMaps, query_parts


class LayoutRecorder(Control):
    """Keeps maps of one branch, and changes nothing.

    While it averages: the self-attention maps on the grid of half the latent's side (SD 1.5 at 512
    pixels: 32 x 32), and the cross-attention maps of words on the grid of word maps (16 x 16), of
    encoder and decoder layers. While it looks: the whole cross-attention maps of one evaluation on
    that same grid.

    words: rows of each word. branch: whose maps they are.
    """

    kinds = frozenset(("cross", "self"))

    def __init__(self, words: Words, branch: str) -> None:
        self.reads: Reads = {branch: frozenset()}
        self._words, self._branch = words, branch
        self._phase: Literal["off", "averaging", "learning"] = "off"
        self._is_looking = False
        self._maps = WordMaps()
        self._self_sum: Tensor | None = None
        self._self_count = 0
        self._seen: list[Tensor] = []
        self.self_grid = 0, 0

    @property
    def grid(self) -> tuple[int, int]:
        """Of the word maps; known after averaging."""
        return self._maps.grid

    @contextmanager
    def averaging(self) -> Iterator[None]:
        self._phase = "averaging"
        try:
            yield
        finally:
            self._phase = "off"

    @contextmanager
    def learning(self) -> Iterator[None]:
        """Around all evaluations whose maps have gradients, and their backward passes: blocks that
        are computed again for their gradients must act as they did."""
        self._phase = "learning"
        try:
            yield
        finally:
            self._phase = "off"
            self._seen = []

    def acts(self, layer: Layer, step: Step, is_cond: bool) -> bool:
        if not is_cond or layer.block[0] == "middle":
            return False
        if layer.kind == "self":
            return self._phase == "averaging" and layer.is_half
        if self._phase == "averaging":
            return self._maps.takes(layer)
        return self._phase == "learning" and layer.grid == self._maps.grid

    def outputs(self, call: Call) -> Mapping[str, Tensor]:
        q, k = call.q[self._branch], call.k[self._branch]
        probs = (call.probs(q[:, part], k) for part in query_parts(call, (self._branch,)))
        if call.layer.kind == "self":
            self._add_self(call.layer, torch.cat([part.mean(1) for part in probs], 1))
        elif self._phase == "averaging":
            chosen = [
                torch.stack([part[..., list(word)].sum(-1) for word in self._words], -1)
                for part in probs
            ]
            self._maps.add(call.layer, {self._branch: torch.cat(chosen, 2)})
        else:
            mean = torch.cat([part.mean(1) for part in probs], 1)
            if self._is_looking:
                self._seen.append(mean)
        return {}

    def _add_self(self, layer: Layer, maps: Tensor) -> None:
        self.self_grid = layer.grid
        self._self_sum = maps if self._self_sum is None else self._self_sum + maps
        self._self_count += 1

    # -- what it kept ------------------------------------------------------------------------------

    def self_maps(self) -> Tensor | None:
        """(B, L, L), averaged; None of a network without such layers."""
        return None if self._self_sum is None else self._self_sum / self._self_count

    def word_maps(self) -> Tensor:
        """(B, K, h, w), summed over heads, layers and steps."""
        return self._maps.sums(self._branch)

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Around the one evaluation whose maps `take` gives."""
        self._seen, self._is_looking = [], True
        try:
            yield
        finally:
            self._is_looking = False

    def take(self) -> Tensor:
        """(B, h, w, N): the mean of heads and layers of the last evaluation."""
        maps, self._seen = torch.stack(self._seen).mean(0), []
        return maps.unflatten(1, self._maps.grid)
