"""InfEdit on diffusers' UNet2DConditionModel, variance preserving: the oracle of a whole edit.

Xu, Huang, Pan, Ma, Chai: Inversion-Free Image Editing with Natural Language (CVPR 2024, arXiv
2312.04965) and its two published scripts. Naive on purpose: one image at a time, six rows a step,
[source, target, layout] x [uncond, cond], every map of every layer kept. Written from the
specification alone (methods.md B); shares no line with the pack.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

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
from .ore_by_hand import TextEncoder
from .words_by_hand import Words, seen_by_target, words

SOURCE, TARGET, LAYOUT = range(3)


@dataclass(frozen=True)
class Settings:
    """What the oracle does; the switches exist to show that each component matters."""

    script: str = "app"  # or "pie bench"
    steps: int = 15
    strength: float = 1.0
    source_guidance: float = 1.0
    target_guidance: float = 2.0
    cross: float = 0.7
    self_: float = 0.3
    edit_threshold: float = 0.6
    keep_threshold: float = 0.6
    edit_words: str = ""
    keep_words: str = ""
    has_swapped_rows: bool = False
    has_self: bool = True
    has_cross: bool = True
    has_blend: bool = True

    @property
    def skipped(self) -> int:
        return self.steps - int(self.steps * self.strength)


@dataclass
class InfEditAttention:
    """diffusers' attention processor for the rows [source, target, layout] x [uncond, cond].

    places: the name of each attention module. maps: of each cross-attention layer the source's and
    the layout branch's maps seen by the target's words, (2, heads, L, 77), summed over the steps.
    """

    settings: Settings
    words: Words
    places: dict[Any, str]
    done: float = 0.0  # share of the steps that is over after this one
    maps: dict[str, Tensor] = field(default_factory=dict)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        assert attention_mask is None and hidden_states.ndim == 3 and len(hidden_states) == 6
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        if encoder_hidden_states is None:
            q, k, v = self.exchanged(q, k, v)
        scores = torch.einsum("rlhd,rnhd->rhln", heads(q, attn), heads(k, attn)) * attn.scale
        probabilities = scores.softmax(-1)
        if encoder_hidden_states is not None:
            probabilities = self.refined(probabilities, self.places[attn])
        out = torch.einsum("rhln,rnhd->rlhd", probabilities, heads(v, attn)).flatten(2)
        return attn.to_out[0](out)

    def exchanged(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Whose queries, keys and values each row of a self-attention layer has."""
        if not self.settings.has_self:
            return q, k, v
        if self.done < self.settings.self_:
            who_q, who_k, who_v = [0, 0, 0], [0, 0, 0], [0, 1, 0]
        else:
            who_q, who_k, who_v = [0, 1, 1], [0, 1, 0], [0, 1, 0]
        return (
            q[who_q + [row + 3 for row in who_q]],
            k[who_k + [row + 3 for row in who_k]],
            v[who_v + [row + 3 for row in who_v]],
        )

    def refined(self, probabilities: Tensor, place: str) -> Tensor:
        """A cross-attention layer's maps (6, heads, L, 77) after control, and kept."""
        source, target, layout = probabilities[3:]
        from_source = seen_by_target(source, target, self.words.source_of)
        from_layout = seen_by_target(layout, target, self.words.source_of)
        kept = torch.stack([from_source, from_layout])
        self.maps[place] = kept + self.maps[place] if place in self.maps else kept
        if not self.settings.has_cross or self.done > self.settings.cross:
            return probabilities
        given = from_source if self.settings.script == "app" else from_layout
        return torch.stack([*probabilities[:3], source, given, layout])


@dataclass(frozen=True)
class Masks:
    """(h, w) bool on the latent: where the target keeps its edit, where the source is kept, and
    where words of both are."""

    edited: Tensor
    kept: Tensor
    both: Tensor


