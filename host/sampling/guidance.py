"""Calls of a model for conditional and unconditional rows, and their guidance, with every patch of
other nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import comfy.samplers
from torch import Tensor

from ..attention.rows import add_latent
from ..comfy_types import Cond, Options
from ..patching import WRAPPERS
from .branch_order import runs_cond_first

if TYPE_CHECKING:
    from comfy.model_base import BaseModel


def call_model(
    model: BaseModel,
    conds: list[list[Cond] | None],
    x: Tensor,
    timestep: Tensor,
    model_options: Options,
    node: str,
) -> list[Tensor]:
    """Denoised predictions (rows, C, h, w), one for each list of conditioning entries.

    node: to name in errors.
    """
    options = add_latent(model_options, x, node)
    if "sampler_calc_cond_batch_function" in options:
        args = {
            "conds": conds,
            "input": x,
            "sigma": timestep,
            "model": model,
            "model_options": options,
        }
        return options["sampler_calc_cond_batch_function"](args)
    return comfy.samplers.calc_cond_batch(
        model, cast("list[list[dict]]", conds), x, timestep, options
    )


def call_halves(
    model: BaseModel,
    conds: list[list[Cond] | None],
    x: Tensor,
    timestep: Tensor,
    model_options: Options,
    node: str,
) -> list[Tensor]:
    """Predictions for the positive and the negative entries: by one call, which ComfyUI may split
    in any order, unless the positive ones must run first."""
    if not runs_cond_first(model_options):
        return call_model(model, conds, x, timestep, model_options, node)
    positive, negative = conds
    cond, _ = call_model(model, [positive, None], x, timestep, model_options, node)
    _, uncond = call_model(model, [None, negative], x, timestep, model_options, node)
    return [cond, uncond]


def guide(
    model: BaseModel,
    conds: Sequence[list[Cond]],
    outs: Sequence[Tensor],
    scale: float,
    x: Tensor,
    timestep: Tensor,
    model_options: Options,
) -> Tensor:
    """Classifier-free guidance of all rows at one scale, with every guidance patch on the model.

    conds: the positive and the negative entries. outs: their predictions (rows, C, h, w).
    """
    positive, negative = conds
    out = list(outs)
    for patch in model_options.get("sampler_pre_cfg_function", []):
        out = patch(
            {
                "conds": [positive, negative],
                "conds_out": out,
                "cond_scale": scale,
                "timestep": timestep,
                "input": x,
                "sigma": timestep,
                "model": model,
                "model_options": model_options,
            }
        )
    return comfy.samplers.cfg_function(
        model,
        out[0],
        out[1],
        scale,
        x,
        timestep,
        model_options=model_options,
        cond=positive,
        uncond=negative,
    )


def keeps_rows(model_options: Options, positive: Sequence[Cond]) -> bool:
    """Whether a control or a wrapper of another node may expect as many rows in each call."""
    wrappers = model_options["transformer_options"].get("wrappers", {})
    kinds = (WRAPPERS.CALC_COND_BATCH, WRAPPERS.DIFFUSION_MODEL)
    return (
        "model_function_wrapper" in model_options
        or any(wrappers.get(kind) for kind in kinds)
        or any("control" in cond for cond in positive)
    )
