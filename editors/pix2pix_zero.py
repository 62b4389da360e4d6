"""pix2pix-zero: the prompt moves along a direction between two sets of sentences, while the
cross-attention maps of the source keep the structure of the image.

Parmar, Singh, Zhang, Li, Lu, Zhu: Zero-shot Image-to-Image Translation, SIGGRAPH 2023 (arXiv
2302.03027). Before each step, the latents of the edit take one step down the gradient of

    L = sum over layers, mean over heads and both halves of guidance of |M - M_source|^2,

M the cross-attention maps. As in the published code, each half of guidance has its own copy of the
latents, and the edit goes on from that of the negative half. So the two halves are branches here:
"away" under the negative prompt, by default the source's, and "target". The source is not guided:
under the same prompt in both halves, guidance does nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..attention.control import Call, Control, Evaluate, Layer, Reads, Step
from ..attention.descent import descend, find_gradient, require_finite
from ..attention.word_maps import query_parts
from ..inversion.stored import TimeSteps
from ..prompts.directions import SentencePair, make_sentences, read_sentences
from .editor import (
    SOURCE,
    BranchPlan,
    ControlInputs,
    Editor,
    SamplingPlan,
    Settings,
    Start,
    guidance_setting,
    setting,
    strength_setting,
)
from .inverted import plan_inversion, time_steps_setting

AWAY, TARGET = "away", "target"
STARTS: tuple[Start, ...] = ("virtual", "DDIM", "direct", "edit-friendly", "regularised")
HALVES = 2


@dataclass(frozen=True)
class Pix2PixZeroSettings(Settings):
    """The defaults are the published code's."""

    unguided: ClassVar[float] = 1.0

    steps: int = setting(
        50, "Number of steps of the inversion and the edit.", min=1, max=1000, step=1
    )
    target_guidance: float = guidance_setting(
        5.0,
        "CFG scale of the edited branch: away from the negative prompt, by default the source's.",
    )
    strength: float = strength_setting(
        "Share of the steps to run, counted from the end. Below 1, the image is not inverted "
        "to pure noise and the edit stays closer to it."
    )
    inversion_method: Start = setting(
        "regularised",
        "How the edit gets from the image to noise. regularised: DDIM, and the noise is made more "
        "like white noise, as in the paper. DDIM: without that. direct: DDIM, and the source "
        "branch follows the image exactly. edit-friendly: DDPM with stored noise maps, and the "
        "source branch follows the image exactly. virtual: without inversion, as in ALE Edit.",
        choices=STARTS,
    )
    time_steps: TimeSteps = time_steps_setting("DDIM")
    attention_guidance: float = setting(
        0.1,
        "How strongly the edit is pulled to the attention maps of the source. Higher: it keeps "
        "more of the structure. 0: not at all, in less than half of the time. SD 2 at 768 pixels: "
        "0.01 or less.",
        min=0.0,
        max=10.0,
        step=0.01,
    )
    source_sentences: str = setting(
        "",
        "Sentences about what the image shows, one a line, in place of the built-in ones around "
        "the source phrases. The paper uses many. Needs target_sentences.",
        multiline=True,
        dynamic_prompts=False,
    )
    target_sentences: str = setting(
        "",
        "Sentences about what it should show, one a line. Needs source_sentences.",
        multiline=True,
        dynamic_prompts=False,
    )


def find_sentences(
    settings: Pix2PixZeroSettings, phrases: tuple[tuple[str, str], ...]
) -> tuple[SentencePair, ...]:
    """The sentences of each direction: the person's own ones make one, or else each edit that
    changes something makes one.

    Raises ValueError where only one side has sentences, and where no edit changes anything.
    """
    source, target = map(read_sentences, (settings.source_sentences, settings.target_sentences))
    if bool(source) != bool(target):
        full, empty = ("source", "target") if source else ("target", "source")
        raise ValueError(
            f"there are {full}_sentences, but {empty}_sentences is empty. Write both, or leave "
            "both empty for the built-in sentences."
        )
    if source:
        return (SentencePair(source, target),)
    if all(source == target for source, target in phrases):
        raise ValueError(
            f"each edit has the same source and target phrase ({', '.join(s for s, _ in phrases)}),"
            " so there is nothing to change. Write what an object becomes as its target phrase."
        )
    return tuple(
        SentencePair(make_sentences(source), make_sentences(target))
        for source, target in phrases
        if source != target
    )


