"""Background Blending in a ComfyUI run: the target's denoised prediction is the source's on the
background."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..editors.ale import background_weights, is_blending_step
from ..inversion.blending import blend
from ..regions.regions import AnyRegions
from .conditioning import run_settings
from .messages import NodeName
from .patching import BLENDING_KEY, WRAPPERS, add_outermost_wrapper, with_wrapper
from .regions import masks_of_latent
from .rows import run_options, step_index
from .run_checks import require_branches
from .unet import require_cross_attention

NODE = NodeName("Background Blending")


def apply_background_blending(model: Any, regions: AnyRegions, is_soft: bool = False) -> Any:
    """A clone of a MODEL that keeps the source outside the regions, under a two-branch guider."""
    require_cross_attention(model, NODE)

    def outer_sample(
        executor: Any, noise: Tensor, latent_image: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        guider = executor.class_obj
        require_branches(guider, ("source", "target"), NODE)
        masks_of_latent(regions, latent_image, NODE)  # refuses regions of other images
        settings = run_settings(guider.conds)
        if settings.blending:
            wrapper = _make_predict_noise(regions, settings.variant, is_soft, guider.branch_names)
            # around wrappers that leave out model calls: the background is kept at every step
            add_outermost_wrapper(
                guider.model_options, WRAPPERS.PREDICT_NOISE, BLENDING_KEY, wrapper
            )
        return executor(noise, latent_image, *args, **kwargs)

    return with_wrapper(model, WRAPPERS.OUTER_SAMPLE, BLENDING_KEY, outer_sample, NODE)


def _make_predict_noise(
    regions: AnyRegions, variant: Any, is_soft: bool, branches: Sequence[str]
) -> Any:
    """The wrapper of one run."""

    @cache
    def weights(height: int, width: int, device: torch.device) -> Tensor:
        """(1 or B, 1, h, w)."""
        each = [background_weights(one, height, width, variant, is_soft) for one in regions.images]
        return torch.stack(each)[:, None].to(device)

    def predict_noise(
        executor: Any,
        x: Tensor,
        timestep: Tensor,
        model_options: dict[str, Any],
        seed: int | None = None,
    ) -> Tensor:
        options = run_options(model_options, NODE)
        denoised = executor(x, timestep, model_options, seed)
        step = step_index(options, timestep)
        if not is_blending_step(step, len(options["sample_sigmas"]) - 1, variant):
            return denoised
        parts = dict(zip(branches, denoised.chunk(len(branches)), strict=True))
        background = weights(*x.shape[-2:], x.device)
        parts["target"] = blend(parts["source"], parts["target"], background)
        return torch.cat(list(parts.values()))

    return predict_noise
