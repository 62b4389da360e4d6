"""SAMPLERs over the branches of a guider: from a stored inversion, by DDIM or by its noise maps, or
from a noised image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from ...inversion.ddim import finish, predict_noise, step_to
from ...inversion.edit_friendly import step_by_map
from ...inversion.second_order import extrapolate
from ...inversion.stored import (
    Inversion,
    require_same_latent,
    require_same_model,
    require_same_sigmas,
    require_whole,
)
from ...inversion.update_rule import SOURCE, ItemNoise, noise_image
from ..comfy_types import Options, StepCallback
from ..messages import NodeName, name_node
from ..sampling.branch_sampler import (
    EDITED,
    BranchSampler,
    SamplerModel,
    blend_latents,
    predict_branches,
    step_mask,
)
from ..sampling.noise_levels import least_sigma, level_at
from ..sampling.optimising import optimise_latents
from ..sampling.run_checks import require_width
from .fingerprint import fingerprint_model

if TYPE_CHECKING:
    from ..sampling.branch_guider import BranchGuider

NODE = NodeName("Sample from Inversion")


def inversion_sampler(
    inversion: Inversion, texts: Mapping[str, Tensor] | None = None
) -> BranchSampler:
    """A SAMPLER of the edit that starts from an inversion.

    texts: (N, B, L, D) by branch, of each step; without them the source branch has the inversion's,
        where it has any.
    """
    if texts is None and inversion.word_texts is not None:
        texts = {SOURCE: inversion.word_texts}
    return BranchSampler(sample_from_inversion, {"inversion": inversion, "texts": texts or {}})


def noise_sampler() -> BranchSampler:
    """A SAMPLER of the edit that starts from the image with noise added (SDEdit: Meng et al., ICLR
    2022, arXiv 2108.01073)."""
    return BranchSampler(sample_from_noise)


def sample_from_inversion(
    model: SamplerModel,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Options | None = None,
    callback: StepCallback | None = None,
    disable: bool | None = None,
    *,
    inversion: Inversion,
    texts: Mapping[str, Tensor],
) -> Tensor:
    """The edited latents (B, C, h, w). Every branch starts from the noise that leads to the image;
    noise that ComfyUI passes in x is not used. A noise mask of the latent keeps the inverted image
    where it is 0."""
    guider = cast("BranchGuider", model.inner_model)
    with name_node(NODE):
        require_same_latent(inversion, x.shape)
        require_whole(inversion)
        require_same_sigmas(inversion, sigmas.tolist())
        require_same_model(inversion, fingerprint_model(guider.model_patcher))
    if inversion.null_texts is not None:
        width = guider.model_patcher.model.model_config.unet_config.get("context_dim")
        own = inversion.null_texts.shape[-1]
        require_width("inversion", own, own if width is None else width, NODE)
    stored = inversion.latents.to(x)
    maps = None if inversion.noise_maps is None else inversion.noise_maps.to(x)

    def advance(x: Tensor, denoised: Tensor, before: Tensor | None, step: int) -> Tensor:
        level, after = inversion.sigmas[step : step + 2]
        if maps is None:
            return step_by_ddim(x, denoised, level, after)
        if inversion.method == "second-order" and before is not None:
            denoised = extrapolate(denoised, before, (inversion.sigmas[step - 1], level, after))
        return step_by_map(x, denoised, maps[step], level, after)

    def prepare(step: int) -> None:
        if inversion.null_texts is not None:
            guider.replace_negative_text(inversion.null_texts[step % len(inversion.null_texts)])
        for branch, own in texts.items():
            guider.replace_text(branch, own[step])

    def replay(latents: dict[str, Tensor], step: int) -> None:
        if inversion.replays_source and SOURCE in latents:
            latents[SOURCE] = stored[step + 1]

    return _sample_branches(
        model, sigmas, extra_args or {}, callback,
        levels=inversion.sigmas, start=stored[0], image_at=lambda step: stored[step],
        advance=advance, prepare=prepare, replay=replay,
    )  # fmt: skip


def sample_from_noise(
    model: SamplerModel,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Options | None = None,
    callback: StepCallback | None = None,
    disable: bool | None = None,
) -> Tensor:
    """The edited latents (B, C, h, w). Item j of a batch at a seed is the single run at seed + j. A
    noise mask of the latent keeps the noised image where it is 0."""
    sampling = model.inner_model.inner_model.model_sampling
    levels = (*sigmas[:-1].tolist(), least_sigma(sampling))
    x0 = model.latent_image.to(x)
    noise = ItemNoise((extra_args or {}).get("seed") or 0, x0.shape).draw(x0)
    at = [noise_image(x0, noise, level_at(sampling, level)) for level in levels]

    def advance(x: Tensor, denoised: Tensor, before: Tensor | None, step: int) -> Tensor:
        return step_by_ddim(x, denoised, *levels[step : step + 2])

    return _sample_branches(
        model, sigmas, extra_args or {}, callback,
        levels=levels, start=at[0], image_at=lambda step: at[step], advance=advance,
    )  # fmt: skip


def step_by_ddim(x: Tensor, denoised: Tensor, level: float, after: float) -> Tensor:
    """A deterministic step of latents (B, C, h, w) from one noise level to the next."""
    return step_to(x, predict_noise(x, denoised, level), level, after)


def _sample_branches(
    model: SamplerModel,
    sigmas: Tensor,
    extra_args: Options,
    callback: StepCallback | None,
    *,
    levels: Sequence[float],
    start: Tensor,
    image_at: Callable[[int], Tensor],
    advance: Callable[[Tensor, Tensor, Tensor | None, int], Tensor],
    prepare: Callable[[int], None] = lambda step: None,
    replay: Callable[[dict[str, Tensor], int], None] = lambda latents, step: None,
) -> Tensor:
    """The steps of all branches from one latent.

    levels: one more than steps; the last one is the image's. image_at: the latents of the image
        itself at a level, which a noise mask keeps. advance: latents, their denoised prediction,
        that of the step before (None at the first) and the number of a step -> the next latents.
        prepare: called before a step. replay: called with the latents that a step leads to.
    """
    guider = cast("BranchGuider", model.inner_model)
    extra_args = dict(extra_args)
    edit_mask = extra_args.pop("denoise_mask", None)
    latents: dict[str, Tensor] = dict.fromkeys(guider.branch_names, start)
    before: dict[str, Tensor] = {}
    for step, level in enumerate(levels[:-1]):
        prepare(step)
        latents = optimise_latents(latents, guider, sigmas, step, extra_args)
        denoised = predict_branches(model, latents, sigmas[step], extra_args)
        if callback is not None:
            callback(
                {
                    "x": latents[EDITED],
                    "i": step,
                    "sigma": level,
                    "sigma_hat": level,
                    "denoised": denoised[EDITED],
                }
            )
        latents = {
            name: advance(latents[name], own, before.get(name), step)
            for name, own in denoised.items()
        }
        before = denoised
        replay(latents, step)
        latents = blend_latents(latents, image_at(step + 1), guider, sigmas, step)
        if edit_mask is not None:
            mask = step_mask(edit_mask, guider, sigmas, step, extra_args)
            latents[EDITED] = torch.lerp(image_at(step + 1), latents[EDITED], mask)
    return finish(latents[EDITED], levels[-1])
