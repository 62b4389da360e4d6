"""Virtual inversion as a ComfyUI SAMPLER: the update rule (inversion/update_rule.py) over the
branches of a guider."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from ...inversion.update_rule import (
    SOURCE,
    ItemNoise,
    UpdateRule,
    noise_image,
    predict_edit,
    pure_noise,
)
from ..comfy_types import Options, StepCallback
from ..messages import NodeName
from .branch_sampler import (
    EDITED,
    BranchSampler,
    SamplerModel,
    blend_latents,
    predict_branches,
    step_mask,
)
from .noise_levels import is_flow, is_largest, level_at
from .optimising import optimise_latents

if TYPE_CHECKING:
    from comfy.model_sampling import ModelSamplingDiscrete

    from .branch_guider import BranchGuider

NODE = NodeName("Virtual Inversion")


def virtual_inversion_sampler(eta: float = 1.0, kappa: float = 0.0) -> BranchSampler:
    """A SAMPLER. eta in [0, 1] is the share of fresh noise in each step's variance; kappa in [0, 1]
    goes from DDCM to FlowEdit."""
    return BranchSampler(sample_virtual_inversion, {"rule": UpdateRule(kappa=kappa, eta=eta)})


def sample_virtual_inversion(
    model: SamplerModel,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Options | None = None,
    callback: StepCallback | None = None,
    disable: bool | None = None,
    rule: UpdateRule | None = None,
) -> Tensor:
    """The edited latents (B, C, h, w); DDCM unless another rule is given.

    Reads the source image from model.latent_image and draws its noise on the CPU, so that item j of
    a batch at a seed is the single run at seed + j; the noisy latents that ComfyUI passes in x are
    not used. A noise mask of the latent keeps the source where it is 0.
    """
    guider, rule = model.inner_model, rule or UpdateRule()
    names: tuple[str, ...] = getattr(guider, "branch_names", ())
    if not {SOURCE, EDITED} <= set(names):
        raise ValueError(
            f"{NODE} needs a source and a target branch, but the guider of this run is a "
            f"{type(guider).__name__}. Connect Two-Branch Guider to SamplerCustomAdvanced."
        )
    extra_args = dict(extra_args or {})
    read_edit_mask = extra_args.pop("denoise_mask", None)
    sampling = guider.inner_model.model_sampling
    x0 = model.latent_image.to(x)
    noise = ItemNoise(extra_args.get("seed") or 0, x0.shape)
    schedule = [float(sigma) for sigma in sigmas]
    levels = [level_at(sampling, sigma) for sigma in schedule]
    latents = dict.fromkeys(names, _first_latent(x0, noise.draw(x0), sampling, schedule[0]))
    edits = {EDITED: x0}
    for step, after in enumerate(levels[1:]):
        latents = optimise_latents(latents, cast("BranchGuider", guider), sigmas, step, extra_args)
        predicted = predict_branches(model, latents, sigmas[step], extra_args)
        source = predicted.pop(SOURCE)
        edits = {name: predict_edit(x0, source, own) for name, own in predicted.items()}
        if read_edit_mask is not None:
            mask = step_mask(read_edit_mask, guider, sigmas, step, extra_args)
            edits = {name: torch.lerp(x0, edit, mask) for name, edit in edits.items()}
        if callback is not None:
            callback(
                {
                    "x": latents[EDITED],
                    "i": step,
                    "sigma": schedule[step],
                    "sigma_hat": schedule[step],
                    "denoised": edits[EDITED],
                }
            )
        if schedule[step + 1] > 0:
            latents = rule.advance(latents, x0, edits, levels[step], after, noise.draw(x0))
            latents = {name: latents[name] for name in names}
            latents = blend_latents(latents, latents[SOURCE], guider, sigmas, step)
    result = {SOURCE: x0, **edits, EDITED: rule.finish(x0, edits[EDITED])}
    return blend_latents(result, x0, guider, sigmas, len(levels) - 2)[EDITED]


def _first_latent(
    x0: Tensor, noise: Tensor, sampling: ModelSamplingDiscrete, sigma: float
) -> Tensor:
    """Every branch's latent at the first sigma. From the model's largest sigma on, InfEdit starts
    from noise that holds no image."""
    if not is_flow(sampling) and is_largest(sampling, sigma):
        return pure_noise(noise, sigma)
    return noise_image(x0, noise, level_at(sampling, sigma))
