"""What would give a wrong image is refused when a run starts, before any sampling.

Every error names the node whose input is wrong (`node`), the values found, and the cure.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import comfy.model_sampling
import torch
from torch import Tensor

from ..comfy_types import Cond, Options
from ..flow_families import find_family, find_text_width
from ..patching import WRAPPERS
from ..versions import CFG_OVERRIDE_MODULE, MAHIRO, MAHIRO_MODULE, SCALING_NODE
from .latents import pixels_per_cell

if TYPE_CHECKING:
    from comfy.latent_formats import LatentFormat
    from comfy.model_patcher import ModelPatcher
    from comfy.samplers import CFGGuider, Sampler

logger = logging.getLogger(__name__)

LARGE_PIXELS = 4_000_000
OTHER_SPACES = (
    comfy.model_sampling.CONST,
    comfy.model_sampling.COSMOS_RFLOW,
    comfy.model_sampling.IMG_TO_IMG,
)
TEXT_WIDTHS = {768: "SD 1.5", 1024: "SD 2", 1280: "SDXL's refiner", 2048: "SDXL"}


def require_branches(guider: CFGGuider, names: Sequence[str], node: str) -> None:
    """Raises ValueError when a run lacks one of these branches."""
    missing = [name for name in names if name not in getattr(guider, "branch_names", ())]
    if missing:
        raise ValueError(
            f"{node} needs a {missing[0]} branch, but this run has none: the model went into a "
            f"{type(guider).__name__}. Use Two-Branch Guider with SamplerCustomAdvanced, or "
            f"bypass {node}."
        )


def require_branch_sampler(sampler: Sampler, node: str) -> None:
    """Raises ValueError when a sampler does not run all branches."""
    if not getattr(sampler, "runs_branches", False):
        function = getattr(sampler, "sampler_function", None)
        name = getattr(function, "__name__", type(sampler).__name__)
        raise ValueError(
            f"{node} needs a sampler that runs both branches, but the sampler input of this run "
            f"is {name}. Connect Virtual Inversion."
        )


def require_sigmas(sigmas: Tensor, node: str) -> None:
    """Raises ValueError when a schedule has no step, does not fall, or does not end at 0."""
    if len(sigmas) < 2:
        raise ValueError(
            f"{node}: the sigmas input of this run has no step. Connect LCM Schedule with 1 or "
            "more steps."
        )
    is_falling = bool(torch.isfinite(sigmas).all() and (sigmas[1:] < sigmas[:-1]).all())
    if not is_falling or float(sigmas[-1]) != 0:
        values = ", ".join(f"{value:.4g}" for value in sigmas.tolist())
        raise ValueError(
            f"{node}: the sigmas of this run must fall at every step and end at 0; they are "
            f"{values}. Connect LCM Schedule."
        )


def require_noise_space(model: ModelPatcher, node: str) -> None:
    """Raises ValueError when a model's latents are not an image plus sigma times noise."""
    sampling = model.get_model_object("model_sampling")
    if isinstance(sampling, OTHER_SPACES):
        raise ValueError(
            f"{node}: the model input samples by flow matching or from image to image (set by its "
            "checkpoint, or by a node such as ModelSamplingSD3); virtual inversion needs a model "
            "that predicts noise, v or x0. Remove that node, or connect a checkpoint of SD 1.5, "
            "SD 2 or SDXL."
        )


def require_latent(latent: Tensor, model: ModelPatcher, node: str) -> None:
    """Raises ValueError when a latent is empty, not finite, or not of the model's shape."""
    latent_format = cast("LatentFormat", model.get_model_object("latent_format"))
    channels = latent_format.latent_channels
    frames = ["1 frame"] * (latent_format.latent_dimensions - 2)
    if latent.ndim != 4 + len(frames) or latent.shape[1] != channels:
        shape = ", ".join(["batch", f"{channels}", *frames, "height", "width"])
        raise ValueError(
            f"{node}: the latent of this run has the shape {tuple(latent.shape)}; the model needs "
            f"({shape}). Encode the source image with the VAE of the same checkpoint."
        )
    if frames and latent.shape[2] != 1:
        raise ValueError(
            f"{node}: the latent of this run holds {latent.shape[2]} frames, since this VAE takes "
            "a batch of images for a clip. Encode the images one by one and edit each, or join "
            "their latents with Latent Batch."
        )
    if not bool(torch.isfinite(latent).all()):
        raise ValueError(
            f"{node}: the latent of this run holds NaN or infinite values. Encode the source "
            "image again, in fp32 if needed."
        )
    if not bool(latent.any()):
        raise ValueError(
            f"{node}: the latent of this run is empty, there is no image to edit. Connect VAE "
            "Encode of the source image instead of Empty Latent Image."
        )


