"""Maps of words of a prompt in an image: what Prompt-to-Prompt and its local blend see."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import latent_preview
import torch
from torch import Tensor

from ...attention.control import first_step
from ...attention.word_maps import WordRecorder
from ...inversion.stored import (
    Inversion,
    Schedule,
    is_prompt_of,
    require_same_latent,
    require_same_model,
)
from ...inversion.update_rule import ItemNoise, noise_image
from ...prompts.word_replacement import find_everywhere, split_words
from ..comfy_types import Options, StepCallback
from ..inverting.fingerprint import fingerprint_model
from ..messages import NodeName, name_node, speak_as
from ..sampling.branch_guider import Branch, BranchGuider
from ..sampling.branch_sampler import EDITED, BranchSampler, SamplerModel, predict_branches
from ..sampling.noise_levels import level_at
from ..sampling.schedule import sigmas_of
from ..text.embedding import encode_text, encode_whole, read_word
from .adapter import add_control
from .unet import require_cross_attention

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP

NODE = NodeName("Word Attention Maps")


def map_words(
    model: ModelPatcher,
    clip: CLIP,
    latent: Tensor,
    prompt: str,
    words: str,
    *,
    steps: int,
    first_share: float,
    last_share: float,
    seed: int,
    inversion: Inversion | None = None,
) -> tuple[list[str], Tensor]:
    """The words, and where each of them is in each image: (B, W, h, w) in [0, 1], on the grid of
    the maps.

    latent: (B, C, h, w), as a VAE encodes the image. words: those between commas; all of the prompt
        if empty. steps, first_share, last_share: how many evenly spaced time steps there are, and
        which of them count. seed: of the noise; item j has seed + j. inversion: of the image, whose
        steps and latents take the place of noise. The words that it learned, if any, have the maps
        of what was learned where this is its prompt.

    Raises ValueError for a word that is not in the prompt, shares that leave no step, and an
    inversion of another model or image.
    """
    require_cross_attention(model, NODE)
    with speak_as(NODE):
        conditioning, encoded = encode_whole(clip, prompt, "prompt")
        given = [word.strip() for word in words.replace("\n", ",").split(",")]
        names = [word for word in given if word] or list(dict.fromkeys(split_words(prompt)))
        rows = [find_everywhere(encoded.tokens, read_word(clip, name)) for name in names]
        for name, found in zip(names, rows, strict=True):
            if not found:
                raise ValueError(
                    f'{NODE}: the word "{name}" of words does not occur in prompt ("{prompt}"). '
                    "Write it as in the prompt."
                )
        schedule = Schedule(steps) if inversion is None else inversion.schedule
        sigmas = sigmas_of(model, schedule)
        count = len(sigmas) - 1
        visited = range(first_step(first_share, count), first_step(last_share, count))
        if not visited:
            raise ValueError(
                f"{NODE}: first_share {first_share:g} and last_share {last_share:g} of {count} "
                "steps leave none between them. Raise last_share, or lower first_share."
            )
        recorder = WordRecorder(rows, EDITED)
        patched = add_control(model, "ale_edit.word_maps", lambda *_: recorder, NODE)
        guider = BranchGuider(
            patched, (Branch(EDITED, conditioning),), encode_text(clip, ""), reuses_source=False
        )
        sampler = BranchSampler(
            _visit_steps, {"visited": visited, "inversion": inversion, "prompt": prompt}
        )
        guider.sample(
            torch.zeros_like(latent), latent, sampler, sigmas,
            callback=latent_preview.prepare_callback(model, count), seed=seed,
        )  # fmt: skip
    return names, recorder.shares().cpu()


def _visit_steps(
    model: SamplerModel,
    x: Tensor,
    sigmas: Tensor,
    extra_args: Options | None = None,
    callback: StepCallback | None = None,
    disable: bool | None = None,
    *,
    visited: range,
    inversion: Inversion | None,
    prompt: str,
) -> Tensor:
    """Evaluates the model on the image at some noise levels; each from the image itself."""
    guider = cast("BranchGuider", model.inner_model)
    learned = None
    extra_args = {**(extra_args or {})}
    extra_args.pop("denoise_mask", None)
    image = model.latent_image.to(x)
    if inversion is None:
        at = _noise_by_step(model, image, sigmas, extra_args.get("seed") or 0)
    else:
        with name_node(NODE):
            require_same_latent(inversion, x.shape)
            require_same_model(inversion, fingerprint_model(guider.model_patcher))
        at = inversion.latents.to(x).__getitem__
        learned = inversion.word_texts if is_prompt_of(inversion, prompt) else None
    for step in visited:
        latents = {EDITED: at(step)}
        if learned is not None:
            guider.replace_text(EDITED, learned[step])
        denoised = predict_branches(model, latents, sigmas[step], extra_args)[EDITED]
        if callback is not None:
            callback({"x": latents[EDITED], "i": step, "sigma": sigmas[step], "denoised": denoised})
    return image


def _noise_by_step(
    model: SamplerModel, image: Tensor, sigmas: Tensor, seed: int
) -> Callable[[int], Tensor]:
    """(step) -> the image with one noise at the step's level."""
    noise = ItemNoise(seed, image.shape).draw(image)
    sampling = model.inner_model.inner_model.model_sampling
    return lambda step: noise_image(image, noise, level_at(sampling, float(sigmas[step])))
