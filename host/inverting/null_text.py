"""Null-text inversion by a MODEL (inversion/null_text.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import comfy.samplers
import torch
from torch import Tensor

from ...inversion.ddim import predict_noise, step_to
from ...inversion.null_text import NullTextSettings, fit_null_text, guide
from ...inversion.stored import Inversion
from ..comfy_types import Cond, Conditioning, Options, RunCallback, StepCallback
from ..gradients import explain_memory, leaf, record_gradients, stop_if_interrupted
from ..messages import name_node
from ..sampling.branch_sampler import SamplerModel
from ..sampling.schedule import sigmas_of
from .invert import NODE

if TYPE_CHECKING:
    from comfy.model_base import BaseModel
    from comfy.model_patcher import ModelPatcher


Predict: TypeAlias = Callable[[Cond], Tensor]
"""A conditioning entry -> the denoised prediction (B, C, h, w) of a step's latents under it."""


class NullTextSampler(comfy.samplers.KSAMPLER):
    """A SAMPLER that follows an inversion back to the image and keeps a negative text for each
    step."""

    def __init__(self, inversion: Inversion, settings: NullTextSettings, node: str = NODE) -> None:
        super().__init__(self._sample)
        self._inversion = inversion
        self._settings = settings
        self._node = node
        self.texts: list[Tensor] = []

    def follow(
        self,
        model: ModelPatcher,
        conditioning: Conditioning,
        negative: Conditioning,
        latent: Tensor,
        callback: RunCallback | None = None,
    ) -> None:
        """Run by a MODEL. conditioning: of the inversion's prompt. negative: where the search for
        the negative texts starts. latent: (B, C, h, w) of the image."""
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(conditioning, negative)
        guider.set_cfg(self._settings.guidance)
        sigmas = sigmas_of(model, self._inversion.schedule)
        guider.sample(torch.zeros_like(latent), latent, self, sigmas, callback=callback, seed=0)

    def _sample(
        self,
        model: SamplerModel,
        x: Tensor,
        sigmas: Tensor,
        extra_args: Options | None = None,
        callback: StepCallback | None = None,
        disable: bool | None = None,
    ) -> Tensor:
        guider, inversion = model.inner_model, self._inversion
        network = guider.inner_model
        options = self._choose_options((extra_args or {})["model_options"])
        levels, steps = inversion.sigmas, inversion.steps
        with record_gradients(network), name_node(self._node), explain_memory(network, x.shape):
            (positive,), (negative,) = guider.conds["positive"], guider.conds["negative"]
            own = negative["model_conds"]["c_crossattn"]
            text = leaf(own.cond).float().repeat(len(x) // len(own.cond), 1, 1)
            stored = leaf(inversion.latents.to(x))
            current = stored[0]
            for step, (level, after) in enumerate(zip(levels[:-1], levels[1:], strict=True)):
                stop_if_interrupted()
                times = leaf(sigmas[step].to(x)).expand(len(x))
                latent = current

                def predict(cond: Cond, latent: Tensor = latent, times: Tensor = times) -> Tensor:
                    (out,) = comfy.samplers.calc_cond_batch(
                        network, [[cond]], latent, times, options
                    )
                    return out

                def predict_negative(text: Tensor, predict: Predict = predict) -> Tensor:
                    stop_if_interrupted()
                    conds = {**negative["model_conds"], "c_crossattn": type(own)(text)}
                    return predict({**negative, "model_conds": conds})

                prompt = self._prompt_of(step, positive, predict, network)
                with torch.no_grad():
                    conditional = predict(prompt)
                if after < level:  # else the step goes nowhere, whatever the text
                    text = fit_null_text(
                        text, predict_negative, conditional, current, stored[step + 1],
                        level, after, self._settings, step, steps,
                    )  # fmt: skip
                self.texts.append(text.cpu())
                with torch.no_grad():
                    denoised = guide(predict_negative(text), conditional, self._settings.guidance)
                    current = step_to(
                        current, predict_noise(current, denoised, level), level, after
                    )
                if callback is not None:
                    callback({"x": current, "i": step, "sigma": level, "denoised": denoised})
        return current

    def _choose_options(self, model_options: Options) -> Options:
        """The options of all calls."""
        return model_options

    def _prompt_of(self, step: int, positive: Cond, predict: Predict, network: BaseModel) -> Cond:
        """The conditional entry of a step; called where autograd records."""
        return positive


def add_null_texts(
    inversion: Inversion,
    model: ModelPatcher,
    conditioning: Conditioning,
    negative: Conditioning,
    latent: Tensor,
    settings: NullTextSettings | None = None,
    callback: RunCallback | None = None,
) -> Inversion:
    """An inversion with a negative text for each step, optimised from `negative`.

    conditioning: of the prompt that the image was inverted with. latent: (B, C, h, w) of the image.
    """
    settings = settings or NullTextSettings()
    sampler = NullTextSampler(inversion, settings)
    sampler.follow(model, conditioning, negative, latent, callback)
    return replace(
        inversion,
        method="null-text",
        null_texts=torch.stack(sampler.texts),
        guidance=settings.guidance,
    )
