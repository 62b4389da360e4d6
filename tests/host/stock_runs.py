"""Edits made of stock one-branch runs, and ComfyUI's own model nodes: oracles for the two-branch
guider.

Imported by tests as `ale_edit.tests.host.stock_runs`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import comfy.samplers
import torch
from torch import Tensor

from ale_edit.host.sampling.schedule import lcm_sigmas
from ale_edit.inversion.update_rule import ItemNoise
from ale_edit.tests.host.runs import STEPS, plain, side
from ale_edit.tests.tiny import edits_of, source_latent

SEED = 5


def core_node(module: str, name: str, *values: Any) -> Callable[[Any], Any]:
    """A function MODEL -> MODEL of one of ComfyUI's own nodes, of either schema. values: of its
    widgets, in their order; the rest have their defaults, as where a person adds the node."""

    def apply(model: Any) -> Any:
        node = getattr(importlib.import_module(f"comfy_extras.{module}"), name)
        if hasattr(node, "execute"):
            rest = node.GET_SCHEMA().inputs[1 + len(values) :]
            defaults = {entry.id: entry.default for entry in rest if hasattr(entry, "default")}
            return node.EXECUTE_NORMALIZED(model, *values, **defaults).result[0]
        return node().patch(model, *values)[0]

    return apply


def one_branch(
    model: Any,
    positive: Any,
    negative: Any,
    cfg: float,
    function: Callable[[Any, Tensor, Tensor], Tensor],
    latent: Tensor | None = None,
) -> Tensor:
    """A stock CFGGuider whose sampler is `function(denoise, x0, sigmas)`."""

    def sampler(denoiser: Any, x: Tensor, sigmas: Tensor, extra_args: Any, **_: Any) -> Tensor:
        def denoise(x: Tensor, sigma: float) -> Tensor:
            args = {**extra_args, "denoise_mask": None}
            return denoiser(x, x.new_full((x.shape[0],), float(sigma)), **args)

        return function(denoise, denoiser.latent_image, sigmas)

    latent = source_latent() if latent is None else latent
    return comfy.samplers.sample(
        model,
        torch.zeros_like(latent),
        positive,
        negative,
        cfg,
        model.load_device,
        comfy.samplers.KSAMPLER(sampler),
        lcm_sigmas(model, STEPS, 1.0),
        model.model_options,
        latent_image=latent,
        disable_pbar=True,
        seed=SEED,
    )


def edit_by_two_runs(
    model: Any,
    clip: Any,
    guidance: tuple[float, float],
    negative: str = "",
    conds: Any = None,
    target_model: Any = None,
    latent: Tensor | None = None,
    keep: Callable[[Tensor, Tensor], Tensor] = lambda x0, p: p,
) -> Tensor:
    """DDCM with eta 1 as two separate stock runs; correct while nothing couples the branches.

    conds: source, target and negative conditioning, when not those of the usual edits.
    target_model: the target run's model, when it is another than the source run's.
    keep: what becomes of the source latent and the predicted edit at each step, such as a mask.
    """
    edits, source_denoised = edits_of(), []
    source, target, text = conds or (
        side(clip, edits, "source"),
        side(clip, edits, "target"),
        plain(clip, negative),
    )

    def noises(x0: Tensor, sigmas: Tensor) -> list[Tensor]:
        noise = ItemNoise(SEED, x0.shape)
        return [noise.draw(x0) for _ in sigmas[:-1]]

    def run_source(denoise: Any, x0: Tensor, sigmas: Tensor) -> Tensor:
        for i, n in enumerate(noises(x0, sigmas)):
            x = n * (1 + sigmas[0] ** 2).sqrt() if i == 0 else x0 + sigmas[i] * n
            source_denoised.append(denoise(x, sigmas[i]))
        return x0

    def run_target(denoise: Any, x0: Tensor, sigmas: Tensor) -> Tensor:
        p = x0
        for i, n in enumerate(noises(x0, sigmas)):
            x = n * (1 + sigmas[0] ** 2).sqrt() if i == 0 else p + sigmas[i] * n
            p = keep(x0, x0 + denoise(x, sigmas[i]) - source_denoised[i])
        return p

    one_branch(model, source, text, guidance[0], run_source, latent)
    return one_branch(target_model or model, target, text, guidance[1], run_target, latent)
