"""Steps of latents down the gradient of a loss, for every method that optimises latents."""

from __future__ import annotations

import torch
from torch import Tensor

from .control import Step


def descend(x: Tensor, gradient: Tensor, rate: Tensor | float, sigma: float) -> Tensor:
    """Latents x = x0 + sigma n after one step of the size `rate` along the gradient of a loss by x.

    Methods move variance-preserving latents z = x / sqrt(1 + sigma^2) along the gradient by z. That
    gradient is sqrt(1 + sigma^2) times the one by x, and so is the step of x that of z: together a
    factor of 1 + sigma^2.
    """
    return x - rate * (1 + sigma**2) * gradient


def find_gradient(loss: Tensor, x: Tensor, step: Step, setting: str, scale: float = 1.0) -> Tensor:
    """Of a loss (B,) by the latents x (B, C, h, w), in 32 bits.

    setting: as in `require_finite`. scale: what the loss is multiplied by meanwhile, so that half
        precision holds its gradient.
    """
    (gradient,) = torch.autograd.grad(loss.sum() * scale, x)
    gradient = gradient.float() / scale
    require_finite("gradient is not finite", gradient, step, setting)
    return gradient


def require_finite(found: str, values: Tensor, step: Step, setting: str) -> None:
    """Raises ValueError for values that are not finite. found: what is wrong with them. setting:
    the one that a person can lower."""
    if not bool(torch.isfinite(values).all()):
        raise ValueError(
            f"at step {step.number + 1} of {step.count}, the {found}. Lower {setting}, or run the "
            "model in fp32 or bf16."
        )
