"""Virtual inversion as a ComfyUI SAMPLER: InfEdit's DDCM loop (inversion/ddcm.py) over the
two-branch guider."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ..inversion.ddcm import ItemNoise, ddcm_step, predicted_edit, start
from .messages import NodeName

NODE = NodeName("Virtual Inversion")


class TwoBranchSampler(comfy.samplers.KSAMPLER):
    """A SAMPLER that runs latents [source x B, target x B]; Two-Branch Guider accepts no other."""

    is_two_branch = True

    @property
    def keeps_source_apart(self) -> bool:
        """Whether the source branch is the same whatever the target is."""
        return self.sampler_function is sample_virtual_inversion and self.extra_options["eta"] == 1


def virtual_inversion_sampler(eta: float = 1.0) -> Any:
    """A SAMPLER. eta in [0, 1] is the share of fresh noise in each step's variance."""
    return TwoBranchSampler(sample_virtual_inversion, {"eta": eta})


def sample_virtual_inversion(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Any = None,
    disable: bool | None = None,
    eta: float = 1.0,
) -> Tensor:
    """DDCM, Algorithm 2 of InfEdit: the edited latents (B, C, h, w).

    Reads the source image from model.latent_image and draws its noise on the CPU, so that item j of
    a batch at a seed is the single run at seed + j; the noisy latents that ComfyUI passes in x are
    not used. A noise mask of the latent keeps the source where it is 0.
    """
    guider = model.inner_model
    if not getattr(guider, "is_two_branch", False):
        raise ValueError(
            f"{NODE} needs a source and a target branch, but the guider of this run is a "
            f"{type(guider).__name__}. Connect Two-Branch Guider to SamplerCustomAdvanced."
        )
    extra_args = dict(extra_args or {})
    edit_mask = extra_args.pop("denoise_mask", None)
    x0 = model.latent_image.to(x)
    noise = ItemNoise(extra_args.get("seed") or 0, x0.shape)
    schedule = [float(sigma) for sigma in sigmas]
    branches = start(x0, noise.draw(x0), schedule[0], _is_pure_noise(guider, schedule[0]))
    ones = x.new_ones(2 * x0.shape[0])
    edit = x0
    for step, (sigma, sigma_next) in enumerate(zip(schedule, schedule[1:], strict=False)):
        latents = torch.cat([branches.source, branches.target])
        denoised = model(latents, sigmas[step] * ones, denoise_mask=None, **extra_args)
        source_denoised, target_denoised = denoised.chunk(2)
        edit = predicted_edit(x0, source_denoised, target_denoised)
        if edit_mask is not None:
            mask = _step_mask(edit_mask, guider, sigmas, step, extra_args)
            edit = torch.lerp(x0, edit, mask)
        if callback is not None:
            callback(
                {
                    "x": branches.target,
                    "i": step,
                    "sigma": sigma,
                    "sigma_hat": sigma,
                    "denoised": edit,
                }
            )
        if sigma_next > 0:
            branches = ddcm_step(branches, x0, edit, sigma, sigma_next, noise.draw(x0), eta)
    return edit


def _is_pure_noise(guider: Any, sigma: float) -> bool:
    """Whether a schedule starts at the model's largest sigma, where InfEdit starts from noise that
    holds no image."""
    sigma_max = float(guider.inner_model.model_sampling.sigma_max)
    return sigma >= sigma_max * (1 - 1e-4)


def _step_mask(
    mask: Tensor, guider: Any, sigmas: Tensor, step: int, extra_args: dict[str, Any]
) -> Tensor:
    """The latent's noise mask (B, C or 1, h, w) at one step; another node may change it by step."""
    function = extra_args.get("model_options", {}).get("denoise_mask_function")
    if function is None:
        return mask
    sigma = sigmas[step].expand(mask.shape[0])
    return function(sigma, mask, extra_options={"model": guider, "sigmas": sigmas})
