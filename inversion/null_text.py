"""Null-text inversion: at each step, the negative text under which a guided step follows the
inverted image.

Mokady, Hertz, Aberman, Pritch, Cohen-Or: Null-text Inversion for Editing Real Images using Guided
Diffusion Models, CVPR 2023 (arXiv 2211.09794), with the numbers of the published code: Adam at
0.01 (1 - i / 100), at most 10 updates a step, until the error is below 1e-5 + 2e-5 i, for step i of
50. For another number of steps, i counts as its share of 50.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .ddim import predict_noise, step_to

PUBLISHED_STEPS = 50


@dataclass(frozen=True)
class NullTextSettings:
    """updates: most updates a step. learning_rate: of Adam at the first step. tolerance: error
    below which the first step stops. guidance: scale that the edit will run at."""

    updates: int = 10
    learning_rate: float = 1e-2
    tolerance: float = 1e-5
    guidance: float = 7.5

    def rate_at(self, step: int, steps: int) -> float:
        return self.learning_rate * (1 - step / (2 * steps))

    def tolerance_at(self, step: int, steps: int) -> float:
        return self.tolerance + 2 * self.tolerance * step * PUBLISHED_STEPS / steps


def fit_null_text(
    text: Tensor,
    predict: Callable[[Tensor], Tensor],
    conditional: Tensor,
    x: Tensor,
    wanted: Tensor,
    level: float,
    after: float,
    settings: NullTextSettings,
    step: int,
    steps: int,
) -> Tensor:
    """The negative text (B, L, D) of one step; to be called where autograd records.

    text: (B, L, D), where the search starts. predict: a negative text -> the unconditional denoised
        prediction (B, C, h, w) of x. conditional: the conditional one. x, wanted: latents (B, C, h,
        w) at noise levels `level` and `after`. An image whose error is small enough keeps its text
        while others go on.

    Raises ValueError, with the step, when the error is not finite.
    """
    text = text.float().detach().clone().requires_grad_()
    adam = torch.optim.Adam([text], lr=settings.rate_at(step, steps))
    is_done = torch.zeros(len(text), dtype=torch.bool, device=text.device)
    size = x[0].numel()
    for _ in range(settings.updates):
        denoised = guide(predict(text), conditional, settings.guidance)
        reached = step_to(x, predict_noise(x, denoised, level), level, after)
        # of variance-preserving latents, as published
        errors = (reached - wanted).float().square().flatten(1).sum(1) / (1 + after**2)
        if not bool(torch.isfinite(errors).all()):
            raise ValueError(
                f"the error at step {step + 1} of {steps} is {errors.detach().tolist()}. Run the "
                "model in fp32 or bf16, or use negative-prompt inversion."
            )
        adam.zero_grad()
        errors.sum().backward()  # a mean would vanish in half precision
        assert text.grad is not None
        text.grad /= size
        before = text.detach().clone()
        adam.step()
        with torch.no_grad():
            text[is_done] = before[is_done]
        is_done = is_done | (errors.detach() / size < settings.tolerance_at(step, steps))
        if bool(is_done.all()):
            break
    return text.detach()


def guide(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance."""
    return unconditional + scale * (conditional - unconditional)
