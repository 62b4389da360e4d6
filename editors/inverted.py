"""The settings that editors share which start from an inversion, and what they make of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from ..inversion.stored import INVERSION_METHODS, TIME_STEPS, Schedule, TimeSteps
from .editor import BranchText, SamplingPlan, Start, setting

STARTS: tuple[str, ...] = ("virtual", *INVERSION_METHODS)
SourcePrompt: TypeAlias = Literal["empty", "edits"]
SOURCE_PROMPTS: tuple[str, ...] = get_args(SourcePrompt)

INVERSION_TOOLTIP = (
    "How the edit gets from the image to noise. virtual: without an inversion, as ALE Edit. DDIM: "
    "as the paper. direct: DDIM, and the source branch follows the image exactly. negative-prompt: "
    "DDIM, with the source prompt as the negative one. null-text: DDIM, then a negative text for "
    "each step is optimised, which takes minutes. edit-friendly DDPM: noise for each step."
)
TIME_STEPS_TOOLTIP = (
    "DDIM: evenly spaced, as the paper. LCM: those of a latent consistency model; with 15 steps, "
    "guidance 1 and 2, the edit stands on ALE Edit's ground."
)
SOURCE_PROMPT_TOOLTIP = (
    "What the source branch is described with: nothing, as the paper does with photographs, or the "
    "source phrases of the edits."
)


@dataclass(frozen=True)
class InvertedSettings:
    """Steps, guidance and inversion, by default those of the papers."""

    steps: int = setting(50, "Steps of the inversion and of the edit.", min=1, max=1000, step=1)
    source_guidance: float = setting(
        7.5,
        "Guidance of the source branch. Not used by direct inversion, which knows the source.",
        min=0.0,
        max=30.0,
        step=0.1,
    )
    target_guidance: float = setting(
        7.5, "Guidance of the edited branch.", min=0.0, max=30.0, step=0.1
    )
    strength: float = setting(
        1.0,
        "Share of the steps that runs, from the last. Below 1 the image is not inverted to pure "
        "noise and the edit stays closer to it.",
        min=0.05,
        max=1.0,
        step=0.05,
    )
    inversion_method: Start = setting("DDIM", INVERSION_TOOLTIP, choices=STARTS)
    time_steps: TimeSteps = setting("DDIM", TIME_STEPS_TOOLTIP, choices=TIME_STEPS)

    def __post_init__(self) -> None:
        require_choices(self, inversion_method=STARTS, time_steps=TIME_STEPS)


def source_text(settings: Any) -> BranchText:
    """The text of the source branch, by `source_prompt`."""
    return "empty" if settings.source_prompt == "empty" else "source"


def require_choices(settings: Any, **choices: tuple[str, ...]) -> None:
    """Raises ValueError when a setting is none of its choices."""
    for name, known in choices.items():
        value = getattr(settings, name)
        if value not in known:
            raise ValueError(f'{name} is "{value}". Choose one of {", ".join(known)}.')


def plan_inversion(settings: Any, prompt: BranchText = "source") -> SamplingPlan:
    """Sampling by `inversion_method` and `time_steps`. prompt: what the image is inverted with."""
    schedule = Schedule(settings.steps, settings.strength, settings.time_steps)
    return SamplingPlan(settings.inversion_method, schedule, prompt)
