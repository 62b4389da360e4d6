"""SDEdit by diffusers' DDIMScheduler: the oracle of a whole edit.

Meng et al. (ICLR 2022, arXiv 2108.01073). Written from the specification alone (methods.md C.8);
shares no line with the pack.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from .ale_diffusers import BETAS, Network, Step, timesteps
from .inverted_diffusers import alpha_bar, ddim
from .ore_by_hand import TextEncoder


@dataclass(frozen=True)
class Settings:
    steps: int = 10
    strength: float = 0.6
    guidance: float = 7.5
    spacing: str = "DDIM"
    negative: str = ""


def edit(
    network: Network,
    encoder: TextEncoder,
    prompts: tuple[str, str],
    x0: Tensor,
    seed: int,
    settings: Settings,
) -> list[Step]:
    """The whole edit of one image, its steps and the result. Noise is drawn from the seed."""
    scheduler: Any = DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(settings.steps)
    schedule = [int(t) for t in scheduler.timesteps]
    if settings.spacing == "LCM":
        schedule = timesteps(settings.steps)
    schedule = schedule[len(schedule) - int(len(schedule) * settings.strength) :]
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed))
    z = scheduler.add_noise(x0[None], noise[None], torch.tensor(schedule[:1]))[0]
    text = torch.stack([encoder.encode(settings.negative), encoder.encode(prompts[1])])
    record = []
    for t, after in zip(schedule, [*schedule[1:], -1], strict=True):
        uncond, cond = network(torch.stack([z, z]), t, text)
        e = uncond + settings.guidance * (cond - uncond)
        taken = scheduler.step(e, t, z)
        record.append(Step(z, taken.pred_original_sample))
        is_spaced_evenly = settings.spacing == "DDIM"  # as the scheduler takes for granted
        z = taken.prev_sample if is_spaced_evenly else ddim(z, e, alpha_bar(t), alpha_bar(after))
    return [*record, Step(record[-1].z, z)]
