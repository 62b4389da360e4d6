"""What every sampler of branches shares: one evaluation of all of them, what controls do to their
latents, and the noise mask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import comfy.samplers
import torch
from torch import Tensor

from ...attention.control import IMAGE, Control, Step
from ...inversion.update_rule import UpdateRule
from ..attention.adapter import running_controls
from ..comfy_types import Options

if TYPE_CHECKING:
    from comfy.samplers import CFGGuider

EDITED = "target"
"""The branch whose edit is the result."""


class SamplerModel(Protocol):
    """What ComfyUI's samplers are given: a guider that is called as a denoiser, with the latents
    that the run began with."""

    inner_model: CFGGuider
    latent_image: Tensor

    def __call__(
        self, x: Tensor, sigma: Tensor, denoise_mask: Tensor | None, **kwargs: Any
    ) -> Tensor: ...


class BranchSampler(comfy.samplers.KSAMPLER):
    """A SAMPLER that runs the latents of all branches; guiders of branches accept no other."""

    runs_branches = True

    @property
    def keeps_source_apart(self) -> bool:
        """Whether the source branch is the same whatever the others are, and depends on nothing but
        the image, the text, the seed and the schedule."""
        rule = self.extra_options.get("rule")
        return isinstance(rule, UpdateRule) and rule.is_source_free


def predict_branches(
    model: SamplerModel, latents: Mapping[str, Tensor], sigma: Tensor, extra_args: Options
) -> dict[str, Tensor]:
    """The guided predictions (B, C, h, w) by branch."""
    batch = torch.cat(list(latents.values()))
    denoised = model(batch, sigma * batch.new_ones(len(batch)), denoise_mask=None, **extra_args)
    return dict(zip(latents, denoised.chunk(len(latents)), strict=True))


def blend_latents(
    latents: Mapping[str, Tensor], image: Tensor, guider: CFGGuider, sigmas: Tensor, step: int
) -> dict[str, Tensor]:
    """The latents (B, C, h, w) by branch after a step, as the controls of the run leave them.

    image: of the image itself, at the level that the step leads to.
    """
    options = guider.model_options.get("transformer_options", {})
    for control in running_controls(options):
        if type(control).blend_latents is not Control.blend_latents:
            now = Step(step, len(sigmas) - 1, float(sigmas[step]))
            blended = control.blend_latents({**latents, IMAGE: image}, now)
            latents = {name: blended[name] for name in latents}
    return dict(latents)


def step_mask(
    mask: Tensor, guider: CFGGuider, sigmas: Tensor, step: int, extra_args: Options
) -> Tensor:
    """The latent's noise mask (B, C or 1, h, w) at one step; another node may change it by step."""
    function = extra_args.get("model_options", {}).get("denoise_mask_function")
    if function is None:
        return mask
    sigma = sigmas[step].expand(mask.shape[0])
    return function(sigma, mask, extra_options={"model": guider, "sigmas": sigmas})