def local_blend_masks(attention: InfEditAttention, size: tuple[int, int], abar: float) -> Masks:
    settings, chosen = attention.settings, attention.words
    by_grid: dict[tuple[int, int], list[Tensor]] = {}
    for place, maps in attention.maps.items():
        if not place.startswith("mid_block"):
            height, width = size
            while height * width > maps.shape[2]:
                height, width = -(-height // 2), -(-width // 2)
            by_grid.setdefault((height, width), []).append(maps)
    fine = [grid for grid in by_grid if min(grid) >= 16]
    grid = min(fine) if fine else max(by_grid)
    source, layout = torch.cat(by_grid[grid], dim=1).mean(1).unflatten(1, grid)

    def mask(maps: Tensor, flags: list[bool], threshold: float) -> Tensor:
        """maps: (h, w, 77)."""
        out = torch.zeros(size, dtype=torch.bool)
        strongest = [[0.0] * grid[1] for _ in range(grid[0])]
        for y in range(grid[0]):
            for x in range(grid[1]):
                values = [float(maps[y, x, j]) for j in range(1, chosen.length - 1) if flags[j]]
                strongest[y][x] = max(values, default=0.0)
        top = max(map(max, strongest))
        for y in range(size[0]):
            for x in range(size[1]):
                value = strongest[y * grid[0] // size[0]][x * grid[1] // size[1]]
                out[y, x] = top > 0 and value / top > threshold
        return out

    both = [e and m for e, m in zip(chosen.edited, chosen.kept, strict=True)]
    only_kept = [m and not e for e, m in zip(chosen.edited, chosen.kept, strict=True)]
    rising = max(0.15 / abar**0.5, settings.edit_threshold)
    edited = mask(layout, chosen.edited, rising)
    if not any(chosen.edited):
        edited = torch.ones(size, dtype=torch.bool)
    return Masks(
        edited,
        mask(source, only_kept, settings.keep_threshold),
        mask(layout, both, settings.edit_threshold),
    )


def blended(target: Tensor, source: Tensor, layout: Tensor, masks: Masks, is_late: bool) -> Tensor:
    out = torch.where(masks.edited, target, layout)
    out = torch.where(masks.kept, source, out)
    return torch.where(masks.both, layout, out) if is_late else out


def guided(network: Network, z: list[Tensor], t: int, text: Tensor, settings: Settings):
    """The three branches' predictions after guidance, (C, h, w) each."""
    rows = network(torch.stack(z + z), t, text, (0, 0, 0, 1, 2, 1))
    scales = (settings.source_guidance, settings.target_guidance, settings.source_guidance)
    return [rows[b] + scale * (rows[b + 3] - rows[b]) for b, scale in enumerate(scales)]


def edit(
    network: Network,
    encoder: TextEncoder,
    prompts: tuple[str, str],
    x0: Tensor,
    seed: int,
    settings: Settings,
) -> list[Step]:
    """The whole edit of one image, the target's steps. prompts: source and target. x0: (C, h, w),
    the source latent as the UNet sees it (scaled)."""
    empty, (source, target) = encoder.encode(""), map(encoder.encode, prompts)
    text = torch.stack([empty, empty, empty, source, target, source])
    chosen = words(
        encoder, *prompts, settings.edit_words, settings.keep_words, settings.has_swapped_rows
    )
    places = {m: n for n, m in network.unet.named_modules() if n.endswith(("attn1", "attn2"))}
    attention = InfEditAttention(settings, chosen, places)
    schedule = timesteps(settings.steps)[settings.skipped :]
    abars = [float(scheduler().alphas_cumprod[t]) for t in schedule]
    draws = torch.Generator().manual_seed(seed)
    noise = torch.randn(x0.shape, generator=draws)
    start = noise
    if settings.skipped:
        start = abars[0] ** 0.5 * x0 + (1 - abars[0]) ** 0.5 * noise
    z = [start, start, start]
    record = []
    last = len(schedule) - 1
    for i, (t, abar) in enumerate(zip(schedule, abars, strict=True)):
        attention.done = (i + settings.skipped + 1) / settings.steps
        with attended_by(network.unet, attention):
            e = guided(network, z, t, text, settings)
        p = [virtual_prediction(z[SOURCE], z[b], x0, e[SOURCE], e[b], abar=abar) for b in range(3)]
        if settings.has_blend and 0 < i < last:
            masks = local_blend_masks(attention, (x0.shape[-2], x0.shape[-1]), abar)
            is_late = i == last - 1
            record.append(Step(z[TARGET], blended(p[TARGET], x0, p[LAYOUT], masks, is_late)))
        else:
            masks, is_late = None, False
            record.append(Step(z[TARGET], p[TARGET]))
        if i == last:
            break
        n = torch.randn(x0.shape, generator=draws)
        z = [renoise(around, n, n, abar=abars[i + 1], eta=1.0) for around in (x0, *p[1:])]
        if masks is not None:
            z[TARGET] = blended(z[TARGET], z[SOURCE], z[LAYOUT], masks, is_late)
    return record