class Pix2PixZeroControl(Control):
    """The guidance by attention maps of one run, and classifier-free guidance between the two
    copies of the latents.

    has_own_negative: whether the negative prompt is another than the source's; its maps are then
    compared with those of the source's latents under the same negative prompt.
    """

    kinds = frozenset(("cross",))
    reads: Reads = {branch: frozenset() for branch in (SOURCE.name, AWAY, TARGET)}

    def __init__(self, settings: Pix2PixZeroSettings, has_own_negative: bool) -> None:
        self._settings = settings
        self._has_own_negative = has_own_negative
        self._inputs: dict[int, tuple[Tensor, Tensor]] = {}  # of each layer, for its maps
        self._losses: list[Tensor] = []
        self._is_keeping = self._is_comparing = self._is_collecting = False
        self._apart: Tensor | None = None

    # -- attention ---------------------------------------------------------------------------------

    def acts(self, layer: Layer, step: Step, is_cond: bool) -> bool:
        return is_cond and (self._is_keeping or self._is_comparing)

    def outputs(self, call: Call) -> Mapping[str, Tensor]:
        """Changes nothing; keeps what a layer's maps are made from, or compares its maps with
        them."""
        (branch,) = call.running
        q, k, number = call.q[branch], call.k[branch], call.layer.ordinal
        if self._is_keeping:
            self._inputs[number] = q.detach(), k.detach()
            return {}
        own_q, own_k = self._inputs[number]
        loss = torch.zeros(len(q), device=q.device)
        for part in query_parts(call, (branch,)):
            difference = call.probs(q[:, part], k) - call.probs(own_q[:, part], own_k)
            loss = loss + difference.square().flatten(1).sum(1)
        if self._is_collecting:  # not where a block is computed again for its gradients
            self._losses.append(loss / call.heads)
        return {}

    # -- optimisation ------------------------------------------------------------------------------

    def optimises(self, step: Step) -> bool:
        return self._settings.attention_guidance > 0

    def optimise(
        self, latents: Mapping[str, Tensor], step: Step, evaluate: Evaluate
    ) -> Mapping[str, Tensor]:
        """One step of gradient descent for each half of guidance."""
        moved = {}
        try:
            self._keep_inputs(SOURCE.name, latents, evaluate)
            for branch in (TARGET, AWAY):
                if branch == AWAY and self._has_own_negative:
                    self._keep_inputs(AWAY, latents, evaluate)
                moved[branch] = self._descend(branch, latents[TARGET], step, evaluate)
        finally:
            self._inputs.clear()
            self._losses.clear()
        self._apart = moved[TARGET] - moved[AWAY]
        return {**latents, **moved}

    def _keep_inputs(self, branch: str, latents: Mapping[str, Tensor], evaluate: Evaluate) -> None:
        """Keep the maps of the source's latents under the text of a branch."""
        self._is_keeping = True
        try:
            evaluate(branch, latents[SOURCE.name])
        finally:
            self._is_keeping = False

    def _descend(self, branch: str, x: Tensor, step: Step, evaluate: Evaluate) -> Tensor:
        x = x.detach().requires_grad_()
        self._is_comparing = True
        try:
            self._is_collecting = True
            try:
                evaluate(branch, x)
            finally:
                self._is_collecting = False
            loss = torch.stack(self._losses).sum(0) / HALVES
            self._losses.clear()
            name = "attention_guidance"
            require_finite(f"loss is {loss.tolist()}", loss, step, name)
            gradient = find_gradient(loss, x, step, name)
        finally:
            self._is_comparing = False
        return descend(x.detach(), gradient, self._settings.attention_guidance, step.sigma).to(x)

    # -- guidance ----------------------------------------------------------------------------------

    def blend(self, denoised: Mapping[str, Tensor], step: Step) -> Mapping[str, Tensor]:
        """Guidance of the predicted noise (x - D) / sigma, as a prediction of the negative half's
        latents, from which the edit goes on."""
        away = denoised[AWAY]
        change = denoised[TARGET] - away
        if self._apart is not None:
            change = change - self._apart.to(away)
        guided = away + self._settings.target_guidance * change
        return {**denoised, AWAY: guided, TARGET: guided}

    def blend_latents(self, latents: Mapping[str, Tensor], step: Step) -> Mapping[str, Tensor]:
        return {**latents, TARGET: latents[AWAY]}


def pix2pix_zero_control(
    settings: Pix2PixZeroSettings, inputs: ControlInputs
) -> Pix2PixZeroControl:
    """The control of one run."""
    return Pix2PixZeroControl(settings, inputs.has_own_negative)


def plan_sampling(settings: Pix2PixZeroSettings) -> SamplingPlan:
    """With the convention of its published inversion."""
    return replace(plan_inversion(settings), convention="own level")


EDITOR = Editor(
    name="pix2pix-zero",
    title="pix2pix-zero",
    node_id="ALEPix2PixZero",
    description=(
        "Edits an image along the direction between sentences about the source and about the "
        "target, without masks and without a target prompt; the attention maps of the source keep "
        "the structure. Slow, as it computes gradients. pix2pix-zero (SIGGRAPH 2023, arXiv "
        "2302.03027)."
    ),
    settings=Pix2PixZeroSettings,
    make_control=pix2pix_zero_control,
    branches=lambda settings: (
        BranchPlan(SOURCE.name, "source", "unguided"),
        BranchPlan(AWAY, "negative", "unguided"),
        BranchPlan(TARGET, "target", "unguided"),
    ),
    plan=plan_sampling,
    find_sentences=find_sentences,
    negative=None,
)
