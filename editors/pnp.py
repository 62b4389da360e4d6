"""Plug-and-Play: the target takes the source's queries and keys in the decoder, and the features of
one of its ResBlocks, so that it keeps the source's structure.

Tumanyan, Geyer, Bagon, Dekel: Plug-and-Play Diffusion Features for Text-Driven Image-to-Image
Translation, CVPR 2023 (arXiv 2211.12572). Both halves of guidance of the target read the one row of
the source, whose prompt is empty and whose latents are those of the inversion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..attention.control import Control, Layer, Reads, Route, Step, first_step
from .editor import BranchPlan, Editor, Start, setting
from .inverted import INVERSION_TOOLTIP, STARTS, InvertedSettings, plan_inversion

NEGATIVE = "ugly, blurry, black, low res, unrealistic"
FIRST_STAGE = 1
"""The first decoder block with attention keeps its own; the second one's ResBlock gives the
features. On SD 1.5 these are output blocks 3 and 4."""


@dataclass(frozen=True)
class PnPSettings(InvertedSettings):
    """The defaults are the paper's, with an inversion of as many steps as the edit has."""

    source_guidance: float = setting(
        1.0,
        "Guidance of the source branch. Not used by direct inversion, which knows the source.",
        min=0.0,
        max=30.0,
        step=0.1,
    )
    inversion_method: Start = setting("direct", INVERSION_TOOLTIP, choices=STARTS)
    self_share: float = setting(
        0.5,
        "Share of the steps, from the first, in which the edit takes the source's queries and keys "
        "in the decoder's self-attention.",
        min=0.0,
        max=1.0,
        step=0.01,
    )
    feature_share: float = setting(
        0.8,
        "Share of the steps, from the first, in which the edit takes the source's features.",
        min=0.0,
        max=1.0,
        step=0.01,
    )


class PnPControl(Control):
    """The source's queries, keys and features for the target."""

    reads: Reads = {"target": frozenset(("source",))}

    def __init__(self, settings: PnPSettings) -> None:
        self._self_share = settings.self_share
        self._feature_share = settings.feature_share
        self._share = max(self._self_share, self._feature_share)
        self.reads_cond: bool = self._share > 0

    def is_active(self, step: Step) -> bool:
        return is_within(self._share, step)

    def routes(self, layer: Layer, step: Step, is_cond: bool) -> Mapping[str, Route]:
        if not (layer.is_decoder and layer.stage >= FIRST_STAGE):
            return {}
        if not is_within(self._self_share, step):
            return {}
        return {"target": Route("source", "source", "target")}

    def features(self, layer: Layer, step: Step, is_cond: bool) -> Mapping[str, str]:
        if not (layer.is_decoder and layer.stage == FIRST_STAGE):
            return {}
        return {"target": "source"} if is_within(self._feature_share, step) else {}


def is_within(share: float, step: Step) -> bool:
    """Whether a step is among this share of the steps, from the first."""
    return step.number < first_step(share, step.count)


EDITOR = Editor(
    name="pnp",
    title="Plug-and-Play",
    node_id="ALEPnP",
    description=(
        "Changes the look of an image and keeps its structure, without masks: the edit takes "
        "queries, keys and features of the source. Plug-and-Play (CVPR 2023, arXiv 2211.12572)."
    ),
    settings=PnPSettings,
    branches=lambda settings: (
        BranchPlan("source", "empty", "source_guidance"),
        BranchPlan("target", "target", "target_guidance"),
    ),
    make_control=lambda settings, task: PnPControl(settings),
    plan=lambda settings: plan_inversion(settings, "empty"),
    negative=NEGATIVE,
)
