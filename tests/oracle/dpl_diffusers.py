"""Dynamic Prompt Learning and LocInv on diffusers' UNet2DConditionModel and transformers'
CLIPTextModel, variance preserving: the oracle of the losses, the updates and a whole edit.

Wang et al.: Dynamic Prompt Learning (NeurIPS 2023, arXiv 2309.15664); Tang, Wang, van de Weijer:
LocInv (arXiv 2405.01496); their published code. Naive on purpose: one image and one row a call,
every map of every layer whole and kept, losses cell by cell. Written from the specification alone
(methods.md D.2, C.1, C.2); shares no line with the pack.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import p2p_diffusers
from .ale_diffusers import Network, Step, attended_by, heads
from .dpl_losses import losses_of
from .inverted_diffusers import Sampling, alpha_bar, ddim, invert
from .masks_by_hand import nearest
from .null_text_diffusers import predict_noise
from .ore_by_hand import N, TextEncoder, find
from .p2p_diffusers import P2PAttention
from .words_by_hand import aligned

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Settings:
    """What the oracle does. pairs: the phrases of each object. boxes: their masks, in pixels.
    nouns: one of each phrase. background: flags of cells, of the word maps' grid, row by row."""

    sampling: Sampling = Sampling()
    prompts: tuple[str, str] = p2p_diffusers.PROMPTS
    pairs: tuple[tuple[str, str], ...] = (
        ("grey wolf", "brown goat"),
        ("yellow moon", "yellow ball"),
    )
    nouns: tuple[str, ...] = ("wolf", "moon")
    adjectives: tuple[str, ...] = ("grey", "yellow")
    boxes: tuple[Box, ...] = ((8, 8, 40, 48), (24, 88, 56, 120))
    priors: str = "clusters"  # or "masks"
    binds: bool = False
    updates: int = 3
    nulls: int = 2
    factor: float = 1.0
    rate: float = 1e-3
    is_cheap: bool = False
    cross: float = 0.8
    self_: float = 0.4
    blend: str = ""


# -- text ------------------------------------------------------------------------------------------


@contextmanager
def placeholders(encoder: TextEncoder, rows: Sequence[int], vectors: Tensor) -> Iterator[None]:
    """Tokens at some rows have these embeddings in the place of their own."""

    def put(module: Any, inputs: Any, output: Tensor) -> Tensor:
        columns = [output[0, r] for r in range(output.shape[1])]
        for row, vector in zip(rows, vectors, strict=True):
            columns[row] = vector.to(output)
        return torch.stack(columns)[None]

    handle = encoder.model.get_input_embeddings().register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()


def encode(encoder: TextEncoder, text: str, rows: Sequence[int], vectors: Tensor) -> Tensor:
    """(77, D), through which gradients flow to the vectors (K, W)."""
    ids = encoder.ids(text)
    padded = torch.tensor([ids + [ids[-1]] * (N - len(ids))])
    with placeholders(encoder, rows, vectors):
        return encoder.model(input_ids=padded).last_hidden_state[0]


def rows_in(encoder: TextEncoder, prompt: str, phrase: str, word: str) -> list[int]:
    """Of a word of a phrase."""
    ids = encoder.ids(prompt)
    place = find(encoder.ids(phrase)[1:-1], ids)
    own = find(encoder.ids(word)[1:-1], encoder.ids(phrase)[1:-1])
    return [place[k] for k in own]


# -- attention -------------------------------------------------------------------------------------


@dataclass
class Watching:
    """diffusers' attention processor for one row: keeps the map (heads, L, keys) of each module."""

    kept: dict[Any, Tensor] = field(default_factory=dict)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        assert attention_mask is None and len(hidden_states) == 1
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        scores = torch.einsum("lhd,nhd->hln", heads(q[0], attn), heads(k[0], attn)) * attn.scale
        maps = scores.softmax(-1)
        self.kept[attn] = maps
        return attn.to_out[0](
            torch.einsum("hln,nhd->lhd", maps, heads(v[0], attn)).flatten(1)[None]
        )


