"""ALE-Edit: attribute-leakage-free editing of several objects at once.

Mun, Nam, Cho, Ok: Addressing Text Embedding Leakage in Diffusion-based Image Editing, ICCV 2025
(arXiv 2412.04715). Object-Restricted Embeddings (prompts/ore.py) + RGB-CAM (attention/rgb_cam.py) +
Background Blending (inversion/blending.py), with self-attention injection, over the virtual
inversion of InfEdit (inversion/ddcm.py).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..prompts.edits import Variant
from ..regions.grid import latent_background
from ..regions.regions import Regions, fit_background, fit_masks

SCHEDULES: dict[str, float] = {
    "color": 1.0,
    "material": 0.6,
    "object": 0.5,
    "color and object": 0.5,
    "object and material": 0.5,
}
"""Share of the steps with self-attention injection, by edit type (appendix D)."""


@dataclass(frozen=True)
class ALESettings:
    """Numbers of appendix D; the guidance scales are the published code's, the paper does not name
    them.

    steps: latent consistency steps. strength: share of them that runs, in (0, 1].
    source_guidance, target_guidance: classifier-free guidance scales, 1 is off.
    schedule: share of the steps with self-attention injection, in [0, 1].
    dilation: radius of the masks' dilation as a fraction of the image height (published code:
        0.04).
    eta: share of fresh noise in each step's variance; only 1 is self-consistent.
    """

    steps: int = 15
    strength: float = 1.0
    source_guidance: float = 1.0
    target_guidance: float = 2.0
    schedule: float = SCHEDULES["object"]
    dilation: float = 0.01
    eta: float = 1.0


def is_injection_step(step: int, steps: int, schedule: float, variant: Variant) -> bool:
    """Whether step `step` (0-based) of `steps` injects self-attention under a schedule in [0, 1].

    "paper": the first `schedule` share of the steps (figure 11). "published code": (step + 1) /
    steps < schedule, so that even a schedule of 1 leaves out the last step.
    """
    if variant == "paper":
        return step / steps < schedule
    return (step + 1) / steps < schedule


def is_blending_step(step: int, steps: int, variant: Variant) -> bool:
    """Whether step `step` (0-based) of `steps` blends the background.

    "paper": every step (Eq. 4), the last included, so that the background of the result is the
    source latent itself.
    "published code": not the first, and not the prediction that the last step returns.
    """
    return variant == "paper" or 0 < step < steps - 1


def background_weights(
    regions: Regions, height: int, width: int, variant: Variant, is_soft: bool
) -> Tensor:
    """(height, width) on the latent grid: bool, or in [0, 1] with a soft edge; 1 is background. 8
    pixels a cell."""
    if is_soft:
        soft = fit_background(regions.soft_background, 8 * height, 8 * width)[None]
        return soft.unflatten(2, (width, 8)).unflatten(1, (height, 8)).mean(dim=(2, 4))[0]
    masks = fit_masks(regions.dilated, 8 * height, 8 * width)
    return latent_background(masks, height, width, variant)
