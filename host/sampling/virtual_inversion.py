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
from ..versions import samples_by_flow
from .branch_sampler import (
    EDITED,
    BranchSampler,
    SamplerModel,
    blend_latents,
    predict_branches,
    step_mask,
)
from .noise_levels import is_largest, level_at
from .optimising import optimise_latents

if TYPE_CHECKING:
    from comfy.model_sampling import ModelSamplingDiscrete

    from .branch_guider import BranchGuider

NODE = NodeName("Virtual Inversion")


def virtual_inversion_sampler(
    eta: float = 1.0, kappa: float = 0.0, zeta: float = 0.0, n_avg: int = 1
) -> BranchSampler:
    """A SAMPLER. eta in [0, 1] is the share of fresh noise in each step's variance; kappa in [0, 1]
    goes from DDCM to FlowEdit; zeta in [0, 1] is FlowAlign's; n_avg: draws of noise a step.

    Raises ValueError for values out of range, and where draws would not share their noise.
    """
    if n_avg < 1:
        raise ValueError(f"n_avg is {n_avg}. Set it to 1 or more.")
    if n_avg > 1 and eta != 1:
        raise ValueError(
            f"n_avg is {n_avg} and eta {eta}: an average over draws of noise needs fresh noise "
            "alone. Set eta to 1, or n_avg to 1."
        )
    rule = UpdateRule(kappa=kappa, zeta=zeta, eta=eta)
    return BranchSampler(sample_virtual_inversion, {"rule": rule, "n_avg": n_avg})


def sample_virtual_inversion(
    model: SamplerModel,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Options | None = None,
    callback: StepCallback | None = None,
    disable: bool | None = None,
    rule: UpdateRule | None = None,
    n_avg: int = 1,
) -> Tensor:
    """The edited latents (B, C, h, w); DDCM unless another rule is given. Each step's prediction is
    the mean over n_avg draws of noise.

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
        for count in range(1, n_avg):
            fresh = noise.draw(x0)
            begun = (
                noise_image(x0, fresh, levels[step])
                if step
                else _first_latent(x0, fresh, sampling, schedule[0])
            )
            moved = {name: begun + (own - latents[SOURCE]) for name, own in latents.items()}
            predicted = predict_branches(model, moved, sigmas[step], extra_args)
            source = predicted.pop(SOURCE)
            for name, own in predicted.items():
                edits[name] += (predict_edit(x0, source, own) - edits[name]) / (count + 1)
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
    if not samples_by_flow(sampling) and is_largest(sampling, sigma):
        return pure_noise(noise, sigma)
    return noise_image(x0, noise, level_at(sampling, sigma))
