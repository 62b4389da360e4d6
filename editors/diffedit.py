"""DiffEdit: a mask of where the source and the target prompt disagree, and an edit inside it.

Couairon, Verbeek, Schwenk, Cord: DiffEdit: Diffusion-based Semantic Image Editing with Mask
Guidance, ICLR 2023 (arXiv 2210.11427). The image is inverted by DDIM without a prompt and denoised
under the target prompt; after each step, it is the inverted image outside the mask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..attention.control import IMAGE, Control, Step
from ..inversion.blending import blend
from ..inversion.stored import TIME_STEPS, Schedule, TimeSteps
from ..regions.grid import find_mask_cells
from ..regions.regions import Regions
from .editor import (
    TARGET,
    ControlInputs,
    Editor,
    SamplingPlan,
    Settings,
    guidance_setting,
    setting,
    share_setting,
    strength_setting,
)
from .inverted import SourcePrompt, source_text

MASK_STEPS = 50
"""Steps of the schedule that the strength of a mask counts in, whatever those of the edit are."""


def maps_setting() -> int:
    return setting(
        10,
        "Number of noises with which the prompts are compared. More: a cleaner mask, and more time "
        "to find it.",
        min=1,
        max=100,
        step=1,
    )


def mask_strength_setting() -> float:
    return strength_setting(
        "How much noise the image gets for the comparison, as a share of the steps. Lower: nearer "
        "to the outlines of the image. Higher: larger shapes.",
        0.5,
    )


def mask_threshold_setting() -> float:
    return share_setting(
        0.5,
        "How much the prompts must disagree at a place, relative to the clamp. Lower: a larger "
        "mask.",
    )


def clamp_setting() -> float:
    return setting(
        3.0,
        "The largest disagreement that counts, as a multiple of the mean over the image. Lower: a "
        "larger mask.",
        min=0.1,
        max=20.0,
        step=0.1,
    )


@dataclass(frozen=True)
class MaskSettings(Settings):
    """How a mask is found. The defaults are the paper's."""

    maps: int = maps_setting()
    strength: float = mask_strength_setting()
    threshold: float = mask_threshold_setting()
    clamp: float = clamp_setting()

    @property
    def schedule(self) -> Schedule:
        """Its first step has the noise level of the comparison."""
        return Schedule(MASK_STEPS, self.strength)


@dataclass(frozen=True)
class DiffEditSettings(Settings):
    """The defaults are the paper's."""

    steps: int = setting(
        50, "Number of steps of the inversion and the edit at strength 1.", min=1, max=1000, step=1
    )
    target_guidance: float = guidance_setting(7.5, "CFG scale of the edit.")
    strength: float = strength_setting(
        "Share of the steps to invert and to edit. Lower: the edit keeps more of what is inside "
        "the mask.",
        0.8,
    )
    time_steps: TimeSteps = setting(
        "DDIM",
        "DDIM: evenly spaced, as in the paper. LCM: those of a latent consistency model, as in ALE "
        "Edit.",
        choices=TIME_STEPS,
    )
    source_prompt: SourcePrompt = setting(
        "empty",
        "The prompt of the inversion. empty: no text, as in the paper. edits: the source phrases "
        "of the edits.",
        choices=("empty", "edits"),
    )
    mask_maps: int = maps_setting()
    mask_strength: float = mask_strength_setting()
    mask_threshold: float = mask_threshold_setting()
    mask_clamp: float = clamp_setting()

    @property
    def mask(self) -> MaskSettings:
        return MaskSettings(
            self.mask_maps, self.mask_strength, self.mask_threshold, self.mask_clamp
        )


# -- the mask --------------------------------------------------------------------------------------


def add_disagreement(total: Tensor | float, source: Tensor, target: Tensor) -> Tensor:
    """What a noise adds to the disagreement (B, h, w) of two predictions (B, C, h, w)."""
    return total + (target - source).abs().mean(1)


def clamp_disagreement(disagreement: Tensor, clamp: float) -> Tensor:
    """(B, h, w) in [0, 1]: the disagreement of each image as a share of `clamp` times its mean.

    Guidance, and the noise level, multiply the disagreement everywhere alike and so cancel out.

    Raises ValueError where there is none.
    """
    limit = clamp * disagreement.mean((-1, -2), keepdim=True)
    if not bool((limit > 0).all()):
        raise ValueError("the predictions under both prompts are the same everywhere")
    return (disagreement / limit).clamp(max=1)


def cut_mask(shares: Tensor, threshold: float) -> Tensor:
    """(B, h, w) bool: where the clamped disagreement is above a threshold.

    Raises ValueError when it is so nowhere.
    """
    mask = shares > threshold
    if not bool(mask.flatten(1).any(1).all()):
        most = float(shares.flatten(1).amax(1).min())
        raise ValueError(
            f"no place is above threshold {threshold:g}, because the prompts disagree by at most "
            f"{most:.2f} of the clamp; the mask is empty."
        )
    return mask


# -- the edit --------------------------------------------------------------------------------------


class DiffEditControl(Control):
    """Keeps the image outside the regions of a run. cell: pixels along each side of a latent
    cell."""

    def __init__(self, regions: Regions, cell: int) -> None:
        self._regions, self._cell = regions, cell
        self._backgrounds: dict[object, Tensor] = {}

    def blend_latents(self, latents: Mapping[str, Tensor], step: Step) -> Mapping[str, Tensor]:
        """The target is the inverted image outside the mask; after the last step, the image."""
        target = latents["target"]
        return {**latents, "target": blend(latents[IMAGE], target, self._background(target))}

    def _background(self, latent: Tensor) -> Tensor:
        """(1 or B, 1, h, w) bool."""
        height, width = latent.shape[-2:]
        key = height, width, latent.device
        if key not in self._backgrounds:
            images = [one.dilated for one in self._regions.images]
            is_touched = find_mask_cells(images, (height, width), self._cell, latent.device)
            self._backgrounds[key] = ~is_touched
        return self._backgrounds[key]


def diffedit_control(settings: DiffEditSettings, inputs: ControlInputs) -> DiffEditControl:
    """The control of one run.

    Raises ValueError when no place to edit was found or given, and for a target prompt without
    words.
    """
    if not inputs.target.tokens.words:
        raise ValueError(
            f'the target prompt ("{inputs.target.text}") has no word. Write what the image is to '
            "show."
        )
    if inputs.regions is None:
        raise ValueError("there is no mask to edit in")
    return DiffEditControl(inputs.regions, inputs.cell)


EDITOR = Editor(
    name="diffedit",
    title="DiffEdit",
    node_id="ALEDiffEdit",
    description=(
        "Finds where the source and the target prompt disagree, and edits only there, from a DDIM "
        "inversion of the image. Masks of the edits replace the mask that it finds. DiffEdit (ICLR "
        "2023, arXiv 2210.11427)."
    ),
    settings=DiffEditSettings,
    make_control=diffedit_control,
    branches=lambda settings: (TARGET,),
    plan=lambda settings: SamplingPlan(
        "DDIM",
        Schedule(settings.steps, settings.strength, settings.time_steps),
        source_text(settings),
    ),
    find_mask=lambda settings: settings.mask,
)
