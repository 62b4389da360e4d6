"""The settings that editors share which start from an inversion, and what they make of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, get_args

from ..inversion.stored import INVERSION_METHODS, TIME_STEPS, Schedule, TimeSteps
from .editor import (
    PromptText,
    RunSettings,
    SamplingPlan,
    Settings,
    Start,
    guidance_setting,
    setting,
    strength_setting,
)

STARTS: tuple[str, ...] = ("virtual", *INVERSION_METHODS)
SOURCE_GUIDANCE = (
    "CFG scale of the source branch; with edit-friendly, of the inversion. Not used with direct, "
    "which follows the stored latents."
)
SourcePrompt: TypeAlias = Literal["empty", "edits"]


def inversion_setting(default: Start, *, papers: Start = "DDIM", **shown: object) -> Start:
    """papers: the method that the paper uses."""
    ddim = "as in the paper" if papers == "DDIM" else "deterministic"
    null_text = "as in the paper, DDIM" if papers == "null-text" else "DDIM"
    return setting(
        default,
        "How the edit gets from the image to noise. virtual: without inversion, as in ALE "
        f"Edit. DDIM: {ddim}. direct: DDIM, and the source branch follows the image "
        "exactly. negative-prompt: DDIM, with the source prompt as the negative prompt. "
        f"null-text: {null_text}, then optimises a negative text for each step, which takes "
        "minutes. edit-friendly: DDPM with stored noise maps, and the source branch follows the "
        "image exactly. regularised: DDIM, and the noise is made more like white noise.",
        choices=STARTS,
        **shown,
    )


def time_steps_setting(default: TimeSteps, **shown: object) -> TimeSteps:
    return setting(
        default,
        "DDIM: evenly spaced, as in the paper. LCM: those of a latent consistency model. With "
        "LCM, 15 steps and guidance 1 and 2, the edit runs under the same conditions as ALE "
        "Edit.",
        choices=TIME_STEPS,
        **shown,
    )


def source_prompt_setting() -> SourcePrompt:
    return setting(
        "empty",
        "The prompt of the source branch. empty: no text, as in the paper for photographs. edits: "
        "the source phrases of the edits.",
        choices=get_args(SourcePrompt),
    )


@dataclass(frozen=True)
class SampledSettings(Settings):
    """Steps and guidance, by default those of the papers."""

    steps: int = setting(
        50, "Number of steps of the inversion and the edit.", min=1, max=1000, step=1
    )
    source_guidance: float = guidance_setting(
        7.5,
        SOURCE_GUIDANCE,
    )
    target_guidance: float = guidance_setting(7.5, "CFG scale of the edited branch.")
    strength: float = strength_setting(
        "Share of the steps to run, counted from the end. Below 1, the image is not inverted "
        "to pure noise and the edit stays closer to it."
    )


@dataclass(frozen=True)
class InvertedSettings(SampledSettings):
    """The same, and the inversion."""

    inversion_method: Start = inversion_setting("DDIM")
    time_steps: TimeSteps = time_steps_setting("DDIM")


class ChoosesInversion(RunSettings, Protocol):
    """Settings with an inversion to choose."""

    @property
    def inversion_method(self) -> Start: ...

    @property
    def time_steps(self) -> TimeSteps: ...


class DescribesSource(Protocol):
    """Settings with a source prompt to choose."""

    @property
    def source_prompt(self) -> SourcePrompt: ...


def source_text(settings: DescribesSource) -> PromptText:
    """The text of the source branch."""
    return "empty" if settings.source_prompt == "empty" else "source"


def plan_inversion(settings: ChoosesInversion, prompt: PromptText = "source") -> SamplingPlan:
    """Sampling by `inversion_method` and `time_steps`. prompt: what the image is inverted with."""
    schedule = Schedule(settings.steps, settings.strength, settings.time_steps)
    return SamplingPlan(settings.inversion_method, schedule, prompt)
