"""Time steps of a latent consistency model.

Luo et al.: Latent Consistency Models (arXiv 2310.04378); the spacing is diffusers' LCMScheduler
from 0.24 on. ALE-Edit and InfEdit sample on it.
"""

from __future__ import annotations

import math

TRAIN_STEPS = 1000
ORIGINAL_STEPS = 50


def lcm_timesteps(steps: int, strength: float = 1.0) -> list[int]:
    """Descending time steps, 999 first at strength 1: 15 -> 999, 939, 879, ..., 79.

    steps: number of steps at strength 1, in [1, 50]. strength in (0, 1]: steps - int(steps *
    strength) of the noisiest steps are left out (InfEdit).

    Raises ValueError when no step is left or there are more than 50.
    """
    if not 1 <= steps <= ORIGINAL_STEPS:
        raise ValueError(
            f"steps is {steps}; a latent consistency schedule has 1 to {ORIGINAL_STEPS} steps. Set "
            f"steps between 1 and {ORIGINAL_STEPS}."
        )
    spacing = TRAIN_STEPS // ORIGINAL_STEPS
    origin = [spacing * (i + 1) - 1 for i in range(ORIGINAL_STEPS)][::-1]
    timesteps = [origin[math.floor(i * ORIGINAL_STEPS / steps)] for i in range(steps)]
    return timesteps[steps - count_kept(steps, strength) :]


def count_kept(steps: int, strength: float) -> int:
    """How many of the steps a strength keeps, the last ones.

    Raises ValueError when none is left, or for a strength that is not in (0, 1].
    """
    if not 0 < strength <= 1:
        raise ValueError(
            f"strength is {strength}, which is not a valid share of the steps. "
            "Set it above 0 and at most 1."
        )
    kept = int(steps * strength)
    if not kept:
        raise ValueError(
            f"{steps} steps at strength {strength} leave no step to sample. Raise the steps or the "
            "strength."
        )
    return kept
