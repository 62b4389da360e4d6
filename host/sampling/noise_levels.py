"""Noise levels of a MODEL, read from its sampling."""

from __future__ import annotations

import torch
from comfy.model_sampling import ModelSamplingDiscrete

from ...inversion.update_rule import Level
from ..versions import noise_scale_of, samples_by_flow


def level_at(sampling: object, sigma: float) -> Level:
    """The noise level at a sigma."""
    if samples_by_flow(sampling):
        return Level(1 - sigma, sigma * noise_scale_of(sampling))
    return Level(1.0, sigma)


def is_largest(sampling: ModelSamplingDiscrete, sigma: float) -> bool:
    """Whether a schedule starts at the model's largest sigma."""
    return sigma >= float(sampling.sigma_max) * (1 - 1e-4)


def least_sigma(sampling: ModelSamplingDiscrete) -> float:
    """The sigma of time step 0, the least noise that a network knows."""
    return float(sampling.sigma(torch.zeros(1)))
