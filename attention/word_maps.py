"""Cross-attention maps of words: carried from one prompt to another, and kept for local blends.

Hertz et al.: Prompt-to-Prompt (arXiv 2208.01626); InfEdit (arXiv 2312.04965). Shapes: B images,
L = h * w positions of a layer's grid, N tokens, W words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from .control import Call, Control, Layer, Reads, Step

LEAST_CELLS = 16
"""Cells on the short side of a grid below which its maps are too coarse to show where a word is."""
MAP_VALUES = 2**20
"""Values of an attention map that are computed at once."""


def refine(source: Tensor, own: Tensor, mapper: Tensor) -> Tensor:
    """The source's map seen by the words of the target: (..., N_target).

    source: (..., N_source). own: (..., N_target), the target's map, which unaligned words keep.
    mapper: (N_target,) int64, the source row of each target row, negative where unaligned. The sum
    over the tokens of a position is not 1 in general; the published codes leave it so.
    """
    return torch.where(mapper >= 0, source.index_select(-1, mapper.clamp(min=0)), own)


def replace_words(source: Tensor, own: Tensor, shares: Tensor) -> Tensor:
    """The source's map seen by the words of the target that take their places: (..., N_target).

    shares: (N_source, N_target), what each target row takes of each source row; a target row of
    negative shares keeps its own map.
    """
    replaced = source @ shares.clamp(min=0).to(source)
    return torch.where((shares < 0).any(0), own, replaced)


class GridMaps:
    """Maps of the encoder's and decoder's layers on one grid: the coarsest with at least 16 cells
    on its short side (SD 1.5 at 512 pixels: the five layers of 16 x 16 cells), or where a latent is
    too small for that, the finest. Which grid that is shows in the first step.
    """

    def __init__(self) -> None:
        self._grid: tuple[int, int] | None = None

    @property
    def grid(self) -> tuple[int, int]:
        assert self._grid is not None
        return self._grid

    def takes(self, layer: Layer) -> bool:
        """Whether the maps of a layer count, as far as is known of the others."""
        if layer.block[0] == "middle":  # one layer, which the published codes leave out
            return False
        return self._grid is None or fitness(layer.grid) >= fitness(self._grid)

    def forget(self) -> None:
        """Drop the maps and keep their grid."""
        raise NotImplementedError

    def _turn_to(self, layer: Layer) -> None:
        """Go over to the grid of a layer that counts; maps of another grid are dropped."""
        if layer.grid != self._grid:
            self._grid = layer.grid
            self.forget()


class LayerMaps(GridMaps):
    """Whole maps (B, heads, L, N) of one evaluation by branch, each layer's own."""

    def __init__(self) -> None:
        super().__init__()
        self._maps: dict[str, list[Tensor]] = {}

    def add(self, layer: Layer, maps: Mapping[str, Tensor]) -> None:
        """Add the maps by branch of a layer that counts."""
        self._turn_to(layer)
        for branch, map_of_layer in maps.items():
            self._maps.setdefault(branch, []).append(map_of_layer)

    def take(self, branch: str) -> list[Tensor]:
        """The maps of a branch, which are not kept here any longer."""
        return self._maps.pop(branch, [])

    def forget(self) -> None:
        self._maps = {}


