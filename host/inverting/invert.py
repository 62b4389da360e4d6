"""DDIM inversion of images by a MODEL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.samplers
import torch
from torch import Tensor

from ...inversion.ddim import (
    Convention,
    begin,
    pairs_from_image,
    predict_noise,
    relabel,
    step_to,
)
from ...inversion.regularised import NoiseRegulariser
from ...inversion.stored import Inversion, InversionMethod, Schedule
from ..comfy_types import Conditioning, Options, RunCallback, StepCallback
from ..gradients import leaf, record_gradients
from ..messages import NodeName
from ..sampling.branch_sampler import SamplerModel
from ..sampling.noise_levels import least_sigma
from ..sampling.run_checks import (
    require_finite_steps,
    require_latent,
    require_noise_space,
    require_text_width,
)
from ..sampling.schedule import sigmas_of
from .fingerprint import fingerprint_model

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

NODE = NodeName("Invert Image")


class InvertingSampler(comfy.samplers.KSAMPLER):
    """A SAMPLER that follows an image to noise, and keeps its latent at each level. regularises:
    whether each step's noise is made more like white noise."""

    def __init__(self, convention: Convention, regularises: bool = False) -> None:
        super().__init__(self._sample)
        self._convention = convention
        self._regularises = regularises
        self.latents: list[Tensor] = []
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
        """The latents (B, C, h, w) of the noise that leads to the image. x is not used."""
        levels = [float(sigma) for sigma in sigmas[:-1]]
        levels.append(least_sigma(model.inner_model.inner_model.model_sampling))
        x = begin(model.latent_image.to(x), levels[-1])
        ones = x.new_ones(x.shape[0])
        regularise = NoiseRegulariser((extra_args or {}).get("seed") or 0, len(x))
        self.latents, self.sigmas = [x], tuple(levels)
        for number, (less, more) in enumerate(pairs_from_image(levels)):
            if more > less:
                label = more if self._convention == "published code" else less
                given = relabel(x, less, label)
                options = {**(extra_args or {})}
                options.pop("denoise_mask", None)
                denoised = model(given, label * ones, denoise_mask=None, **options)
                noise = predict_noise(given, denoised, label)
                if self._regularises:
                    with record_gradients():
                        noise = regularise(leaf(noise))
                x = step_to(x, noise, less, more)
                if callback is not None:
                    callback({"x": x, "i": number, "sigma": label, "denoised": denoised})
            self.latents.insert(0, x)
        return x


def follow_image(
    sampler: comfy.samplers.KSAMPLER,
    model: ModelPatcher,
    conditioning: Conditioning,
    latent: Tensor,
    schedule: Schedule,
    *,
    guidance: float = 1.0,
    negative: Conditioning | None = None,
    seed: int = 0,
    callback: RunCallback | None = None,
) -> None:
    """Run a sampler that inverts a latent (B, C, h, w) as a VAE encodes it; see `invert_image`."""
    require_noise_space(model, NODE)
    require_latent(latent, model, NODE)
    sigmas = sigmas_of(model, schedule)
    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(conditioning, conditioning if negative is None else negative)
    guider.set_cfg(guidance)
    for cond in guider.original_conds["positive"]:
        require_text_width("conditioning", cond, model, NODE)
    guider.sample(torch.zeros_like(latent), latent, sampler, sigmas, callback=callback, seed=seed)


def invert_image(
    model: ModelPatcher,
    conditioning: Conditioning,
    latent: Tensor,
    schedule: Schedule,
    prompt: str,
    *,
    method: InversionMethod = "DDIM",
    convention: Convention = "published code",
    guidance: float = 1.0,
    negative: Conditioning | None = None,
    seed: int = 0,
    callback: RunCallback | None = None,
) -> Inversion:
    """DDIM inversion of a latent (B, C, h, w) as a VAE encodes it.

    conditioning: of the prompt. guidance, negative: 1 and nothing, unless the inversion itself is
        guided. seed: of the shifts that regularise noise.

    Raises ValueError for a model whose latents are not an image plus noise, for a latent or a
    conditioning that does not fit it, and for a step that gives NaN or infinite values.
    """
    sampler = InvertingSampler(convention, regularises=method == "regularised")
    follow_image(
        sampler, model, conditioning, latent, schedule,
        guidance=guidance, negative=negative, seed=seed, callback=callback,
    )  # fmt: skip
    latents = torch.stack(sampler.latents).cpu()
    require_finite_steps(latents.flip(0), NODE)
    return Inversion(
        method=method,
        schedule=schedule,
        sigmas=sampler.sigmas,
        latents=latents,
        prompt=prompt,
        model=fingerprint_model(model),
        convention=convention,
        guidance=guidance,
        null_texts=conditioning[0][0][None].cpu() if method == "negative-prompt" else None,
    )
