"""DDIM inversion and DDIM editing on diffusers' UNet2DConditionModel, variance preserving: what the
oracles of all editors share that start from an inversion.

Naive on purpose: one image at a time, four rows a step, [source, target] x [uncond, cond]. Written
from the specification alone (methods.md 0 and C); shares no line with the pack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .ale_diffusers import Network, Step, attended_by, scheduler, timesteps
from .ore_by_hand import TextEncoder


@dataclass(frozen=True)
class Sampling:
    """How an oracle samples. method: "DDIM", "direct" or "negative-prompt". spacing: of the time
    steps, "DDIM" or "LCM"."""

    steps: int = 10
    strength: float = 1.0
    source_guidance: float = 7.5
    target_guidance: float = 7.5
    method: str = "DDIM"
    spacing: str = "DDIM"
    is_published: bool = True

    def timesteps(self) -> list[int]:
        """Descending."""
        if self.spacing == "LCM":
            return timesteps(self.steps)[self.steps - int(self.steps * self.strength) :]
        spaced = [i * (1000 // self.steps) for i in range(self.steps)]
        return spaced[: int(self.steps * self.strength)][::-1]


def alpha_bar(t: int) -> float:
    """Time steps before the first have the first one's (set_alpha_to_one=False)."""
    return float(scheduler().alphas_cumprod[max(t, 0)])


def ddim(z: Tensor, e: Tensor, abar: float, after: float) -> Tensor:
    """A deterministic step of a latent, either way (Eq. 12 with sigma 0)."""
    image = (z - (1 - abar) ** 0.5 * e) / abar**0.5
    return after**0.5 * image + (1 - after) ** 0.5 * e


def invert(network: Network, text: Tensor, x0: Tensor, sampling: Sampling) -> list[Tensor]:
    """The latents (C, h, w) of an image, from noise to the image. text: (N, D)."""
    found, z = [x0], x0
    before = -1
    for t in reversed(sampling.timesteps()):
        label = t if sampling.is_published else max(before, 0)
        e = network(z[None], label, text[None])[0]
        z = ddim(z, e, alpha_bar(before), alpha_bar(t))
        found.insert(0, z)
        before = t
    return found


def edit_inverted(
    network: Network,
    encoder: TextEncoder,
    texts: tuple[str, str, str],
    x0: Tensor,
    sampling: Sampling,
    attention: Any,
    *,
    negative: str = "",
    begin: Callable[[int, int], None] = lambda step, count: None,
    blend: Callable[[Tensor, Tensor, int], Tensor] = lambda source, target, step: target,
) -> list[Step]:
    """The whole edit of one image, the target's steps, and last the result.

    texts: of the inversion, the source and the target. attention: a processor, or None. begin:
        called before a step with its number and how many there are. blend: the latents of source
        and target after a step -> the target's.
    """
    inverted = invert(network, encoder.encode(texts[0]), x0, sampling)
    away = encoder.encode(texts[0] if sampling.method == "negative-prompt" else negative)
    text = torch.stack([away, away, encoder.encode(texts[1]), encoder.encode(texts[2])])
    schedule: Sequence[int] = sampling.timesteps()
    z_s = z_t = inverted[0]
    record = []
    for i, t in enumerate(schedule):
        begin(i, len(schedule))
        rows = torch.stack([z_s, z_t, z_s, z_t])
        if attention is None:
            e = network(rows, t, text)
        else:
            with attended_by(network.unet, attention):
                e = network(rows, t, text)
        e_s = e[0] + sampling.source_guidance * (e[2] - e[0])
        e_t = e[1] + sampling.target_guidance * (e[3] - e[1])
        abar, after = alpha_bar(t), alpha_bar(schedule[i + 1] if i + 1 < len(schedule) else -1)
        record.append(Step(z_t, (z_t - (1 - abar) ** 0.5 * e_t) / abar**0.5))
        z_s = inverted[i + 1] if sampling.method == "direct" else ddim(z_s, e_s, abar, after)
        z_t = blend(z_s, ddim(z_t, e_t, abar, after), i)
    return [*record, Step(record[-1].z, z_t)]
