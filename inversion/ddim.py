"""DDIM inversion, and DDIM sampling from what it found.

Song, Meng, Ermon: Denoising Diffusion Implicit Models (ICLR 2021, arXiv 2010.02502). With latents
x = x0 + sigma n, a deterministic DDIM step is Euler's: x' = x + (sigma' - sigma) eps with
eps = (x - D) / sigma. Inversion takes the same steps from the image to noise.

The published code of Prompt-to-Prompt, MasaCtrl, Free-Prompt-Editing and others inverts the step
from level a to the noisier level b with the network's prediction for the latent of a under the time
label of b. "own level" evaluates it at a itself. Both begin at the level of time step 0, as their
schedulers do (set_alpha_to_one=False).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

from torch import Tensor

TRAIN_STEPS = 1000

Convention: TypeAlias = Literal["published code", "own level"]
CONVENTIONS: tuple[str, ...] = get_args(Convention)


def ddim_timesteps(steps: int, strength: float = 1.0) -> list[int]:
    """Descending, evenly spaced time steps: 50 -> 980, 960, ..., 0.

    steps: number of steps at strength 1, in [1, 1000]. strength in (0, 1]: the share of them to
    run, counted from the end.

    Raises ValueError when no step is left or there are more than 1000.
    """
    if not 1 <= steps <= TRAIN_STEPS:
        raise ValueError(
            f"steps is {steps}; a DDIM schedule has 1 to {TRAIN_STEPS} steps. Set steps between 1 "
            f"and {TRAIN_STEPS}."
        )
    if not 0 < strength <= 1:
        raise ValueError(
            f"strength is {strength}, which is not a valid share of the steps. "
            "Set it above 0 and at most 1."
        )
    spacing = TRAIN_STEPS // steps
    kept = [spacing * i for i in range(steps)][: int(steps * strength + 1e-9)]
    if not kept:
        raise ValueError(
            f"{steps} steps at strength {strength} leave no step to sample. Raise the steps or the "
            "strength."
        )
    return kept[::-1]


def predict_noise(x: Tensor, denoised: Tensor, sigma: float) -> Tensor:
    """eps, of latents x at sigma and their denoised prediction."""
    return (x - denoised) / sigma


def step_to(x: Tensor, noise: Tensor, sigma: float, after: float) -> Tensor:
    """A deterministic step of latents (B, C, h, w) from noise level sigma to `after`, either
    way."""
    return x + (after - sigma) * noise


def relabel(x: Tensor, sigma: float, label: float) -> Tensor:
    """Latents of level sigma, scaled so that a network that is given the level `label` sees the
    input that it would see at sigma."""
    return x * ((1 + label**2) / (1 + sigma**2)) ** 0.5


def begin(x0: Tensor, level: float) -> Tensor:
    """The image as the latent of a schedule's last level, the least noise that the network knows.
    As in the published code, the variance-preserving latent is the image itself."""
    return x0 * (1 + level**2) ** 0.5


def finish(x: Tensor, level: float) -> Tensor:
    """The image of a latent of the schedule's last level; the inverse of `begin`."""
    return x / (1 + level**2) ** 0.5


def pairs_from_image(levels: Sequence[float]) -> list[tuple[float, float]]:
    """(less, more) noise of each step of an inversion, by the descending levels of a schedule."""
    ascending = list(levels)[::-1]
    return list(zip(ascending[:-1], ascending[1:], strict=True))