class WordMaps(GridMaps):
    """Maps of words, summed over heads, layers and steps of one run."""

    def __init__(self) -> None:
        super().__init__()
        self._sums: dict[str, Tensor] = {}

    def add(self, layer: Layer, maps: Mapping[str, Tensor]) -> None:
        """Add the maps (B, heads, L, W) by name of a layer that counts."""
        self._turn_to(layer)
        for name, map_of_words in maps.items():
            summed = map_of_words.sum(1)
            self._sums[name] = self._sums[name] + summed if name in self._sums else summed

    def mask(
        self,
        name: str,
        words: Sequence[int],
        size: tuple[int, int],
        threshold: float,
        is_widened: bool = False,
    ) -> Tensor:
        """(B, 1, *size) bool: where a word's map, as a share of its greatest value, is above a
        threshold. Of several words (places among W) the greatest counts; of none, nowhere.

        is_widened: each cell counts as the greatest of its 3 x 3 neighbours.
        """
        sums = self._sums[name]
        if not words:
            return torch.zeros(len(sums), 1, *size, dtype=torch.bool, device=sums.device)
        grid = self._grid or size
        greatest = sums[..., list(words)].amax(-1).unflatten(-1, grid)[:, None]
        if is_widened:
            greatest = max_pool2d(greatest, 3, stride=1, padding=1)
        return interpolate(greatest / greatest.amax((-1, -2), keepdim=True), size) > threshold

    def forget(self) -> None:
        self._sums = {}

    def foreground(self, name: str, size: tuple[int, int], threshold: float) -> Tensor | None:
        """(B, *size) bool: where the map of the words together, from 0 at its least to 1 at its
        greatest place, reaches a threshold. None before a layer that counts has run."""
        together = self.together(name)
        if together is None:
            return None
        least, greatest = (f(together, (-1, -2), keepdim=True) for f in (torch.amin, torch.amax))
        spread = (together - least) / (greatest - least)  # NaN, nowhere, where all are alike
        return interpolate(spread, size)[:, 0] >= threshold

    def sums(self, name: str) -> Tensor:
        """(B, W, h, w) on their own grid."""
        return self._sums[name].movedim(-1, 1).unflatten(-1, self.grid)

    def together(self, name: str) -> Tensor | None:
        """(B, 1, h, w) on their own grid: the maps of the words together. None before a layer that
        counts has run."""
        if name not in self._sums:
            return None
        return self._sums[name].sum(-1).unflatten(-1, self.grid)[:, None]

    def shares(self, name: str) -> Tensor:
        """(B, W, h, w) in [0, 1] on their own grid: each map as a share of its greatest value."""
        maps = self.sums(name)
        return maps / maps.amax((-1, -2), keepdim=True)


def fitness(grid: tuple[int, int]) -> tuple[bool, int]:
    """The greater, the better the maps of a grid (h, w) show where a word is."""
    cells = grid[0] * grid[1]
    is_fine_enough = min(grid) >= LEAST_CELLS
    return is_fine_enough, -cells if is_fine_enough else cells


def find_grid(latent: tuple[int, int]) -> tuple[int, int]:
    """The grid that counts in a UNet whose layers are on the latent's grid (h, w), on its half and
    on its quarter."""
    halved = [tuple(-(-side // divisor) for side in latent) for divisor in (1, 2, 4)]
    return max(((h, w) for h, w in halved), key=fitness)


def query_parts(call: Call, branches: Sequence[str]) -> list[slice]:
    """The positions of a layer in parts, so that the maps of a part are small."""
    rows, positions = call.q[branches[0]].shape[:2]
    keys = max(call.k[branch].shape[1] for branch in branches)
    size = max(1, MAP_VALUES // (rows * call.heads * keys))
    return [slice(start, start + size) for start in range(0, positions, size)]


class WordRecorder(Control):
    """Keeps the maps of words in a branch, and changes nothing.

    words: the rows of each word, whose maps are summed. branch: that attends to them.
    """

    kinds = frozenset(("cross",))

    def __init__(self, words: Sequence[Sequence[int]], branch: str) -> None:
        self.maps = WordMaps()
        self.reads: Reads = {branch: frozenset()}
        self._words, self._branch = words, branch

    def acts(self, layer: Layer, step: Step, is_cond: bool) -> bool:
        return is_cond and self.maps.takes(layer)

    def outputs(self, call: Call) -> Mapping[str, Tensor]:
        q, k = call.q[self._branch], call.k[self._branch]
        parts = []
        for part in query_parts(call, (self._branch,)):
            probs = call.probs(q[:, part], k)
            parts.append(torch.stack([probs[..., list(w)].sum(-1) for w in self._words], -1))
        self.maps.add(call.layer, {self._branch: torch.cat(parts, 2)})
        return {}

    def shares(self) -> Tensor:
        """(B, W, h, w): the map of each word as a share of its greatest value."""
        return self.maps.shares(self._branch)
