"""MasaCtrl: the target attends with its own queries over the source's keys and values, so that a
changed pose or view keeps the look of the source.

Cao, Wang, Qi, Shan, Qie, Zheng: MasaCtrl: Tuning-Free Mutual Self-Attention Control for Consistent
Image Synthesis and Editing, ICCV 2023 (arXiv 2304.08465). It acts from a step and from a layer on,
in both halves of guidance, and leaves cross-attention alone. The paper inverts the image by DDIM;
here it runs on virtual inversion (inversion/update_rule.py) as well, by default.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from ..attention.control import (
    Call,
    Control,
    Layer,
    LayerKind,
    Reads,
    Route,
    Step,
    first_layer,
    first_step,
)
from ..inversion.stored import TimeSteps
from .editor import (
    SOURCE,
    TARGET,
    ControlInputs,
    Editor,
    Settings,
    Start,
    guidance_setting,
    setting,
    share_setting,
    steps_setting,
    strength_setting,
    target_guidance_setting,
)
from .inverted import (
    SourcePrompt,
    inversion_setting,
    plan_inversion,
    source_prompt_setting,
    source_text,
    time_steps_setting,
)

Keys: TypeAlias = Literal["source", "union"]

BY_SHARE = -1


@dataclass(frozen=True)
class MasaCtrlSettings(Settings):
    """The shares are the paper's numbers for SD 1.5, layer 10 of 16 and step 4 of 50. Steps and
    guidance are those of latent consistency models, with which ALE-Edit's paper compares; PAPER has
    MasaCtrl's own."""

    steps: int = steps_setting("Number of steps.")
    source_guidance: float = guidance_setting(
        1.0,
        "CFG scale of the source branch. 1 turns guidance off, which preserves the image best.",
    )
    target_guidance: float = target_guidance_setting()
    start_step_share: float = share_setting(
        4 / 50,
        "Share of the steps, from the first, in which the edit is free to find its layout. After "
        "that, it takes its look from the source.",
        step=0.01,
    )
    start_layer_share: float = share_setting(
        10 / 16,
        "Share of the self-attention layers, from the first, that are left unchanged. The others "
        "take the look of the source.",
        step=0.005,
    )
    start_layer: int = setting(
        BY_SHARE,
        "The first self-attention layer, counted from 0, that takes the look of the source. -1: "
        "use start_layer_share.",
        min=BY_SHARE,
        max=1000,
        step=1,
    )
    strength: float = strength_setting()
    source_prompt: SourcePrompt = source_prompt_setting()
    inversion_method: Start = inversion_setting("virtual", later=True)
    time_steps: TimeSteps = time_steps_setting("LCM", later=True)
    keys: Keys = setting(
        "source",
        "Where the edit takes its look from: the source alone, as in the paper, or source and "
        "edit together (union), which changes more.",
        choices=get_args(Keys),
        later=True,
    )


PAPER = MasaCtrlSettings(
    steps=50,
    source_guidance=7.5,
    target_guidance=7.5,
    inversion_method="DDIM",
    time_steps="DDIM",
)


class MasaCtrlControl(Control):
    """Mutual self-attention control of one run."""

    reads: Reads = {"target": frozenset(("source",))}

    def __init__(self, settings: MasaCtrlSettings) -> None:
        self._settings = settings
        if settings.keys == "union":
            self.kinds: frozenset[LayerKind] = frozenset(("self",))

    def routes(self, layer: Layer, step: Step, is_cond: bool) -> Mapping[str, Route]:
        if self._settings.keys == "union" or not self._is_mutual(layer, step):
            return {}
        return {"target": Route("target", "source", "source")}

    def acts(self, layer: Layer, step: Step, is_cond: bool) -> bool:
        return self._is_mutual(layer, step)

    def outputs(self, call: Call) -> Mapping[str, Tensor]:
        """The union: the target's queries over the keys and values of both."""
        keys, values = (torch.cat([t["source"], t["target"]], dim=1) for t in (call.k, call.v))
        return {"target": call.attend(call.q["target"], keys, values)}

    def _is_mutual(self, layer: Layer, step: Step) -> bool:
        settings = self._settings
        is_late = step.number >= first_step(settings.start_step_share, step.count)
        return is_late and layer.ordinal >= start_layer(settings, layer.count)


def start_layer(settings: MasaCtrlSettings, layers: int) -> int:
    """The first of a model's self-attention layers that the control acts on.

    Raises ValueError when a layer was typed that the model does not have.
    """
    if settings.start_layer == BY_SHARE:
        return first_layer(settings.start_layer_share, layers)
    if not 0 <= settings.start_layer < layers:
        raise ValueError(
            f"start_layer is {settings.start_layer}, but the model has {layers} self-attention "
            f"layers, 0 to {layers - 1}. Type one of them, or {BY_SHARE} to go by "
            "start_layer_share."
        )
    return settings.start_layer


def _make_control(settings: MasaCtrlSettings, inputs: ControlInputs) -> MasaCtrlControl:
    start_layer(settings, inputs.self_layers)
    return MasaCtrlControl(settings)


EDITOR = Editor(
    name="masactrl",
    title="MasaCtrl",
    node_id="ALEMasaCtrl",
    description=(
        "Changes the pose, view or action in an image and keeps its look, without masks: from a "
        "given step and layer on, the edit attends to the source's keys and values. MasaCtrl (ICCV "
        "2023, arXiv 2304.08465), on virtual inversion or on the paper's DDIM inversion."
    ),
    settings=MasaCtrlSettings,
    make_control=_make_control,
    branches=lambda settings: (replace(SOURCE, text=source_text(settings)), TARGET),
    plan=lambda settings: plan_inversion(settings, source_text(settings)),
    paper=PAPER,
)