def by_grid(network: Network, kept: dict[Any, Tensor], kind: str, size: tuple[int, int]):
    """The maps of encoder and decoder layers of a kind, by grid."""
    names = {module: name for name, module in network.unet.named_modules()}
    found: dict[tuple[int, int], list[Tensor]] = {}
    for attn, maps in kept.items():
        if names[attn].endswith(kind) and not names[attn].startswith("mid_block"):
            height, width = size
            while height * width > maps.shape[1]:
                height, width = -(-height // 2), -(-width // 2)
            found.setdefault((height, width), []).append(maps)
    return found


def word_grid(grids: Any) -> tuple[int, int]:
    fine = [grid for grid in grids if min(grid) >= 16]
    return min(fine) if fine else max(grids)


def cross_map(network: Network, kept: dict[Any, Tensor], size: tuple[int, int]) -> Tensor:
    """A: (h, w, 77), the mean over layers and heads."""
    layers = by_grid(network, kept, "attn2", size)
    grid = word_grid(layers)
    every = torch.cat(layers[grid])  # layers * heads
    return every.mean(0).unflatten(0, grid)


def average_maps(
    network: Network, text: Tensor, inverted: Sequence[Tensor], schedule: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The self-attention (L, L) of half the latent's side, and the cross-attention (h, w, 77),
    averaged over the evaluations of the inversion."""
    size = (inverted[0].shape[-2], inverted[0].shape[-1])
    half = (-(-size[0] // 2), -(-size[1] // 2))
    selves, crosses = [], []
    for i in range(len(schedule) - 1, -1, -1):
        before = schedule[i + 1] if i + 1 < len(schedule) else -1
        if alpha_bar(before) == alpha_bar(schedule[i]):
            continue  # goes nowhere
        watching = Watching()
        with torch.no_grad(), attended_by(network.unet, watching):
            network.unet(
                inverted[i + 1][None], torch.tensor(schedule[i]), encoder_hidden_states=text[None]
            )
        own = by_grid(network, watching.kept, "attn1", size)[half]
        selves.append(torch.cat(own).mean(0))
        crosses.append(cross_map(network, watching.kept, size))
    return torch.stack(selves).mean(0), torch.stack(crosses).mean(0)


# -- losses ----------------------------------------------------------------------------------------


def terms_of(settings: Settings) -> list[tuple[float, float, float]]:
    """Of each loss its weight, and its threshold with the steps of 50 that it falls by e in."""
    if settings.priors == "clusters":
        found = [(1.0, 0.3, 25.0), (0.05, 0.7, 50.0), (0.05, 0.9, 25.0)]
    else:
        found = [(1.0, 0.7, 50.0), (1.0, 0.7, 25.0)]
    return [*found, (2.0, 0.1, 50.0)] if settings.binds else found


# -- learning --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Learned:
    """Of one image and N steps. vectors: (N, K, W). prompts, nulls: (N, 77, D). latents: (N + 1, C,
    h, w), from noise to the image. updates: of the vectors, of each step. losses: of each update
    and check, by step."""

    rows: list[int]
    vectors: Tensor
    prompts: Tensor
    nulls: Tensor
    latents: Tensor
    updates: list[int]
    losses: list[list[list[float]]]


class Learner:
    """One image's dynamic tokens."""

    def __init__(
        self,
        network: Network,
        encoder: TextEncoder,
        settings: Settings,
        size: tuple[int, int],
        background: Tensor | None,
    ) -> None:
        self.network, self.encoder, self.settings, self.size = network, encoder, settings, size
        self.dtype = network.unet.dtype
        self.background = None if background is None else background.to(self.dtype)
        source = settings.prompts[0]
        phrases = [theirs for theirs, _ in settings.pairs]
        self.nouns, self.adjectives = (
            [rows_in(encoder, source, p, w) for p, w in zip(phrases, words, strict=True)]
            for words in (settings.nouns, settings.adjectives)
        )
        if not settings.binds:
            self.adjectives = []
        self.rows = sorted(row for rows in self.nouns for row in rows)

    def own_vectors(self) -> Tensor:
        ids = torch.tensor(self.encoder.ids(self.settings.prompts[0]))
        return self.encoder.model.get_input_embeddings().weight[ids[self.rows]].detach().clone()

    def masks(self, grid: tuple[int, int]) -> list[Tensor]:
        found = []
        for top, left, bottom, right in self.settings.boxes:
            image = np.zeros((8 * self.size[0], 8 * self.size[1]), dtype=bool)
            image[top:bottom, left:right] = True
            found.append(torch.from_numpy(nearest(image, *grid)).to(self.dtype))
        return found

    def text(self, vectors: Tensor) -> Tensor:
        return encode(self.encoder, self.settings.prompts[0], self.rows, vectors).to(self.dtype)

    def losses(self, z: Tensor, t: int, vectors: Tensor) -> list[Tensor]:
        watching = Watching()
        with attended_by(self.network.unet, watching):
            text = self.text(vectors)[None]
            self.network.unet(z[None], torch.tensor(t), encoder_hidden_states=text)
        a = cross_map(self.network, watching.kept, self.size)
        masks = [] if self.settings.priors == "clusters" else self.masks((a.shape[0], a.shape[1]))
        return losses_of(a, self.nouns, self.adjectives, self.background, masks)

    def total(self, losses: Sequence[Tensor]) -> Tensor:
        weights = [weight for weight, _, _ in terms_of(self.settings)]
        return sum((w * loss for w, loss in zip(weights, losses, strict=True)), torch.zeros(()))

    def gradient(self, z: Tensor, t: int, vectors: Tensor) -> tuple[list[float], Tensor]:
        """The losses, and the gradient of their weighted sum."""
        vectors = vectors.detach().clone().requires_grad_()
        losses = self.losses(z, t, vectors)
        (gradient,) = torch.autograd.grad(self.total(losses), vectors)
        return [loss.item() for loss in losses], gradient

    def most(self, step: int) -> int:
        settings = self.settings
        if not settings.is_cheap:
            return settings.updates
        return math.ceil(settings.updates / 4) if step % 2 == 0 else 0

    def search(self, z: Tensor, t: int, vectors: Tensor, step: int, count: int):
        """The vectors after the updates of a step, and the losses before each."""
        settings = self.settings
        i = step * 50 / count
        vectors = vectors.detach().clone().requires_grad_()
        adam = torch.optim.AdamW([vectors], lr=settings.rate, weight_decay=0.01)
        seen: list[list[float]] = []
        updates = 0
        while updates < self.most(step):
            losses = self.losses(z, t, vectors)
            seen.append([float(loss.detach()) for loss in losses])
            limits = [th * math.exp(-i / decay) for _, th, decay in terms_of(settings)]
            if all(v < settings.factor * limit for v, limit in zip(seen[-1], limits, strict=True)):
                break
            adam.zero_grad()
            self.total(losses).backward()
            adam.step()
            updates += 1
        return vectors.detach(), seen, updates


def learn(
    network: Network,
    encoder: TextEncoder,
    x0: Tensor,
    settings: Settings,
    background: Tensor | None,
) -> Learned:
    """x0: (C, h, w), as the UNet sees it."""
    sampling = settings.sampling
    size = (x0.shape[-2], x0.shape[-1])
    learner = Learner(network, encoder, settings, size, background)
    inverted = invert(network, encoder.encode(settings.prompts[0]), x0, sampling)
    schedule, scale = sampling.timesteps(), sampling.source_guidance
    z, null, vectors = inverted[0], encoder.encode(""), learner.own_vectors()
    found: dict[str, list[Tensor]] = {"vectors": [], "prompts": [], "nulls": [], "latents": [z]}
    counts, losses = [], []
    for i, t in enumerate(schedule):
        abar = alpha_bar(t)
        after = alpha_bar(schedule[i + 1] if i + 1 < len(schedule) else -1)
        vectors, seen, count = learner.search(z, t, vectors, i, len(schedule))
        with torch.no_grad():
            prompt = learner.text(vectors)
            e_c = predict_noise(network, z, t, prompt)
        null = null.detach().clone().requires_grad_()
        published = i * 50 / len(schedule)
        adam = torch.optim.Adam([null], lr=1e-2 * (1 - published / 100))
        for _ in range(min(settings.nulls, 10) if settings.is_cheap else settings.nulls):
            if after <= abar:
                break
            e_u = predict_noise(network, z, t, null)
            reached = ddim(z, e_u + scale * (e_c - e_u), abar, after)
            loss = torch.nn.functional.mse_loss(reached, inverted[i + 1])
            adam.zero_grad()
            loss.backward()
            adam.step()
            if settings.is_cheap and loss.item() < 1e-5 + 2e-5 * published:
                break
        with torch.no_grad():
            e_u = predict_noise(network, z, t, null)
        z = ddim(z, e_u + scale * (e_c - e_u), abar, after)
        for name, value in (("vectors", vectors), ("prompts", prompt), ("nulls", null.detach())):
            found[name].append(value)
        found["latents"].append(z)
        counts.append(count)
        losses.append(seen)
    stacked = {name: torch.stack(values) for name, values in found.items()}
    return Learned(learner.rows, **stacked, updates=counts, losses=losses)


# -- the edit --------------------------------------------------------------------------------------


class QuarterAttention(P2PAttention):
    """Prompt-to-Prompt with self-attention maps of at most a quarter of the latent's side."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **named: Any,
    ) -> Tensor:
        quarter = -(-self.size[0] // 4) * -(-self.size[1] // 4)
        own = self.settings
        if encoder_hidden_states is None and hidden_states.shape[1] > quarter:
            self.settings = replace(own, self_=0.0)
        try:
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask)
        finally:
            self.settings = own


def edit(
    network: Network,
    encoder: TextEncoder,
    x0: Tensor,
    settings: Settings,
    learned: Learned,
) -> list[Step]:
    """The target's steps, and last the result."""
    source, target = settings.prompts
    sampling, size = settings.sampling, (x0.shape[-2], x0.shape[-1])
    places = {m: n for n, m in network.unet.named_modules() if n.endswith(("attn1", "attn2"))}
    control = p2p_diffusers.Settings(
        sampling, settings.prompts, cross=settings.cross, self_=settings.self_, blend=settings.blend
    )
    attention = QuarterAttention(control, encoder, places, size)
    partner = aligned(encoder.ids(source), encoder.ids(target))
    kept = [(row, learned.rows.index(s)) for row, s in enumerate(partner) if s in learned.rows]
    z_s = z_t = learned.latents[0]
    schedule, record = sampling.timesteps(), []
    for i, t in enumerate(schedule):
        attention.step, attention.count = i, len(schedule)
        own = learned.vectors[i]
        with torch.no_grad():
            mine = encode(encoder, target, [r for r, _ in kept], own[[k for _, k in kept]])
        null = learned.nulls[i]
        rows = torch.stack([z_s, z_t, z_s, z_t])
        with attended_by(network.unet, attention):
            e = network(rows, t, torch.stack([null, null, learned.prompts[i], mine]))
        e_s = e[0] + sampling.source_guidance * (e[2] - e[0])
        e_t = e[1] + sampling.target_guidance * (e[3] - e[1])
        abar, after = alpha_bar(t), alpha_bar(schedule[i + 1] if i + 1 < len(schedule) else -1)
        record.append(Step(z_t, (z_t - (1 - abar) ** 0.5 * e_t) / abar**0.5))
        z_s = ddim(z_s, e_s, abar, after)
        z_t = attention.blended(z_s, ddim(z_t, e_t, abar, after), i)
    return [*record, Step(record[-1].z, z_t)]
