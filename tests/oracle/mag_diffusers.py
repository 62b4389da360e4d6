"""MAG-Edit on diffusers' UNet2DConditionModel, variance preserving: the oracle of its losses, its
updates and a whole edit.

Mao et al.: MAG-Edit (arXiv 2312.11396) and its published code. Naive on purpose: one image and one
row a call, every map of every layer whole and kept, losses in loops, gradients by autograd of the
latent z itself. Written from the specification alone (methods.md D.3, C.1); shares no line with the
pack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import p2p_diffusers
from .ale_diffusers import Network, Step, attended_by, heads
from .inverted_diffusers import Sampling, alpha_bar, edit_inverted
from .masks_by_hand import nearest
from .ore_by_hand import N, TextEncoder, find
from .p2p_diffusers import P2PAttention, rows_of
from .words_by_hand import aligned, seen_by_target

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Settings:
    """What the oracle does. pairs: the phrases of each object. boxes: their masks, in pixels."""

    sampling: Sampling = Sampling()
    prompts: tuple[str, str] = p2p_diffusers.PROMPTS
    pairs: tuple[tuple[str, str], ...] = (
        ("grey wolf", "brown goat"),
        ("yellow moon", "yellow ball"),
    )
    boxes: tuple[Box, ...] = ((8, 8, 40, 48), (24, 88, 56, 120))
    constraint: str = "token ratio"  # or "spatial ratio"
    scale: float = 2.5
    iterations: int = 3
    optimised: float = 0.5
    stops: bool = False
    words: str = ""
    negative: str = ""
    negative_scale: float = 2.5
    cross: float = 0.8
    self_: float = 0.5
    blended: float = 0.3


@dataclass(frozen=True)
class Words:
    """Of one object: token rows of each word."""

    new: list[list[int]]
    negative: list[list[int]]


@dataclass(eq=False)
class Update:
    """One update of one image. z, gradient: (C, h, w). losses: of each object."""

    step: int
    z: Tensor
    gradient: Tensor
    losses: list[float]


def words_of(encoder: TextEncoder, settings: Settings) -> list[Words]:
    """An object's new words are the tokens of its target phrase that have no partner in the source
    prompt, word by word."""
    source, target = settings.prompts
    x, y = encoder.ids(source), encoder.ids(target)
    partner = aligned(x, y)
    found = []
    for theirs, mine in settings.pairs:
        phrase = find(encoder.ids(mine)[1:-1], y)
        origin = find(encoder.ids(theirs)[1:-1], x)
        new = []
        for word in settings.words.split() or mine.split():
            rows = [row for row in rows_of(encoder, target, word) if row in phrase]
            unpaired = [row for row in rows if partner[row] < 0]
            if unpaired:
                new.append(unpaired)
        negative = []
        for word in settings.negative.split():
            rows = rows_of(encoder, source, word)
            is_somebodys = any(w == word for other, _ in settings.pairs for w in other.split())
            own = [row for row in rows if row in origin] if is_somebodys else rows
            if own:
                negative.append(own)
        found.append(Words(new, negative))
    return found


def loss_of_word(constraint: str, maps: Tensor, mask: Tensor, word: list[int]) -> Tensor:
    """Of one layer's map (heads, L, 77) and a mask (L,), head by head."""
    inside = [p for p in range(len(mask)) if mask[p] > 0]
    total = torch.zeros((), dtype=maps.dtype)
    for head in maps:
        if constraint == "token ratio":
            ratio = torch.zeros((), dtype=maps.dtype)
            for p in inside:
                own = sum(head[p, k] for k in word) / len(word)
                ratio = ratio + own / head[p].sum()
            total = total + (1 - ratio / len(inside)) ** 2
        else:
            attention = head[:, word].sum(1)
            total = total + 3 - 4 * attention[inside].sum() / attention.sum()
    return total / len(maps)


def loss_of_object(
    constraint: str, layers: Sequence[Tensor], mask: Tensor, words: list[list[int]]
) -> Tensor:
    losses = [loss_of_word(constraint, maps, mask, word) for word in words for maps in layers]
    return torch.stack(losses).mean()


