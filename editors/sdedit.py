"""SDEdit: the image with noise added, denoised under the target prompt; no source, no control.

Meng, He, Song, Song, Wu, Zhu, Ermon: SDEdit: Guided Image Synthesis and Editing with Stochastic
Differential Equations, ICLR 2022 (arXiv 2108.01073). What is known as image to image, here by DDIM.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..inversion.stored import TIME_STEPS, Schedule, TimeSteps
from .editor import TARGET, Editor, SamplingPlan, Settings, guidance_setting, setting


@dataclass(frozen=True)
class SDEditSettings(Settings):
    """The defaults are those that later papers compare with."""

    steps: int = setting(50, "Number of steps at strength 1.", min=1, max=1000, step=1)
    target_guidance: float = guidance_setting(7.5, "CFG scale of the edit.")
    strength: float = setting(
        0.6,
        "Share of the steps to run, counted from the end. 0.5 keeps more of the image, 0.8 "
        "follows the prompt more, and 1 keeps nothing.",
        min=0.05,
        max=1.0,
        step=0.05,
    )
    time_steps: TimeSteps = setting(
        "DDIM",
        "DDIM: evenly spaced. LCM: those of a latent consistency model, as in ALE Edit.",
        choices=TIME_STEPS,
    )


EDITOR = Editor(
    name="sdedit",
    title="SDEdit",
    node_id="ALESDEdit",
    description=(
        "Adds noise to an image and denoises it with the target prompt: image-to-image, the "
        "simplest edit, as a baseline for the others. SDEdit (ICLR 2022, arXiv 2108.01073)."
    ),
    settings=SDEditSettings,
    branches=lambda settings: (TARGET,),
    plan=lambda settings: SamplingPlan(
        "noise", Schedule(settings.steps, settings.strength, settings.time_steps)
    ),
)
