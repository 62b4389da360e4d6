"""Self-attention injection in a ComfyUI run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ...editors.ale import InjectionControl
from ..messages import NodeName
from ..patching import SELF_INJECTION_KEY
from ..sampling.run_checks import require_branches
from ..text.conditioning import run_settings
from .adapter import add_control
from .unet import require_cross_attention

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.samplers import CFGGuider

NODE = NodeName("Self-Attention Injection")


def apply_self_injection(model: ModelPatcher, schedule: float) -> ModelPatcher:
    """A clone of a MODEL that injects self-attention during the first `schedule` share of the
    steps, in [0, 1]."""
    require_cross_attention(model, NODE)

    def make_control(guider: CFGGuider, _: Tensor) -> InjectionControl:
        require_branches(guider, ("source", "target"), NODE)
        return InjectionControl(schedule, run_settings(guider.conds).variant)

    return add_control(model, SELF_INJECTION_KEY, make_control, NODE)