@dataclass
class OneRow:
    """diffusers' attention processor for one row of the conditional half.

    source: the map of each attention module that the source branch left; where there are some, the
    row is the target's, under control. left: those of this row.
    """

    settings: Settings
    source_of: list[int]
    size: tuple[int, int]
    step: int
    count: int
    source: dict[Any, Tensor] = field(default_factory=dict)
    left: dict[Any, Tensor] = field(default_factory=dict)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        assert attention_mask is None and len(hidden_states) == 1
        is_self = encoder_hidden_states is None
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        scores = torch.einsum("lhd,nhd->hln", heads(q[0], attn), heads(k[0], attn)) * attn.scale
        maps = scores.softmax(-1)
        if self.source:
            theirs = self.source[attn]
            half = [-(-side // 2) for side in self.size]
            if is_self and self.step < int(self.settings.self_ * self.count + 1e-9):
                maps = theirs if maps.shape[1] <= half[0] * half[1] else maps
            if not is_self and self.step < int(self.settings.cross * (self.count + 1) + 1e-9):
                maps = seen_by_target(theirs, maps, self.source_of)
        self.left[attn] = maps
        out = torch.einsum("hln,nhd->lhd", maps, heads(v[0], attn)).flatten(1)
        return attn.to_out[0](out[None])


class Optimiser:
    """What happens to the target's latent of one image before a step."""

    def __init__(
        self, network: Network, encoder: TextEncoder, settings: Settings, size: tuple[int, int]
    ) -> None:
        self.network, self.settings, self.size = network, settings, size
        x, y = (encoder.ids(prompt) for prompt in settings.prompts)
        self.source_of = aligned(x, y) + list(range(len(y), N))
        self.words = words_of(encoder, settings)
        self.dtype = network.unet.dtype
        self.texts = [encoder.encode(prompt).to(self.dtype) for prompt in settings.prompts]
        self.places = {m: n for n, m in network.unet.named_modules() if n.endswith("attn2")}
        self.updates: list[Update] = []

    def masks(self, height: int, width: int) -> list[Tensor]:
        """(height * width,) of each object."""
        found = []
        for top, left, bottom, right in self.settings.boxes:
            image = np.zeros((8 * self.size[0], 8 * self.size[1]), dtype=bool)
            image[top:bottom, left:right] = True
            mask = torch.from_numpy(nearest(image, height, width))
            found.append(mask.flatten().to(self.dtype))
        return found

    def row(self, z: Tensor, t: int, text: Tensor, attention: OneRow) -> None:
        with attended_by(self.network.unet, attention):
            self.network.unet(z[None], torch.tensor(t), encoder_hidden_states=text[None])

    def chosen_layers(self, left: dict[Any, Tensor]) -> tuple[list[Tensor], Any]:
        """The maps of the coarsest grid with 16 cells a side, or else of the finest; and the
        grid."""
        by_grid: dict[tuple[int, int], list[Tensor]] = {}
        for attn, place in self.places.items():
            if place.startswith("mid_block"):
                continue
            maps = left[attn]
            height, width = self.size
            while height * width > maps.shape[1]:
                height, width = -(-height // 2), -(-width // 2)
            by_grid.setdefault((height, width), []).append(maps)
        fine = [grid for grid in by_grid if min(grid) >= 16]
        grid = min(fine) if fine else max(by_grid)
        return by_grid[grid], grid

    def losses(self, left: Any, words: list[list[list[int]]]) -> list[Tensor]:
        layers, grid = self.chosen_layers(left)
        return [
            loss_of_object(self.settings.constraint, layers, mask, own)
            for mask, own in zip(self.masks(*grid), words, strict=True)
            if own
        ]

    def threshold(self, step: int, count: int) -> float:
        if not self.settings.stops:
            return -float("inf")
        if self.settings.constraint == "spatial ratio":
            return 2.0
        published = 50 * step / count
        return 0.95 if published < 10 else 0.96 if published < 20 else 0.97

    def __call__(self, z_s: Tensor, z_t: Tensor, step: int, count: int, t: int) -> Tensor:
        settings = self.settings
        if step >= int(settings.optimised * count + 1e-9):
            return z_t
        abar = alpha_bar(t)
        sigma = ((1 - abar) / abar) ** 0.5
        source = OneRow(settings, self.source_of, self.size, step, count)
        with torch.no_grad():
            self.row(z_s, t, self.texts[0], source)
        where = torch.stack(self.masks(*self.size)).amax(0).reshape(self.size)
        for _ in range(settings.iterations):
            z = z_t.clone().requires_grad_()
            target = OneRow(settings, self.source_of, self.size, step, count, source.left)
            self.row(z, t, self.texts[1], target)
            losses = self.losses(target.left, [own.new for own in self.words])
            loss = settings.scale * torch.stack(losses).sum()
            if settings.negative:
                plain = OneRow(settings, self.source_of, self.size, step, count)
                self.row(z, t, self.texts[0], plain)
                away = self.losses(plain.left, [own.negative for own in self.words])
                loss = loss - settings.negative_scale * torch.stack(away).sum()
            values = [float(own.detach()) for own in losses]
            if all(value <= self.threshold(step, count) for value in values):
                break
            loss.backward()
            assert z.grad is not None
            self.updates.append(Update(step, z_t, z.grad, values))
            z_t = z_t - where * z.grad * sigma
        return z_t

    def blended(self, source: Tensor, target: Tensor, step: int, count: int) -> Tensor:
        if count - step > int(self.settings.blended * count + 1e-9):
            return target
        mask = torch.stack(self.masks(*self.size)).amax(0).reshape(self.size)
        wider = torch.zeros(self.size, dtype=self.dtype)
        for y in range(self.size[0]):
            for x in range(self.size[1]):
                near = mask[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2]
                wider[y, x] = near.max()
        return target * wider + source * (1 - wider)


def edit(
    network: Network,
    encoder: TextEncoder,
    prompts: tuple[str, str],
    x0: Tensor,
    seed: int,
    settings: Settings,
    updates: list[Update] | None = None,
) -> list[Step]:
    """The whole edit of one image, the target's steps. x0: (C, h, w), the source latent as the UNet
    sees it (scaled). updates: takes what the optimisation did."""
    size = (x0.shape[-2], x0.shape[-1])
    places = {m: n for n, m in network.unet.named_modules() if n.endswith(("attn1", "attn2"))}
    control = p2p_diffusers.Settings(
        settings.sampling, settings.prompts, cross=settings.cross, self_=settings.self_
    )
    attention = P2PAttention(control, encoder, places, size)
    optimiser = Optimiser(network, encoder, settings, size)
    now = {"step": 0, "count": 1}

    def begin(step: int, count: int) -> None:
        attention.step, attention.count = step, count
        now.update(step=step, count=count)

    source, target = settings.prompts
    record = edit_inverted(
        network,
        encoder,
        (source, source, target),
        x0,
        settings.sampling,
        attention,
        seed=seed,
        begin=begin,
        optimise=lambda z_s, z_t, t: optimiser(z_s, z_t, now["step"], now["count"], t),
        blend=lambda z_s, z_t, step: optimiser.blended(z_s, z_t, step, now["count"]),
    )
    if updates is not None:
        updates += optimiser.updates
    return record
