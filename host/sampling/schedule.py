"""Time steps as ComfyUI SIGMAS."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from ...inversion.ddim import ddim_timesteps
from ...inversion.lcm_schedule import TRAIN_STEPS, lcm_timesteps
from ...inversion.second_order import second_order_timesteps
from ...inversion.stored import Schedule
from ..attention.unet import require_cross_attention
from ..messages import NodeName, name_node
from .run_checks import require_noise_space

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.model_sampling import ModelSamplingDiscrete

NODE = NodeName("LCM Schedule")
SPREADS = {"DDIM": ddim_timesteps, "LCM": lcm_timesteps, "LEDITS++": second_order_timesteps}


def lcm_sigmas(model: ModelPatcher, steps: int, strength: float) -> Tensor:
    """The sigmas (kept steps + 1,) of a latent consistency schedule; see `sigmas_of`."""
    return sigmas_of(model, Schedule(steps, strength, "LCM"))


def sigmas_of(model: ModelPatcher, schedule: Schedule) -> Tensor:
    """(kept steps + 1,) sigmas of a MODEL at exact entries of its table, the last one 0.

    Raises ValueError when the model's table of noise levels does not hold these time steps.
    """
    require_cross_attention(model, NODE)
    require_noise_space(model, NODE)
    sampling = cast("ModelSamplingDiscrete", model.get_model_object("model_sampling"))
    with name_node(NODE):
        steps = SPREADS[schedule.time_steps](schedule.steps, schedule.strength)
    timesteps = torch.tensor(steps, dtype=torch.float32)
    sigmas = torch.tensor([float(sampling.sigma(timestep)) for timestep in timesteps])
    if not torch.equal(sampling.timestep(sigmas).to(timesteps), timesteps):
        raise ValueError(
            f"{NODE}: the model input has no table of {TRAIN_STEPS} noise levels to take time "
            f"steps from (its sampling is {_name(sampling)}). Remove the node that gave it another "
            "sampling, or, in a graph of single nodes, connect the sigmas of a Karras Scheduler or "
            "Basic Scheduler to SamplerCustomAdvanced."
        )
    return torch.cat([sigmas, torch.zeros(1)])


def _name(sampling: object) -> str:
    """The class of a model sampling, without the nameless one that ComfyUI makes of two."""
    return type(sampling).__mro__[1].__name__
