"""DiffEdit on diffusers' UNet2DConditionModel and DDIMScheduler, variance preserving: the oracle of
its mask and of a whole edit.

Couairon et al. (ICLR 2023, arXiv 2210.11427). Naive on purpose: one image and one noise at a time,
both prompts with guidance. Written from the specification alone (methods.md C.9); shares no line
with the pack.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from .ale_diffusers import BETAS, Network, Step
from .inverted_diffusers import Sampling, alpha_bar, ddim, invert
from .ore_by_hand import TextEncoder

MASK_STEPS = 50


@dataclass(frozen=True)
class Settings:
    """mask_guidance: of both prompts in the comparison. given: rows of cells, from the top, that a
    given mask covers, in place of the one that is found."""

    steps: int = 10
    strength: float = 0.8
    guidance: float = 7.5
    spacing: str = "DDIM"
    source_prompt: str = "empty"
    negative: str = ""
    maps: int = 3
    mask_strength: float = 0.5
    mask_guidance: float = 7.5
    threshold: float = 0.5
    clamp: float = 2.0
    given: int | None = None


def find_shares(
    network: Network,
    encoder: TextEncoder,
    prompts: tuple[str, str],
    x0: Tensor,
    seed: int,
    settings: Settings,
) -> Tensor:
    """(h, w): the difference of both predictions, clamped and divided by the clamp."""
    scheduler: Any = DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(MASK_STEPS)
    first = MASK_STEPS - min(int(MASK_STEPS * settings.mask_strength), MASK_STEPS)
    t = int(scheduler.timesteps[first])
    text = torch.stack([encoder.encode(prompt) for prompt in ("", prompts[0], "", prompts[1])])
    draws = torch.Generator().manual_seed(seed)
    total = torch.zeros(x0.shape[1:])
    for _ in range(settings.maps):
        noise = torch.randn(x0.shape, generator=draws)
        z = scheduler.add_noise(x0[None], noise[None], torch.tensor([t]))[0]
        e = network(torch.stack([z] * 4), t, text)
        source, target = (e[i] + settings.mask_guidance * (e[i + 1] - e[i]) for i in (0, 2))
        total = total + (target - source).abs().sum(0)
    mean = total / (settings.maps * len(x0))
    most = settings.clamp * mean.mean()
    return mean.clamp(0, float(most)) / most


def edit(
    network: Network,
    encoder: TextEncoder,
    prompts: tuple[str, str],
    x0: Tensor,
    seed: int,
    settings: Settings,
) -> list[Step]:
    """The whole edit of one image, its steps and the result."""
    if settings.given is None:
        shares = find_shares(network, encoder, prompts, x0, seed, settings)
        mask = torch.where(shares <= settings.threshold, 0.0, 1.0)
    else:
        mask = torch.zeros(x0.shape[1:])
        mask[: settings.given] = 1
    sampling = Sampling(settings.steps, settings.strength, spacing=settings.spacing)
    source = prompts[0] if settings.source_prompt == "edits" else ""
    inverted = invert(network, encoder.encode(source), x0, sampling)
    text = torch.stack([encoder.encode(settings.negative), encoder.encode(prompts[1])])
    schedule = sampling.timesteps()
    z, record = inverted[0], []
    for i, t in enumerate(schedule):
        uncond, cond = network(torch.stack([z, z]), t, text)
        e = uncond + settings.guidance * (cond - uncond)
        abar, after = alpha_bar(t), alpha_bar(schedule[i + 1] if i + 1 < len(schedule) else -1)
        record.append(Step(z, (z - (1 - abar) ** 0.5 * e) / abar**0.5))
        # inverted: from noise to the image's own latent, which is the last
        z = mask * ddim(z, e, abar, after) + (1 - mask) * inverted[i + 1]
    return [*record, Step(record[-1].z, z)]
