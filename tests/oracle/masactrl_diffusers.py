"""MasaCtrl on diffusers' UNet2DConditionModel, on virtual inversion: the oracle of a whole edit.

Cao, Wang, Qi, Shan, Qie, Zheng: MasaCtrl (ICCV 2023, arXiv 2304.08465), with DDCM (Xu et al., CVPR
2024, arXiv 2312.04965) in place of DDIM inversion. Naive on purpose: one image at a time, four rows
a step, [source, target] x [uncond, cond]; with masks, every position twice. Written from
the specification alone (methods.md C.5); shares no line with the pack.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from math import floor
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .ale_diffusers import (
    Network,
    Step,
    attended_by,
    heads,
    renoise,
    scheduler,
    timesteps,
    virtual_prediction,
)
from .masks_by_hand import nearest, on_grid
from .ore_by_hand import TextEncoder
from .p2p_diffusers import rows_of

Box = tuple[int, int, int, int]  # top, left, bottom, right in pixels
SOURCE_COND, TARGET_COND = 2, 3


@dataclass(frozen=True)
class Settings:
    """start_step, start_layer: shares. first_layer: a layer's own number instead of the share.
    adds_own: whether the target reads its own keys and values beside the source's. boxes: the
    foreground of the source and of the target. words: those of the foreground, in each prompt;
    threshold: of their maps, min-max normalised. variant: how boxes come onto a grid."""

    steps: int = 15
    strength: float = 1.0
    source_guidance: float = 1.0
    target_guidance: float = 2.0
    start_step: Fraction = Fraction(4, 50)
    start_layer: Fraction = Fraction(10, 16)
    first_layer: int | None = None
    has_control: bool = True
    adds_own: bool = False
    boxes: tuple[Box, Box] | None = None
    words: tuple[str, str] | None = None
    threshold: float = 0.1
    variant: Literal["paper", "published code"] = "paper"

    @property
    def skipped(self) -> int:
        return self.steps - int(self.steps * self.strength)


def self_attention_layers(unet: Any) -> list[Any]:
    """In the order in which they run: down, middle, up."""
    parts = (*unet.down_blocks, unet.mid_block, *unet.up_blocks)
    return [m for part in parts for n, m in part.named_modules() if n.endswith("attn1")]


@dataclass
class MasaCtrlAttention:
    """diffusers' attention processor for the rows [source, target] x [uncond, cond]. layers: those
    in which the target reads the source. adds_own: beside itself. rows: of the words in each
    prompt. size: of the latent. coarsest: the cross-attention layers' grid that counts. encoder:
    the self-attention layers of the encoder."""

    layers: list[Any]
    is_on: bool = False
    adds_own: bool = False
    settings: Settings = Settings()
    rows: tuple[list[int], list[int]] | None = None
    size: tuple[int, int] = (0, 0)
    coarsest: tuple[int, int] = (0, 0)
    middle: tuple[Any, ...] = ()
    encoder: tuple[Any, ...] = ()
    is_first: bool = True
    maps: list[Tensor] = field(default_factory=list)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        assert attention_mask is None and hidden_states.ndim == 3 and len(hidden_states) == 4
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        if encoder_hidden_states is not None:
            self.keep_maps(attn, q, k)
        outs = []
        for row in range(4):
            is_target = row in (1, 3)
            is_mutual = is_target and self.is_on and attn in self.layers
            read = [row - 1] if is_mutual else [row]
            if is_mutual and self.adds_own:
                read.append(row)
            keys, values = (torch.cat([t[i] for i in read]) for t in (k, v))
            scores = torch.einsum("lhd,nhd->hln", heads(q[row], attn), heads(keys, attn))
            scores = scores * attn.scale
            masks = self.masks(attn, q.shape[1]) if is_mutual else None
            if masks is None:
                plain = scores.softmax(-1)
                outs.append(torch.einsum("hln,nhd->lhd", plain, heads(values, attn)))
                continue
            source, target = masks
            foreground, background = (
                torch.einsum("hln,nhd->lhd", self.limited(scores, of), heads(values, attn))
                for of in (source, ~source)
            )
            mine = target[:, None, None].float()
            outs.append(foreground * mine + background * (1 - mine))
        return attn.to_out[0](torch.stack(outs).flatten(2))

    # -- masks -------------------------------------------------------------------------------------

    def limited(self, scores: Tensor, allowed: Tensor) -> Tensor:
        """The attention map over some keys. The published code has another one, alike in all
        places, where none is left; here all are."""
        if not allowed.any():
            return scores.softmax(-1)
        return scores.masked_fill(~allowed, torch.finfo(scores.dtype).min).softmax(-1)

    def grid(self, positions: int) -> tuple[int, int]:
        height, width = self.size
        while height * width > positions:
            height, width = -(-height // 2), -(-width // 2)
        assert height * width == positions
        return height, width

    def keep_maps(self, attn: Any, q: Tensor, k: Tensor) -> None:
        """The maps (2, L, 77) of the conditional rows, mean over the heads, on the grid that
        counts."""
        if self.rows is None or attn in self.middle or self.grid(q.shape[1]) != self.coarsest:
            return
        pair = [
            torch.einsum("lhd,nhd->hln", heads(q[row], attn), heads(k[row], attn)) * attn.scale
            for row in (SOURCE_COND, TARGET_COND)
        ]
        self.maps.append(torch.stack([scores.softmax(-1).mean(0) for scores in pair]))

    def masks(self, attn: Any, positions: int) -> tuple[Tensor, Tensor] | None:
        """(L,) bool of the source and of the target, in one self-attention layer."""
        height, width = self.grid(positions)
        if self.settings.boxes is not None:
            found = []
            for top, left, bottom, right in self.settings.boxes:
                pixels = np.zeros((8 * self.size[0], 8 * self.size[1]), dtype=bool)
                pixels[top:bottom, left:right] = True
                cells = on_grid(pixels[None], height, width, self.settings.variant)[0]
                found.append(torch.from_numpy(cells.copy()).flatten())
            return found[0], found[1]
        if not self.maps or (self.is_first and attn in self.encoder):
            return None
        assert self.rows is not None
        found = []
        for own, rows in zip(torch.stack(self.maps).mean(0), self.rows, strict=True):
            image = own[:, rows].sum(-1)
            image = (image - image.min()) / (image.max() - image.min())
            enlarged = nearest(image.unflatten(0, self.coarsest).numpy(), height, width)
            found.append(torch.from_numpy(enlarged.copy()).flatten() >= self.settings.threshold)
        return found[0], found[1]


def coarsest_grid(unet: Any, size: tuple[int, int]) -> tuple[int, int]:
    """Of the encoder's cross-attention: with at least 16 cells on its short side, else the
    finest."""
    grids, (height, width) = [], size
    for block in unet.down_blocks:
        if getattr(block, "attentions", None):
            grids.append((height, width))
        height, width = -(-height // 2), -(-width // 2)
    fine = [grid for grid in grids if min(grid) >= 16]
    return min(fine) if fine else max(grids)


def words_rows(
    encoder: TextEncoder, prompts: tuple[str, str], words: tuple[str, str]
) -> tuple[list[int], list[int]]:
    source, target = (
        [row for word in own.split() for row in rows_of(encoder, prompt, word)]
        for prompt, own in zip(prompts, words, strict=True)
    )
    return source, target


def edit(
    network: Network,
    encoder: TextEncoder,
    prompts: tuple[str, str],
    x0: Tensor,
    seed: int,
    settings: Settings,
) -> list[Step]:
    """The whole edit of one image, the target's steps. prompts: source (the paper's is empty) and
    target. x0: (C, h, w), the source latent as the UNet sees it (scaled)."""
    empty = encoder.encode("")
    text = torch.stack([empty, empty, *map(encoder.encode, prompts)])
    layers = self_attention_layers(network.unet)
    first = settings.first_layer
    if first is None:
        first = floor(settings.start_layer * len(layers))
    size = (x0.shape[-2], x0.shape[-1])
    unet = network.unet
    attention = MasaCtrlAttention(
        layers[first:] if settings.has_control else [],
        adds_own=settings.adds_own,
        settings=settings,
        rows=None if settings.words is None else words_rows(encoder, prompts, settings.words),
        size=size,
        coarsest=coarsest_grid(unet, size),
        middle=tuple(unet.mid_block.modules()),
        encoder=tuple(m for block in unet.down_blocks for m in block.modules()),
    )
    schedule = timesteps(settings.steps)[settings.skipped :]
    abars = [float(scheduler().alphas_cumprod[t]) for t in schedule]
    draws = torch.Generator().manual_seed(seed)
    noise = torch.randn(x0.shape, generator=draws)
    z_s = z_t = noise
    if settings.skipped:
        z_s = z_t = abars[0] ** 0.5 * x0 + (1 - abars[0]) ** 0.5 * noise
    record = []
    for i, (t, abar) in enumerate(zip(schedule, abars, strict=True)):
        attention.is_on = i >= floor(settings.start_step * len(schedule))
        attention.is_first, attention.maps = i == 0, []
        with attended_by(network.unet, attention):
            e = network(torch.stack([z_s, z_t, z_s, z_t]), t, text)
        e_s = e[0] + settings.source_guidance * (e[2] - e[0])
        e_t = e[1] + settings.target_guidance * (e[3] - e[1])
        p = virtual_prediction(z_s, z_t, x0, e_s, e_t, abar=abar)
        record.append(Step(z_t, p))
        if i + 1 < len(schedule):
            n = torch.randn(x0.shape, generator=draws)
            z_s, z_t = (renoise(x, n, n, abar=abars[i + 1], eta=1.0) for x in (x0, p))
    return record
