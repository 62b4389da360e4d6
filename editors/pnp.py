"""Plug-and-Play: the target takes the source's queries and keys in the decoder, and the features of
one of its ResBlocks, so that it keeps the source's structure.

Tumanyan, Geyer, Bagon, Dekel: Plug-and-Play Diffusion Features for Text-Driven Image-to-Image
Translation, CVPR 2023 (arXiv 2211.12572). Both halves of guidance of the target read the one row of
the source, whose prompt is empty and whose latents are those of the inversion.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..attention.control import Control, Layer, Reads, Route, Step, UncondReads, first_step
from .editor import SOURCE, TARGET, Editor, Start, guidance_setting, share_setting
from .inverted import SOURCE_GUIDANCE, InvertedSettings, inversion_setting, plan_inversion

NEGATIVE = "ugly, blurry, black, low res, unrealistic"
FIRST_STAGE = 1
"""The first decoder block with attention keeps its own; the second one's ResBlock gives the
features. On SD 1.5 these are output blocks 3 and 4."""


@dataclass(frozen=True)
class PnPSettings(InvertedSettings):
    """The defaults are the paper's, with an inversion of as many steps as the edit has."""

    source_guidance: float = guidance_setting(
        1.0,
        SOURCE_GUIDANCE,
    )
    inversion_method: Start = inversion_setting("direct")
    self_share: float = share_setting(
        0.5,
        "Share of the steps, from the first, in which the edit uses the source's queries and "
        "keys in the decoder's self-attention.",
        step=0.01,
    )
    feature_share: float = share_setting(
        0.8,
        "Share of the steps, from the first, in which the edit uses the source's features.",
        step=0.01,
    )


class PnPControl(Control):
    """The source's queries, keys and features for the target."""

    reads: Reads = {"target": frozenset(("source",))}

    def __init__(self, settings: PnPSettings) -> None:
        self._self_share = settings.self_share
        self._feature_share = settings.feature_share
        self._share = max(self._self_share, self._feature_share)
        self.uncond_reads: UncondReads = "cond" if self._share > 0 else "uncond"

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
        "Changes the look of an image and keeps its structure, without masks: the edit uses "
        "the source's queries, keys and features. Plug-and-Play (CVPR 2023, arXiv "
        "2211.12572)."
    ),
    settings=PnPSettings,
    make_control=lambda settings, inputs: PnPControl(settings),
    branches=lambda settings: (replace(SOURCE, text="empty"), TARGET),
    plan=lambda settings: plan_inversion(settings, "empty"),
    negative=NEGATIVE,
)
