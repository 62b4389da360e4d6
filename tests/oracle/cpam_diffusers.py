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
from .ore_by_hand import TextEncoder
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
    changed."""

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

    plain: (steps, layers) bool. size: of the latent. refined: M_t on it, once there is one.
    """

    settings: Settings
    layers: list[Any]
    rows: list[int]
    plain: Tensor
    size: tuple[int, int]
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
    attention = CPAMAttention(
        settings, layers, rows, draws < settings.plain, (x0.shape[-2], x0.shape[-1])
    )
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
