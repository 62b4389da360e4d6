"""DDIM inversion and DDIM editing on diffusers' UNet2DConditionModel, variance preserving, and the
same by DDPM with noise maps: what the oracles of all editors share that start from an inversion.

Naive on purpose: one image at a time, four rows a step, [source, target] x [uncond, cond]. Written
from the specification alone (methods.md 0 and C); shares no line with the pack.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.schedulers.scheduling_lcm import LCMScheduler
from torch import Tensor

from .ale_diffusers import Network, Step, attended_by, scheduler, timesteps
from .ore_by_hand import TextEncoder


@dataclass(frozen=True)
class Sampling:
    """How an oracle samples. method: "DDIM", "direct", "negative-prompt" or "edit-friendly".
    spacing: of the time steps, "DDIM" or "LCM"."""

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


def alpha_bar(t: int, network: Network | None = None) -> float:
    """Time steps before the first have the first one's (set_alpha_to_one=False). network: whose
    noise schedule, if not SD 1.5's."""
    own = scheduler() if network is None else LCMScheduler(**network.noise())
    return float(own.alphas_cumprod[max(t, 0)])


def ddim(z: Tensor, e: Tensor, abar: float, after: float) -> Tensor:
    """A deterministic step of a latent, either way (Eq. 12 with sigma 0)."""
    image = (z - (1 - abar) ** 0.5 * e) / abar**0.5
    return after**0.5 * image + (1 - after) ** 0.5 * e


def noise_of(network: Network, out: Tensor, t: int, z: Tensor) -> Tensor:
    """The noise (C, h, w) that the UNet's output for a latent means."""
    if network.predicts == "epsilon":
        return out
    abar = alpha_bar(t, network)
    return abar**0.5 * out + (1 - abar) ** 0.5 * z


def invert(
    network: Network,
    text: Tensor,
    x0: Tensor,
    sampling: Sampling,
    change: Callable[[Tensor], Tensor] = lambda e: e,
) -> list[Tensor]:
    """The latents (C, h, w) of an image, from noise to the image. text: (N, D). change: of the
    noise of each step that leads to another level."""
    found, z = [x0], x0
    before = -1
    for t in reversed(sampling.timesteps()):
        label = t if sampling.is_published else max(before, 0)
        # the prompt's pooled vector, where there is one
        e = noise_of(network, network(z[None], label, text[None], (1,))[0], label, z)
        less, more = alpha_bar(before, network), alpha_bar(t, network)
        z = ddim(z, change(e) if less > more else e, less, more)
        found.insert(0, z)
        before = t
    return found


def ddpm(image: Tensor, e: Tensor, abar: float, after: float) -> tuple[Tensor, float]:
    """The mean and the standard deviation of a step with eta 1 (DDIM, Eq. 12 and 16)."""
    variance = (1 - after) / (1 - abar) * (1 - abar / after)
    return after**0.5 * image + max(1 - after - variance, 0) ** 0.5 * e, variance**0.5


def predict(network: Network, z: Tensor, t: int, texts: Tensor, scale: float, prompt: int = 1):
    """The image and the noise (C, h, w) of a guided latent. texts: (2, N, D), the negative and the
    prompt. prompt: which of the network's pooled vectors is the prompt's."""
    away, own = network(torch.stack([z, z]), t, texts, (0, prompt))
    out = away + scale * (own - away)
    if network.predicts == "v_prediction":
        return network.split(out, t, z)
    abar = alpha_bar(t, network)
    return (z - (1 - abar) ** 0.5 * out) / abar**0.5, out


def find_maps(
    network: Network, texts: Tensor, x0: Tensor, sampling: Sampling, seed: int
) -> tuple[list[Tensor], list[Tensor]]:
    """The latents (C, h, w) of an image, from noise to the image, and the noise maps between them.
    The first time step has the image's own level, and no noise."""
    draws, schedule = torch.Generator().manual_seed(seed), sampling.timesteps()
    found = []
    for t in schedule:
        abar = alpha_bar(t, network)
        n = torch.randn(x0.shape, generator=draws) if t > 0 else None
        found.append(x0 if n is None else abar**0.5 * x0 + (1 - abar) ** 0.5 * n)
    found.append(x0)
    maps = []
    for i, t in enumerate(schedule):
        after = alpha_bar(schedule[i + 1] if i + 1 < len(schedule) else -1, network)
        prediction = predict(network, found[i], t, texts, sampling.source_guidance)
        mean, std = ddpm(*prediction, alpha_bar(t, network), after)
        maps.append((found[i + 1] - mean) / std if std > 0 else torch.zeros_like(x0))
        found[i + 1] = mean + std * maps[i]
    return found, maps


def edit_inverted(
    network: Network,
    encoder: TextEncoder,
    texts: tuple[str, str, str],
    x0: Tensor,
    sampling: Sampling,
    attention: Any,
    *,
    negative: str = "",
    seed: int = 0,
    begin: Callable[[int, int], None] = lambda step, count: None,
    optimise: Callable[[Tensor, Tensor, int], Tensor] = lambda source, target, t: target,
    blend: Callable[[Tensor, Tensor, int], Tensor] = lambda source, target, step: target,
) -> list[Step]:
    """The whole edit of one image, the target's steps, and last the result.

    texts: of the inversion, the source and the target. attention: a processor, or None. seed: of
        edit-friendly's noises. begin: called before a step with its number and how many there are.
        optimise: the latents of source and target before the step of a time step -> the target's.
        blend: the latents of source and target after a step -> the target's.
    """
    away = encoder.encode(texts[0] if sampling.method == "negative-prompt" else negative)
    is_by_maps = sampling.method == "edit-friendly"
    if is_by_maps:
        both = torch.stack([away, encoder.encode(texts[0])])
        inverted, maps = find_maps(network, both, x0, sampling, seed)
    else:
        inverted, maps = invert(network, encoder.encode(texts[0]), x0, sampling), []
    text = torch.stack([away, away, encoder.encode(texts[1]), encoder.encode(texts[2])])
    schedule: Sequence[int] = sampling.timesteps()
    z_s = z_t = inverted[0]
    record = []
    for i, t in enumerate(schedule):
        begin(i, len(schedule))
        z_t = optimise(z_s, z_t, t)
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
        is_known = sampling.method in ("direct", "edit-friendly")
        z_s = inverted[i + 1] if is_known else ddim(z_s, e_s, abar, after)
        if is_by_maps:
            mean, std = ddpm(record[-1].p, e_t, abar, after)
            z_t = blend(z_s, mean + std * maps[i], i)
        else:
            z_t = blend(z_s, ddim(z_t, e_t, abar, after), i)
    return [*record, Step(record[-1].z, z_t)]
