"""Free-Prompt-Editing: the target attends with the source's self-attention maps over its own
values, so that the edit keeps the source's layout.

Liu, Wang, Cao, Jia, Huang: Towards Understanding Cross and Self-Attention in Stable Diffusion for
Text-Guided Image Editing, CVPR 2024 (arXiv 2403.03431). It acts in the conditional half of guidance
alone, in the first steps, on grids of at most half the latent's side, and leaves cross-attention
alone. A photograph has the empty source prompt, and its branch follows the inverted latents.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..attention.control import Control, Layer, Reads, Route, Step, UncondReads, first_step
from .editor import SOURCE, TARGET, Editor, Start, share_setting
from .inverted import (
    InvertedSettings,
    SourcePrompt,
    inversion_setting,
    plan_inversion,
    source_prompt_setting,
    source_text,
)


@dataclass(frozen=True)
class FPESettings(InvertedSettings):
    """The defaults are the paper's."""

    inversion_method: Start = inversion_setting("direct")
    self_share: float = share_setting(
        0.8,
        "Share of the steps, from the first, in which the edit keeps the source's layout.",
        step=0.01,
    )
    source_prompt: SourcePrompt = source_prompt_setting()


class FPEControl(Control):
    """The source's self-attention maps for the target."""

    reads: Reads = {"target": frozenset(("source",))}
    uncond_reads: UncondReads = "nothing"

    def __init__(self, settings: FPESettings) -> None:
        self._settings = settings

    def is_active(self, step: Step) -> bool:
        return step.number < first_step(self._settings.self_share, step.count)

    def routes(self, layer: Layer, step: Step, is_cond: bool) -> Mapping[str, Route]:
        if not (is_cond and layer.is_half_or_coarser and self.is_active(step)):
            return {}
        return {"target": Route("source", "source", "target")}


EDITOR = Editor(
    name="fpe",
    title="Free-Prompt-Editing",
    node_id="ALEFPE",
    description=(
        "Changes objects, colours or style and keeps the layout of an image, without masks: "
        "in the first steps, the edit uses the source's self-attention maps. "
        "Free-Prompt-Editing (CVPR 2024, arXiv 2403.03431)."
    ),
    settings=FPESettings,
    make_control=lambda settings, inputs: FPEControl(settings),
    branches=lambda settings: (replace(SOURCE, text=source_text(settings)), TARGET),
    plan=lambda settings: plan_inversion(settings, source_text(settings)),
)
