"""LCM time steps as ComfyUI SIGMAS."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..inversion.lcm_schedule import lcm_timesteps
from .unet import require_cross_attention

NODE = "LCM Schedule"


def lcm_sigmas(model: Any, steps: int, strength: float) -> Tensor:
    """(kept steps + 1,) sigmas of a MODEL at exact entries of its table, the last one 0."""
    require_cross_attention(model, NODE)
    sampling = model.get_model_object("model_sampling")
    timesteps = torch.tensor(lcm_timesteps(steps, strength), dtype=torch.float32)
    sigmas = [float(sampling.sigma(timestep)) for timestep in timesteps]
    return torch.tensor([*sigmas, 0.0])
