"""CPAM on diffusers' UNet2DConditionModel: the oracle of a whole edit.

"Rethinking Attentions in Zero-Shot Real Image Editing", eq. 1 to 4, and the code of its
predecessor. Naive on purpose: every position of the target attends to the object and to the rest,
and then takes one of both. Written from the specification alone (methods.md D.1); shares no line
with the pack.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from math import floor, isqrt
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .ale_diffusers import Network, Step, heads
from .inverted_diffusers import Sampling, edit_inverted
from .masactrl_diffusers import self_attention_layers
from .masks_by_hand import nearest, on_grid
from .ore_by_hand import TextEncoder, Texts, restrict
from .p2p_diffusers import rows_of

Box = tuple[int, int, int, int]  # top, left, bottom, right in pixels
SOURCE_COND, TARGET_COND = 2, 3
EXPANSIONS = {
    "add": "0.10",
    "replace": "0.07",
    "replace (refined)": "0.10",
    "pose / view": "0.10",
    "background": "0",
    "remove": "0",
}


@dataclass(frozen=True)
class Settings:
    """expansion: the strategy's where None. plain: share of the layers with plain self-attention.
    start_step, start_layer: shares. words: of the objects that are changed, in the target prompt.
    tasks: what becomes of the object of each box, "change", "remove" or "add"; of none, all are
    changed. phrases: of the objects that are not removed, where each reads its own."""

    strategy: str = "replace"
    boxes: tuple[Box, ...] = ((6, 9, 42, 40), (20, 81, 60, 106))
    sampling: Sampling = Sampling(method="direct")
    variant: Literal["paper", "published code"] = "paper"
    expansion: str | None = None
    plain: float = 0.0
    start_step: Fraction = Fraction(3, 50)
    start_layer: Fraction = Fraction(8, 16)
    threshold: float = 0.25
    words: str = "brown goat yellow ball"
    tasks: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    negative: str = ""
    has_control: bool = True

    @property
    def is_refined(self) -> bool:
        """With an object that is changed, whose words the mask can follow."""
        is_followed = not self.tasks or "change" in self.tasks
        return is_followed and self.strategy in ("replace (refined)", "pose / view")


def grown_by_square(mask: np.ndarray, share: str) -> np.ndarray:
    """cv2.dilate with a square of ones; its anchor is at half its side, rounded down."""
    area = int(mask.sum())
    portion = Fraction(share)
    side = isqrt(floor(area * portion**2))
    if side == 0:
        return mask
    height, width = mask.shape
    padded, out = np.pad(mask, side), np.zeros_like(mask)
    for i, j in np.ndindex(side, side):
        top, left = side + i - side // 2, side + j - side // 2
        out |= padded[top : top + height, left : left + width]
    return out


@dataclass
class CPAMAttention:
    """diffusers' attention processor for the rows [source, target] x [uncond, cond].

    plain: (steps, layers) bool. size: of the latent. refined: M_t on it, once there is one. texts:
    where each object reads its own.
    """

    settings: Settings
    layers: list[Any]
    rows: list[int]
    plain: Tensor
    size: tuple[int, int]
    texts: Texts | None = None
    step: int = 0
    count: int = 0
    refined: np.ndarray | None = None
    maps: list[Tensor] = field(default_factory=list)

    def begin(self, step: int, count: int) -> None:
        self.step, self.count = step, count
        if self.settings.is_refined and self.maps:
            mean = torch.stack(self.maps).mean(0)
            mean = (mean - mean.min()) / (mean.max() - mean.min())
            self.refined = (mean > self.settings.threshold).numpy()

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        assert attention_mask is None and len(hidden_states) == 4
        is_self = encoder_hidden_states is None
        context = hidden_states if is_self else encoder_hidden_states
        q, k, v = (
            heads(part, attn)
            for part in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        outs = [self.attend(attn, q[i], k[i], v[i]) for i in range(4)]
        if self.settings.has_control and is_self:
            if not self.plain[self.step, self.layers.index(attn)]:
                for row in (1, 3):
                    outs[row] = self.adapted(attn, q[row], k, v, row, outs[row])
        elif self.settings.has_control:
            self.keep_map(attn, q[TARGET_COND], k[TARGET_COND])
            target = self.masks(q.shape[1])["target"]
            of_null = self.attend(attn, q[TARGET_COND], k[SOURCE_COND], v[SOURCE_COND])
            mine = target[:, None, None]
            if self.texts is not None:
                outs[TARGET_COND] = self.restricted(
                    attn, self.texts, q[TARGET_COND], k[TARGET_COND]
                )
            outs[TARGET_COND] = torch.where(mine, outs[TARGET_COND], of_null)
        return attn.to_out[0](torch.stack(outs).flatten(2))

    def attend(
        self, attn: Any, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None
    ) -> Tensor:
        """(L, h, D). allowed: (N,) bool, the keys; where there is none, all."""
        scores = torch.einsum("lhd,nhd->hln", q, k) * attn.scale
        if allowed is not None and allowed.any():
            scores = scores + (~allowed).float() * torch.finfo(scores.dtype).min
        return torch.einsum("hln,nhd->lhd", scores.softmax(-1), v)

    def adapted(self, attn: Any, q: Tensor, k: Tensor, v: Tensor, row: int, own: Tensor) -> Tensor:
        """SC of one row of the target. own: Att(Q, K, V)."""
        masks = self.masks(q.shape[0])
        source, target, added = masks["source"], masks["target"], masks["added"]
        k_i, v_i = k[row - 1], v[row - 1]
        background = self.attend(attn, q, k_i, v_i, ~source)
        layer = self.layers.index(attn)
        is_late = self.step >= floor(self.settings.start_step * self.count)
        is_deep = layer >= floor(self.settings.start_layer * len(self.layers))
        foreground = own
        if self.settings.strategy == "pose / view" and is_late and is_deep:
            kept = self.attend(attn, q, k_i, v_i, target & ~added)
            foreground = torch.where(added[:, None, None], own, kept)
        m = target.float()
        if self.settings.variant == "published code":
            m = m.clamp(0.01, 0.99)
        return m[:, None, None] * foreground + (1 - m)[:, None, None] * background

    def restricted(self, attn: Any, texts: Texts, q: Tensor, k: Tensor) -> Tensor:
        """(L, h, D): each position with the words and the values of its object alone (ALE-Edit,
        Algorithm 2); one of several objects with the words of them and the values of e'_base."""
        owners = self.owners(self.grid(len(q)))
        *values, base = (heads(attn.to_v(e)[None], attn)[0] for e in (*texts.objects, texts.base))
        out = torch.zeros_like(q)
        for position in range(len(q)):
            own = [i for i, cells in enumerate(owners) if cells[position]]
            hidden = [row for i, rows in enumerate(texts.rows) if i not in own for row in rows]
            allowed = torch.ones(len(k), dtype=torch.bool)
            allowed[hidden] = False
            value = values[own[0]] if len(own) == 1 else base
            out[position] = self.attend(attn, q[position : position + 1], k, value, allowed)[0]
        return out

    def owners(self, grid: tuple[int, int]) -> np.ndarray:
        """(K, L) bool: the cells of the mask, as it is given, of each object that is not removed; a
        cell of none is that of the nearest box."""
        settings = self.settings
        tasks = settings.tasks or ["change"] * len(settings.boxes)
        boxes = [box for box, task in zip(settings.boxes, tasks, strict=True) if task != "remove"]
        pixels = np.zeros((len(boxes), 8 * self.size[0], 8 * self.size[1]), bool)
        for mask, (top, left, bottom, right) in zip(pixels, boxes, strict=True):
            mask[top:bottom, left:right] = True
        cells = on_grid(pixels, *grid, settings.variant).copy()
        for i, j in np.ndindex(*grid):
            if not cells[:, i, j].any():
                ways = [self.way(box, grid, i, j) for box in boxes]
                cells[int(np.argmin(ways)), i, j] = True
        return cells.reshape(len(cells), -1)

    def way(self, box: Box, grid: tuple[int, int], i: int, j: int) -> float:
        """From the pixels of a cell to the nearest one of a box, on average."""
        top, left, bottom, right = box
        height, width = 8 * self.size[0], 8 * self.size[1]
        found = []
        for y in range(i * height // grid[0], -(-(i + 1) * height // grid[0])):
            for x in range(j * width // grid[1], -(-(j + 1) * width // grid[1])):
                down = max(top - y, 0, y - min(bottom, height) + 1)
                across = max(left - x, 0, x - min(right, width) + 1)
                found.append((down**2 + across**2) ** 0.5)
        return sum(found) / len(found)

    # -- masks -------------------------------------------------------------------------------------

    def grid(self, positions: int) -> tuple[int, int]:
        height, width = self.size
        while height * width > positions:
            height, width = -(-height // 2), -(-width // 2)
        assert height * width == positions
        return height, width

    def masks(self, positions: int) -> dict[str, Tensor]:
        """M_s, M_t and where objects are added, (L,) bool, on a layer's grid."""
        settings, grid = self.settings, self.grid(positions)
        tasks = settings.tasks or ("change",) * len(settings.boxes)
        if settings.strategy == "remove":
            tasks = ("remove",) * len(settings.boxes)
        items, large = {}, {}
        for task, strategy in (
            ("change", settings.strategy),
            ("remove", "remove"),
            ("add", "add"),
        ):
            pixels = np.zeros((8 * self.size[0], 8 * self.size[1]), dtype=bool)
            for (top, left, bottom, right), own in zip(settings.boxes, tasks, strict=True):
                if own == task:
                    pixels[top:bottom, left:right] = True
            items[task] = pixels
            large[task] = grown_by_square(pixels, settings.expansion or EXPANSIONS[strategy])
        if settings.strategy == "background":
            rest = ~self.on(large["change"], grid)
            return {"source": rest, "target": rest, "added": torch.zeros_like(rest)}
        source, target, added, removed = (np.zeros_like(pixels) for _ in range(4))
        for place in np.ndindex(pixels.shape):
            if items["change"][place] or items["add"][place]:
                source[place] = target[place] = True
                added[place] = items["add"][place]
            elif large["remove"][place]:
                source[place] = removed[place] = True
            elif large["change"][place] or large["add"][place]:
                target[place] = True
                added[place] = large["add"][place]
        found = {
            name: self.on(mask, grid)
            for name, mask in (("source", source), ("target", target), ("added", added))
        }
        if self.refined is not None:
            follows = self.on(self.refined, grid) & ~self.on(removed, grid)
            found["target"] = follows | found["added"]
        return found

    def on(self, mask: np.ndarray, grid: tuple[int, int]) -> Tensor:
        if not mask.any():
            return torch.zeros(grid[0] * grid[1], dtype=torch.bool)
        return torch.from_numpy(
            on_grid(mask[None], *grid, self.settings.variant)[0].copy()
        ).flatten()

    def keep_map(self, attn: Any, q: Tensor, k: Tensor) -> None:
        scores = torch.einsum("lhd,nhd->hln", q, k) * attn.scale
        own = scores.softmax(-1)[..., self.rows].sum((0, 2)) / (attn.heads * max(len(self.rows), 1))
        own = (own / own.max()).unflatten(0, self.grid(len(own)))
        self.maps.append(torch.from_numpy(nearest(own.numpy(), *self.size).copy()))


def edit(
    network: Network,
    encoder: TextEncoder,
    prompts: tuple[str, str],
    x0: Tensor,
    seed: int,
    settings: Settings,
) -> list[Step]:
    """The whole edit of one image, the target's steps and the result."""
    layers = self_attention_layers(network.unet)
    count = len(settings.sampling.timesteps())
    draws = torch.rand(count, len(layers), generator=torch.Generator().manual_seed(seed))
    rows = [row for word in settings.words.split() for row in rows_of(encoder, prompts[1], word)]
    texts = None
    if settings.phrases:
        texts = restrict(encoder, settings.phrases, settings.variant, prompts[1])
    size = (x0.shape[-2], x0.shape[-1])
    attention = CPAMAttention(settings, layers, rows, draws < settings.plain, size, texts)
    return edit_inverted(
        network,
        encoder,
        ("", "", prompts[1]),
        x0,
        settings.sampling,
        attention,
        negative=settings.negative,
        seed=seed,
        begin=attention.begin,
    )