def require_area(name: str, cond: Cond, latent: Tensor, node: str) -> None:
    """Raises ValueError when the area of the text of input `name` begins beyond the image."""
    area = cond.get("area")
    if not area or area[0] == "percentage":
        return
    sides = len(area) // 2
    size = latent.shape[-sides:]
    if any(start >= side for start, side in zip(area[sides:], size, strict=False)):
        raise ValueError(
            f"{node}: the area of the {name} input begins at {tuple(area[sides:])}, the latent of "
            f"this run is {tuple(size)} (height, width, in cells). Set x and y of Conditioning "
            "(Set Area) to a place in the image."
        )


def require_finite(samples: Tensor, node: str) -> None:
    """Raises ValueError when a run ended with NaN or infinite values, which would be a black
    image."""
    if not bool(torch.isfinite(samples).all()):
        raise ValueError(
            f"{node}: this run ended with NaN or infinite values, which make no image. Start "
            "ComfyUI with --force-fp32, or remove the weight of a word, the LoRA or the mask that "
            "the model cannot bear."
        )


def require_finite_steps(latents: Tensor, node: str) -> None:
    """Raises ValueError, with the step, when an inversion gave NaN or infinite values. latents: of
    shape (N + 1, ...), before its first step and after each."""
    is_finite = torch.isfinite(latents).flatten(1).all(1)
    if bool(is_finite.all()):
        return
    step = int(is_finite.long().argmin())
    raise ValueError(
        f"{node}: step {step} of {len(latents) - 1} of the inversion gave NaN or infinite values. "
        "Start ComfyUI with --force-fp32, or remove the weight of a word or the LoRA that the "
        "model cannot bear."
    )


def advise_size(latent: Tensor, model: ModelPatcher, node: str) -> None:
    """Says once what a latent of more than LARGE_PIXELS pixels costs, and what to do instead."""
    cell = pixels_per_cell(model)
    height, width = (cell * n for n in latent.shape[-2:])
    if height * width <= LARGE_PIXELS:
        return
    needed = model.model.memory_required([2 * latent.shape[0], *latent.shape[1:]])
    logger.warning(
        "%s: the latent of this run stands for %dx%d pixels (height x width, %.0f megapixels), "
        "many times the size that these models were made for; a model call of both branches needs "
        "about %.0f GB by ComfyUI's estimate. Scale the image to 0.3 to 1 megapixel first, with "
        "%s.",
        str(node),
        height,
        width,
        height * width / 1e6,
        needed / 1024**3,
        SCALING_NODE,
    )


def require_text_width(name: str, cond: Cond, model: ModelPatcher, node: str) -> None:
    """Raises ValueError when the conditioning of input `name` is another text encoder's."""
    expected = find_text_width(model)
    if find_family(model) is None:
        expected = model.model.model_config.unet_config.get("context_dim")
    if expected is not None:
        require_width(name, cond["cross_attn"].shape[-1], expected, node)


def require_width(name: str, width: int, expected: int, node: str) -> None:
    """Raises ValueError when a text of `width` channels a token meets a model of another width.

    name: the input of `node` that the text comes from.
    """
    if width != expected:
        raise ValueError(
            f"{node}: the text of the {name} input has {_width(width)} channels a token, the model "
            f"expects {_width(expected)}; it was made with another text encoder. Connect the CLIP "
            "output of the same checkpoint."
        )


def _width(width: int) -> str:
    return f"{width} ({TEXT_WIDTHS[width]})" if width in TEXT_WIDTHS else str(width)


def require_whole_rows(model_options: Options, node: str) -> None:
    """Raises ValueError for nodes that average over the rows of a batch or window it, where it
    holds both branches."""
    if model_options.get("context_handler") is not None:
        raise ValueError(
            f"{node}: the model went through Context Windows, which would cut the batch of source "
            "and edit into windows. Remove Context Windows."
        )
    patches = model_options.get("sampler_post_cfg_function", [])
    if any(_is_of(MAHIRO_MODULE, patch) for patch in patches):
        raise ValueError(
            f"{node}: the model went through {MAHIRO}, whose guidance averages over all images of "
            "a batch and so would mix source and edit. Remove Mahiro."
        )


def require_own_guidance(model: ModelPatcher, node: str) -> None:
    """Raises ValueError where another node sets the one guidance of a stock guider, which a guider
    with one for each branch would not follow."""
    wrappers = model.wrappers.get(WRAPPERS.PREDICT_NOISE, {}).values()
    if any(_is_of(CFG_OVERRIDE_MODULE, wrapper) for each in wrappers for wrapper in each):
        raise ValueError(
            f"{node}: the model went through CFG Override, which sets one guidance for all, but "
            "source and target have one each here. Remove CFG Override, and set source_guidance "
            "and target_guidance."
        )


def _is_of(module: str, function: object) -> bool:
    return str(getattr(function, "__module__", "")).endswith(module)
