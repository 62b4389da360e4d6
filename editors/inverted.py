"""The settings that editors share which start from an inversion, and what they make of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from ..inversion.stored import INVERSION_METHODS, TIME_STEPS, Schedule, TimeSteps
from .editor import (
    BranchText,
    RunSettings,
    SamplingPlan,
    Settings,
    Start,
    guidance_setting,
    setting,
    strength_setting,
)

STARTS: tuple[str, ...] = ("virtual", *INVERSION_METHODS)


def inversion_setting(default: Start, **shown: object) -> Start:
    return setting(
        default,
        "How the edit gets from the image to noise. virtual: without an inversion, as ALE Edit. "
        "DDIM: as the paper. direct: DDIM, and the source branch follows the image exactly. "
        "negative-prompt: DDIM, with the source prompt as the negative one. null-text: DDIM, then "
        "a negative text for each step is optimised, which takes minutes. edit-friendly DDPM: "
        "noise for each step.",
        choices=STARTS,
        **shown,
    )


def time_steps_setting(default: TimeSteps, **shown: object) -> TimeSteps:
    return setting(
        default,
        "DDIM: evenly spaced, as the paper. LCM: those of a latent consistency model; with 15 "
        "steps, guidance 1 and 2, the edit stands on ALE Edit's ground.",
        choices=TIME_STEPS,
        **shown,
    )


@dataclass(frozen=True)
class InvertedSettings(Settings):
    """Steps, guidance and inversion, by default those of the papers."""

    steps: int = setting(50, "Steps of the inversion and of the edit.", min=1, max=1000, step=1)
    source_guidance: float = guidance_setting(
        7.5, "Guidance of the source branch. Not used by direct inversion, which knows the source."
    )
    target_guidance: float = guidance_setting(7.5, "Guidance of the edited branch.")
    strength: float = strength_setting(
        "Share of the steps that runs, from the last. Below 1 the image is not inverted to pure "
        "noise and the edit stays closer to it."
    )
    inversion_method: Start = inversion_setting("DDIM")
    time_steps: TimeSteps = time_steps_setting("DDIM")


class ChoosesInversion(RunSettings, Protocol):
    """Settings with an inversion to choose."""

    @property
    def inversion_method(self) -> Start: ...

    @property
    def time_steps(self) -> TimeSteps: ...


def plan_inversion(settings: ChoosesInversion, prompt: BranchText = "source") -> SamplingPlan:
    """Sampling by `inversion_method` and `time_steps`. prompt: what the image is inverted with."""
    schedule = Schedule(settings.steps, settings.strength, settings.time_steps)
    return SamplingPlan(settings.inversion_method, schedule, prompt)
