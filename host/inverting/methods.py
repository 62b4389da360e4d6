"""Every inversion by its name."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import latent_preview
from torch import Tensor

from ...inversion.ddim import Convention
from ...inversion.null_text import NullTextSettings
from ...inversion.stored import BY_MAPS, Inversion, InversionMethod, Schedule
from ..comfy_types import Conditioning, RunCallback
from ..messages import tell
from ..sampling.schedule import sigmas_of
from .edit_friendly import invert_edit_friendly
from .invert import NODE, invert_image
from .null_text import add_null_texts

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher


def invert_by(
    method: InversionMethod,
    model: ModelPatcher,
    conditioning: Conditioning,
    latent: Tensor,
    schedule: Schedule,
    prompt: str,
    *,
    negative: Conditioning,
    guidance: float = 7.5,
    convention: Convention = "published code",
    seed: int = 0,
    callback: RunCallback | None = None,
) -> Inversion:
    """The inversion of a latent (B, C, h, w) as a VAE encodes it.

    conditioning: of the prompt. negative, guidance: of the edit, for null-text inversion; of the
        inversion itself, for those by noise maps. seed: of their noises, and of what regularises
        noise. callback: called after each step; by default it shows the progress on the running
        node.

    Null-text inversion at guidance 1 is DDIM inversion, with a notice: no text changes anything.
    """
    if method == "null-text" and math.isclose(guidance, 1.0):
        tell(
            f"{NODE}: null-text inversion at guidance 1 has nothing to optimise, as the negative "
            "text has no effect there. DDIM inversion was used instead. Set guidance (in an "
            "editor, target_guidance) above 1, or choose DDIM."
        )
        method = "DDIM"
    if callback is None:
        steps = len(sigmas_of(model, schedule)) - 1
        callback = latent_preview.prepare_callback(model, steps)
    if method in BY_MAPS:
        return invert_edit_friendly(
            model, conditioning, latent, schedule, prompt, method=method,
            negative=negative, guidance=guidance, seed=seed, callback=callback,
        )  # fmt: skip
    inversion = invert_image(
        model,
        conditioning,
        latent,
        schedule,
        prompt,
        method=method,
        convention=convention,
        seed=seed,
        callback=callback,
    )
    if method == "null-text":
        settings = NullTextSettings(guidance=guidance)
        return add_null_texts(inversion, model, conditioning, negative, latent, settings, callback)
    return inversion
