"""Edit-friendly DDPM inversion by a MODEL (inversion/edit_friendly.py), also of order 2
(inversion/second_order.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.samplers
import torch
from torch import Tensor

from ...inversion.edit_friendly import draw_latents, solve_map, step_by_map
from ...inversion.second_order import extrapolate
from ...inversion.stored import Inversion, InversionMethod, Schedule
from ...inversion.update_rule import ItemNoise
from ..comfy_types import Conditioning, Options, RunCallback, StepCallback
from ..sampling.branch_sampler import SamplerModel
from ..sampling.noise_levels import least_sigma
from ..sampling.run_checks import require_finite_steps
from .fingerprint import fingerprint_model
from .invert import NODE, follow_image

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


class NoiseMapSampler(comfy.samplers.KSAMPLER):
    """A SAMPLER that draws the image at each noise level, and keeps the noise maps that lead from
    one level to the next. is_second_order: by steps of order 2."""

    def __init__(self, is_second_order: bool = False) -> None:
        super().__init__(self._sample)
        self._is_second_order = is_second_order
        self.latents: list[Tensor] = []
        self.noise_maps: list[Tensor] = []
        self.sigmas: tuple[float, ...] = ()

    def _sample(
        self,
        model: SamplerModel,
        x: Tensor,
        sigmas: Tensor,
        extra_args: Options | None = None,
        callback: StepCallback | None = None,
        disable: bool | None = None,
    ) -> Tensor:
        """The latents (B, C, h, w) of the image, as the steps with the maps reach them. Item j of a
        batch at a seed is the single run at seed + j. x is not used."""
        options = {**(extra_args or {})}
        options.pop("denoise_mask", None)
        sampling = model.inner_model.inner_model.model_sampling
        levels = (*sigmas[:-1].tolist(), least_sigma(sampling))
        x0 = model.latent_image.to(x)
        noise = ItemNoise(options.get("seed") or 0, x0.shape)
        drawn = draw_latents(x0, levels, lambda: noise.draw(x0))
        ones = x0.new_ones(x0.shape[0])
        self.latents, self.noise_maps, self.sigmas = drawn[:1], [], levels
        before: Tensor | None = None
        for step, (level, after) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
            x = denoised = self.latents[-1]
            if after < level:
                denoised = model(x, level * ones, denoise_mask=None, **options)
            predicted = denoised
            if self._is_second_order and before is not None:
                predicted = extrapolate(denoised, before, (levels[step - 1], level, after))
            before = denoised
            noise_map = solve_map(x, predicted, drawn[step + 1], level, after)
            self.noise_maps.append(noise_map)
            # as an edit will reach it, so that rounding errors do not add up
            self.latents.append(step_by_map(x, predicted, noise_map, level, after))
            if callback is not None:
                callback({"x": x, "i": step, "sigma": level, "denoised": denoised})
        return self.latents[-1]


def invert_edit_friendly(
    model: ModelPatcher,
    conditioning: Conditioning,
    latent: Tensor,
    schedule: Schedule,
    prompt: str,
    *,
    negative: Conditioning,
    method: InversionMethod = "edit-friendly",
    guidance: float = 3.5,
    seed: int = 0,
    callback: RunCallback | None = None,
) -> Inversion:
    """The noise maps of a latent (B, C, h, w) as a VAE encodes it.

    conditioning: of the prompt. method: "edit-friendly" or "second-order". negative, guidance: of
        the inversion, which an edit need not share. seed: of the noises.

    Raises ValueError as `invert_image`.
    """
    sampler = NoiseMapSampler(method == "second-order")
    follow_image(
        sampler, model, conditioning, latent, schedule,
        guidance=guidance, negative=negative, seed=seed, callback=callback,
    )  # fmt: skip
    latents = torch.stack(sampler.latents).cpu()
    require_finite_steps(latents, NODE)
    return Inversion(
        method=method,
        schedule=schedule,
        sigmas=sampler.sigmas,
        latents=latents,
        prompt=prompt,
        model=fingerprint_model(model),
        convention="own level",
        guidance=guidance,
        noise_maps=torch.stack(sampler.noise_maps).cpu(),
    )
