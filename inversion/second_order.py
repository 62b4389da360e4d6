"""Second-order DDPM steps with noise maps: the inversion and the sampler of LEDITS++.

Brack, Friedrich, Kornmeier, Tsaban, Schramowski, Kersting, Passos: LEDITS++: Limitless Image
Editing using Text-to-Image Models, CVPR 2024 (arXiv 2311.16711), on SDE-DPM-Solver++ of order 2
(Lu, Zhou, Bao, Chen, Li, Zhu, arXiv 2211.01095; midpoint). With latents x = x0 + s n, their
denoised prediction D, that of the step before D_b at the level s_b, h = log(s / s') and
h_b = log(s_b / s), a step is

    x' = (s'^2 / s^2) x + (1 - s'^2 / s^2) (D + h / (2 h_b) (D - D_b)) + std z

with std = s' sqrt(1 - s'^2 / s^2). So it is a DDPM step (edit_friendly.py) whose prediction is
extrapolated to the middle of the step; the first step has nothing to extrapolate from.
"""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

TRAIN_STEPS = 1000


def second_order_timesteps(steps: int, strength: float) -> list[int]:
    """Descending, evenly spaced time steps from 1000 strength - 1 to 1: 30 at 0.85 -> 849, 820,
    ..., 30, 1.

    strength: 1 less the share of the noisiest time steps that is skipped. All `steps` remain.

    Raises ValueError when so many do not fit, or there are less than 2.
    """
    most = round(TRAIN_STEPS * strength) - 1
    if not 2 <= steps <= most:
        raise ValueError(
            f"{steps} steps do not fit at strength {strength:g}: there are {most} time steps to "
            "choose from, and at least 2 are needed. Set steps between 2 and "
            f"{max(most, 2)}, or raise the strength."
        )
    return torch.linspace(most, 1, steps, dtype=torch.float64).round().int().tolist()


def extrapolate(denoised: Tensor, before: Tensor, sigmas: tuple[float, float, float]) -> Tensor:
    """The prediction in the middle of a step.

    denoised: (B, C, h, w) at the step's level. before: at the level of the step before. sigmas: the
        level before, that of this step, and the next; falling.
    """
    sigma_before, sigma, after = sigmas
    return denoised + log(sigma / after) / (2 * log(sigma_before / sigma)) * (denoised - before)
